"""Memory is reused, and never while anything still looks at it."""

import gc
import multiprocessing
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.faces import address

from flm_jax.data.memory import BatchMemory, WorkerMemory

SHAPE = (4, 64, 64, 3)
LAYOUT = {"image": (SHAPE, np.float32), "index": ((4,), np.int32)}

linux = pytest.mark.skipif(sys.platform != "linux", reason="memfd and /proc are Linux's")


class Threads:
    """Arrays for a thread of this process, and where they lie."""

    def __init__(self):
        self.memory = BatchMemory()

    def take(self):
        arrays = self.memory.take(LAYOUT).arrays
        return arrays, address(arrays["image"])


class Worker:
    """Arrays of a worker as its parent receives them, and where they lie in the worker."""

    def __init__(self):
        self.memory = WorkerMemory()

    def take(self):
        block = self.memory.take(LAYOUT)
        return pickle.loads(pickle.dumps(block)).receive(), block.descriptor


both = pytest.mark.parametrize("kind", [Threads, pytest.param(Worker, marks=linux)])


@both
def test_it_is_reused_and_grows_to_the_most_in_use_at_a_time(kind):
    memory = kind()
    places = set()
    for _ in range(5):
        taken = [memory.take() for _ in range(3)]
        assert len({place for _, place in taken}) == 3
        for i, (arrays, _) in enumerate(taken):
            assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == LAYOUT
            arrays["image"][:], arrays["index"][:] = i, 10 + i
        for i, (arrays, place) in enumerate(taken):
            assert (arrays["image"] == i).all()
            assert (arrays["index"] == 10 + i).all()
            places.add(place)
        del taken, arrays
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
    arrays, _ = memory.take()
    for array in arrays.values():
        array[:] = 1
    kept = keep(arrays)
    del arrays, array
    gc.collect()
    for _ in range(3):
        for array in memory.take()[0].values():
            array[:] = 2
    assert (np.asarray(kept) == 1).all()


@pytest.mark.parametrize("memory", ["BatchMemory", pytest.param("WorkerMemory", marks=linux)])
def test_the_end_of_the_program_does_not_free_what_is_in_use(memory):
    """A thread or a worker may still write. What is registered first is called last."""
    program = f"""
import atexit
atexit.register(lambda: (memory.take(layout).arrays["a"].fill(1), print(kept["a"].any())))
import pickle
import numpy as np
from flm_jax.data.memory import {memory}
memory = {memory}()
layout = {{"a": ((4,), np.float32)}}
block = memory.take(layout)
if {memory == "WorkerMemory"}:
    block = pickle.loads(pickle.dumps(block))
kept = block.receive()
kept["a"][:] = 0
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def send_from(connection, sent):
    memory = WorkerMemory()
    for value in (5, 6):
        block = memory.take(LAYOUT)
        block.arrays["image"][:] = value
        connection.send(block)
    sent.set()
    connection.recv()  # until it is killed


@linux
def test_what_has_arrived_outlives_its_worker_and_what_has_not_is_told_of():
    context = multiprocessing.get_context("spawn")
    (connection, theirs), sent = context.Pipe(), context.Event()
    process = context.Process(target=send_from, args=(theirs, sent))
    process.start()
    assert sent.wait(120)
    received = connection.recv()
    process.kill()
    process.join()
    assert (received.receive()["image"] == 5).all()
    with pytest.raises(LookupError, match="the worker has ended"):
        connection.recv().receive()
