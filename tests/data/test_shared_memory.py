"""Arrays of workers are handed over with no copy, and their memory is theirs again afterwards."""

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from support.faces import address

from flm_jax.data import shared_memory
from flm_jax.data.shared_memory import WorkerMemory, receive

SHAPE = (4, 64, 64, 3)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def test_linux_has_it():
    assert shared_memory.is_available()


@pytest.mark.parametrize("error", [PermissionError, AttributeError])
def test_where_it_is_forbidden_or_missing_it_is_not_available(monkeypatch, error):
    def create(name):
        raise error

    monkeypatch.setattr(os, "memfd_create", create)
    assert not shared_memory.is_available()


def received_from(sent):
    return receive(pickle.loads(pickle.dumps(sent)))


def filled(worker, value):
    array = worker.empty(SHAPE)
    array[:] = value
    return worker.send(array)


def test_both_look_at_the_same_memory():
    worker = WorkerMemory()
    array = worker.empty(SHAPE)
    assert array.shape == SHAPE
    assert array.dtype == np.float32
    array[:] = np.arange(array.size).reshape(SHAPE)
    received = received_from(worker.send(array))
    np.testing.assert_array_equal(received, array)
    array[1] = 7
    assert (received[1] == 7).all()


def test_what_was_not_sent_is_received_as_it_is():
    array = np.zeros(3, np.float32)
    assert receive(array) is array


def test_jax_need_not_copy_it():
    """On the CPU it looks at memory that begins at a multiple of 64 bytes."""
    assert address(WorkerMemory().empty(SHAPE)) % 64 == 0


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array,
        lambda array: array[2, 1:],
        lambda array: array[0].reshape(-1),
        lambda array: list(array),
        lambda array: memoryview(array),
        lambda array: jax.device_put(array[1]),
    ],
    ids=["array", "view", "view_of_view", "parts", "buffer", "jax"],
)
def test_it_is_kept_for_all_that_refers_to_it(keep):
    worker = WorkerMemory()
    first = filled(worker, 1)
    kept = keep(received_from(first))
    gc.collect()
    for _ in range(3):
        assert filled(worker, 2).descriptor != first.descriptor
    assert (np.asarray(kept) == 1).all()


def test_it_is_used_again_when_nothing_refers_to_it():
    worker = WorkerMemory()
    descriptors = set()
    for value in range(10):
        sent = filled(worker, value)
        descriptors.add(sent.descriptor)
        assert (received_from(sent) == value).all()
    assert len(descriptors) == 1


def test_it_waits_for_its_receiver():
    worker = WorkerMemory()
    sent = [filled(worker, value) for value in range(5)]
    assert [received_from(each)[0, 0, 0, 0] for each in sent] == [0, 1, 2, 3, 4]


def test_threads_never_get_the_same():
    worker = WorkerMemory()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda _: worker.empty((16,)), range(64)))
    assert len({address(array) for array in arrays}) == 64


def test_it_outlives_the_views_of_its_parent():
    worker = WorkerMemory()
    received = received_from(filled(worker, 3))
    del worker
    gc.collect()
    assert (received == 3).all()


def test_a_fork_does_not_end_what_is_in_use():
    worker = WorkerMemory()
    sent = filled(worker, 1)
    kept = received_from(sent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's and Python's, of threads: here none is used.
        fork = os.fork()
    if not fork:
        del kept
        os._exit(0)
    os.waitpid(fork, 0)
    assert worker.send(worker.empty(SHAPE)).descriptor != sent.descriptor
    assert (kept == 1).all()


def test_the_programs_end_does_not_end_what_is_in_use():
    """The worker may still write. What is registered first is called last."""
    program = """
import atexit
atexit.register(lambda: print(worker.send(worker.empty((4,))).descriptor != sent.descriptor))
import pickle
from flm_jax.data.shared_memory import WorkerMemory, receive
worker = WorkerMemory()
sent = worker.send(worker.empty((4,)))
kept = receive(pickle.loads(pickle.dumps(sent)))
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_it_starts_empty_in_another_process():
    memory = WorkerMemory()
    memory.empty(SHAPE)
    assert pickle.loads(pickle.dumps(memory))._files == {}


def send_from(queue, done):
    queue.put(filled(WorkerMemory(), 5))
    done.wait(60)


def test_it_comes_from_another_process_and_stays_after_its_end():
    context = multiprocessing.get_context("spawn")
    queue, done = context.Queue(), context.Event()
    process = context.Process(target=send_from, args=(queue, done))
    process.start()
    received = receive(queue.get(timeout=60))
    process.kill()
    process.join()
    assert (received == 5).all()


def test_what_arrives_after_its_worker_has_ended_is_told_of():
    gone = multiprocessing.get_context("spawn").Process()
    gone.start()
    gone.join()
    pickled = pickle.dumps(SentBy(filled(WorkerMemory(), 1), gone.pid))
    with pytest.raises(FileNotFoundError, match="ended"):
        receive(pickle.loads(pickled))


class SentBy:
    def __init__(self, sent, process):
        self._sent, self._process = sent, process

    def __reduce__(self):
        arrive, (*known, _) = self._sent.__reduce__()
        return arrive, (*known, self._process)
