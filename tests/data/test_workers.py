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


def bytes_mapped_for_a_picture():
    """Of a new process: what its next picture is given that no picture before it had."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo2
    before = mallinfo().mapped_bytes
    picture = bytearray(8 << 20)
    return mallinfo().mapped_bytes - before if picture else 0


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="it is a matter of glibc, since 2.33"
)
@pytest.mark.parametrize(("start", "expected"), [(None, 8 << 20), (workers.start_worker, 0)])
def test_a_worker_gives_no_pictures_memory_back(start, expected):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, start) as pool:
        found = pool.submit(bytes_mapped_for_a_picture).result()
    assert found == pytest.approx(expected, abs=1 << 16)
