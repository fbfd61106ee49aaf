"""Memory of batches that is used again.

New memory costs more than it seems: the kernel zeroes every page when it is first written, and
makes the process's other threads wait for it meanwhile. A loader of two threads has twice the
images a second without.
"""

import collections
import math
import mmap
import weakref
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray


class BatchMemory:
    """Gives arrays, in the memory of those that nothing refers to any more.

    It holds as many as were in use at a time. Safe for threads; in another process it starts empty.
    """

    def __init__(self):
        self._free: collections.deque[ndarray] = collections.deque()

    def empty(self, shape: tuple[int, ...]) -> Float[ndarray, "..."]:
        """A float32 array of any values, always of the same size in bytes."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(4 * math.prod(shape), np.uint8)
        return lend(memory.data, shape, self._free.append, memory)

    def send(self, array: ndarray) -> ndarray:
        """The array as it is: its reader is in this process, or gets a copy."""
        return array

    def __reduce__(self):
        return BatchMemory, ()


def lend(
    memory: memoryview | mmap.mmap,
    shape: tuple[int, ...],
    take_back: Callable[..., object],
    *arguments: object,
    offset: int = 0,
) -> Float[ndarray, "..."]:
    """A float32 array that looks at the memory, from `offset` bytes on.

    `take_back(*arguments)` is called when nothing refers to the array any more, nor to its views.
    """
    # Views of the array refer to the lease, since its own base is no array that they could refer
    # to instead. So it ends with the last of them, JAX's included.
    lease = np.frombuffer(memory, np.float32, offset=offset)
    finalizer = weakref.finalize(lease, take_back, *arguments)
    finalizer.atexit = False  # Or else it would end with the program, in use or not.
    return lease.reshape(shape)
