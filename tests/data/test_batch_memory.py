"""Memory is used again, and never while anything still looks at it."""

import gc
import math
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.faces import address

from flm_jax.data.batch_memory import BatchMemory

SHAPE = (4, 256, 256, 3)  # Large enough for JAX to look at the memory itself, where it may.


def test_it_is_used_again_when_nothing_refers_to_it():
    memory = BatchMemory()
    first = memory.empty(SHAPE)
    assert first.shape == SHAPE
    assert first.dtype == np.float32
    place = address(first)
    del first
    assert address(memory.empty(SHAPE)) == place


def aligned(num_bytes):
    """Memory that JAX does not copy from, but looks at, on the CPU."""
    whole = np.empty(num_bytes + 64, np.uint8)
    return whole[-whole.ctypes.data % 64 :][:num_bytes]


@pytest.mark.parametrize("new", [aligned, lambda num_bytes: np.empty(num_bytes, np.uint8)])
def test_it_is_kept_for_an_array_for_its_views_and_for_jax(new):
    memory = BatchMemory()
    memory._free.append(new(4 * math.prod(SHAPE)))
    for keep in (
        lambda array: array,
        lambda array: array[2, 1:],
        lambda array: array.reshape(2, 2, *SHAPE[1:]),
        lambda array: memoryview(array),
        lambda array: jax.device_put(array.reshape(1, *SHAPE)),
        lambda array: jax.device_put(array)[1:],
    ):
        array = memory.empty(SHAPE)
        array[:] = np.arange(array.size).reshape(SHAPE)
        kept = keep(array)
        expected = np.array(kept)
        del array
        gc.collect()
        for _ in range(3):
            memory.empty(SHAPE)[:] = -1
        np.testing.assert_array_equal(np.asarray(kept), expected)


def test_the_programs_end_does_not_end_what_is_in_use():
    """Threads may still write to it. What is registered first is called last."""
    program = """
import atexit
atexit.register(lambda: print(np.shares_memory(memory.empty((4,)), kept)))
import numpy as np
from flm_jax.data.batch_memory import BatchMemory
memory = BatchMemory()
kept = memory.empty((4,))
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_more_is_held_than_was_in_use_at_a_time():
    memory = BatchMemory()
    places = set()
    for _ in range(5):
        arrays = [memory.empty(SHAPE) for _ in range(3)]
        assert len({address(array) for array in arrays}) == 3
        places |= {address(array) for array in arrays}
        del arrays
    assert len(places) == 3


def test_another_process_starts_with_its_own():
    memory = BatchMemory()
    array = memory.empty(SHAPE)
    place = address(array)
    del array
    assert len(pickle.dumps(memory)) < 200
    other = pickle.loads(pickle.dumps(memory)).empty(SHAPE)
    assert address(other) != place
