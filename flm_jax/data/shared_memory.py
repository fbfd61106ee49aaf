"""Memory of arrays that a worker process writes and its parent reads, with no copy between.

Each array lies in a file of memory without a name, which its process's descriptor alone keeps: the
parent opens it in /proc, nothing is left over when processes are killed, and it takes nothing of
/dev/shm, which containers have little of.
"""

import dataclasses
import math
import mmap
import os
import threading

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.data.batch_memory import lend

# Before the array, so that it begins at a page: whether it is in use. The worker sets it before it
# writes; the parent clears it when nothing refers to the array any more.
_HEADER = mmap.PAGESIZE
_FREE, _IN_USE = 0, 1


@dataclasses.dataclass(frozen=True)
class Sent:
    """An array of a worker. Its memory is opened as it arrives: the worker may have ended when its
    turn comes.

    Attributes:
        shape: of the array.
        descriptor: of its memory, in the process that has sent it.
        file: its memory, where it has arrived; None where the worker had ended before.
    """

    shape: tuple[int, ...]
    descriptor: int
    file: mmap.mmap | None = None

    def __reduce__(self):
        return _arrive, (self.shape, self.descriptor, os.getpid())


def _arrive(shape, descriptor, process):
    try:
        with open(f"/proc/{process}/fd/{descriptor}", "r+b", buffering=0) as opened:
            return Sent(shape, descriptor, mmap.mmap(opened.fileno(), 0))
    except (FileNotFoundError, PermissionError, ProcessLookupError):  # As the system tells of it.
        return Sent(shape, descriptor)


def receive(sent: Sent | ndarray) -> Float[ndarray, "..."]:
    """The array, in memory that is the worker's again when nothing refers to it; or what was not
    sent, as it is.

    Raises:
        FileNotFoundError: the worker had ended before it arrived.
    """
    if not isinstance(sent, Sent):
        return sent
    if sent.file is None:
        raise FileNotFoundError("the worker has ended")
    return lend(sent.file, sent.shape, _free, sent.file, os.getpid(), offset=_HEADER)


def is_available() -> bool:
    """Whether there are such files: on Linux, where nothing forbids them."""
    try:
        with open(os.memfd_create("batch"), "wb") as file:
            return os.access(f"/proc/{os.getpid()}/fd/{file.fileno()}", os.W_OK)
    except (AttributeError, OSError):
        return False


class WorkerMemory:
    """A worker's arrays, in the memory of those that its parent is done with.

    It holds as many as were in use at a time. Safe for threads; in another process it starts empty.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._files: dict[int, mmap.mmap] = {}  # by their descriptors
        self._descriptors: dict[int, int] = {}  # by the addresses of their arrays

    def empty(self, shape: tuple[int, ...]) -> Float[ndarray, "..."]:
        """A float32 array of any values, always of the same size in bytes, to be sent once."""
        with self._lock:
            free = (each for each, file in self._files.items() if file[0] == _FREE)
            descriptor = next(free, None)
            if descriptor is None:
                descriptor = os.memfd_create("batch")
                os.ftruncate(descriptor, _HEADER + 4 * math.prod(shape))
                file = self._files[descriptor] = mmap.mmap(descriptor, 0)
                self._descriptors[_address(_array(file))] = descriptor
            file = self._files[descriptor]
            file[0] = _IN_USE
        return _array(file).reshape(shape)

    def send(self, array: Float[ndarray, "..."]) -> Sent:
        """One of these arrays, as the parent is to receive it."""
        return Sent(array.shape, self._descriptors[_address(array)])

    def __reduce__(self):
        return WorkerMemory, ()


def _free(file, owner):
    if os.getpid() == owner:  # A fork has the finalizer too, and no say.
        file[0] = _FREE


def _array(file):
    return np.frombuffer(file, np.float32, offset=_HEADER)


def _address(array):
    return array.__array_interface__["data"][0]
