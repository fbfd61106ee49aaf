import concurrent.futures
import ctypes
import multiprocessing

import pytest

from flm_jax.data import workers


class Mallinfo2(ctypes.Structure):
    _fields_ = [("values", 10 * ctypes.c_size_t)]

    @property
    def mapped_bytes(self):
        return self.values[4]


def bytes_mapped_for_an_image():
    """Of a new process: the new memory that its next image gets."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo2
    before = mallinfo().mapped_bytes
    image = bytearray(8 << 20)
    return mallinfo().mapped_bytes - before if image else 0


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize(("start", "expected"), [(None, 8 << 20), (workers.start_worker, 0)])
def test_a_worker_keeps_the_memory_of_its_images(start, expected):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, start) as pool:
        found = pool.submit(bytes_mapped_for_an_image).result()
    assert found == pytest.approx(expected, abs=1 << 16)
