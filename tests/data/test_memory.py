"""Memory is reused, and never while anything still looks at it."""

import concurrent.futures
import gc
import multiprocessing
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from flm_jax.data.memory import BatchMemory, WorkerMemory

SHAPE = (4, 64, 64, 3)
LAYOUT = {"image": (SHAPE, np.float32), "index": ((4,), np.int32)}

linux = pytest.mark.skipif(sys.platform != "linux", reason="memfd and /proc are Linux's")


def address(array):
    return array.__array_interface__["data"][0]


class Threads:
    """A block for a thread of this process, and where it lies."""

    def __init__(self):
        self.memory = BatchMemory()

    def take(self):
        block = self.memory.take(LAYOUT)
        return block, address(block.arrays["image"])


class Worker:
    """A block of a worker as its parent receives it, and where it lies in the worker."""

    def __init__(self):
        self.memory = WorkerMemory()

    def take(self):
        block = self.memory.take(LAYOUT)
        return pickle.loads(pickle.dumps(block)), block.descriptor


both = pytest.mark.parametrize("kind", [Threads, pytest.param(Worker, marks=linux)])


@both
def test_it_is_reused_and_grows_to_the_most_in_use_at_a_time(kind):
    memory = kind()
    places = set()
    for _ in range(5):
        blocks = [memory.take() for _ in range(3)]
        assert len({place for _, place in blocks}) == 3
        for i, (block, _) in enumerate(blocks):
            assert {name: (array.shape, array.dtype) for name, array in block.arrays.items()} == {
                "image": (SHAPE, np.float32),
                "index": ((4,), np.int32),
            }
            block.arrays["image"][:], block.arrays["index"][:] = i, 10 + i
        for i, (block, place) in enumerate(blocks):
            assert (block.arrays["image"] == i).all()
            assert (block.arrays["index"] == 10 + i).all()
            places.add(place)
        del blocks, block
    assert len(places) == 3


@both
@pytest.mark.parametrize(
    "keep",
    [
        lambda arrays: arrays["index"],
        lambda arrays: arrays["image"][2, 1:],
        lambda arrays: memoryview(arrays["image"]),
        lambda arrays: jax.device_put(arrays["image"]),
        lambda arrays: jax.device_put(arrays["image"])[1:],
    ],
    ids=["array", "view", "buffer", "jax", "jax_view"],
)
def test_it_is_kept_for_all_that_refers_to_it(kind, keep):
    memory = kind()
    block, _ = memory.take()
    for array in block.arrays.values():
        array[:] = 1
    kept = keep(block.arrays)
    del block, array
    gc.collect()
    for _ in range(3):
        for array in memory.take()[0].arrays.values():
            array[:] = 2
    assert (np.asarray(kept) == 1).all()


@linux
def test_jax_need_not_copy_a_workers_images():
    """On the CPU it uses memory that is aligned to 64 bytes in place."""
    block, _ = Worker().take()
    assert address(block.arrays["image"]) % 64 == 0


@linux
def test_threads_of_a_worker_never_get_the_same():
    memory = WorkerMemory()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda _: memory.take(LAYOUT), range(64)))
    assert len({block.descriptor for block in blocks}) == 64


@pytest.mark.parametrize("memory", ["BatchMemory", pytest.param("WorkerMemory", marks=linux)])
def test_the_end_of_the_program_does_not_free_what_is_in_use(memory):
    """A thread or a worker may still write. What is registered first is called last."""
    program = f"""
import atexit
atexit.register(lambda: print(bool(np.shares_memory(taken(), kept.arrays["a"]))))
import pickle
import numpy as np
from flm_jax.data.memory import {memory}
memory = {memory}()
layout = {{"a": ((4,), np.float32)}}
first = memory.take(layout)
kept = pickle.loads(pickle.dumps(first)) if hasattr(first, "descriptor") else first
def taken():
    second = memory.take(layout)
    return kept.arrays["a"] if second is first else second.arrays["a"]
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def send_from(queue, done):
    memory = WorkerMemory()
    for value in (5, 6):
        block = memory.take(LAYOUT)
        block.arrays["image"][:] = value
        queue.put(block)
    done.wait(60)


@linux
def test_what_has_arrived_outlives_its_worker_and_what_has_not_is_told_of():
    context = multiprocessing.get_context("spawn")
    queue, done = context.Queue(), context.Event()
    process = context.Process(target=send_from, args=(queue, done))
    process.start()
    received = queue.get(timeout=60)
    process.kill()
    process.join()
    assert (received.arrays["image"] == 5).all()
    assert queue.get(timeout=60).arrays is None
