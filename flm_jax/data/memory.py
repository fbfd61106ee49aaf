"""Reused memory of batches, in this process or shared with a worker.

Fresh memory is expensive: the kernel zeroes every page on its first write, and meanwhile blocks the
process's other threads. So memory is handed out again as soon as nothing refers to it any more.
"""

import collections
import dataclasses
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

# The shape and the dtype of each array in a block.
Layout = dict[str, tuple[tuple[int, ...], type]]


class Block(NamedTuple):
    """The arrays of a batch, by name, whose memory is reused once nothing refers to them."""

    arrays: dict[str, ndarray]

    def receive(self) -> dict[str, ndarray]:
        return self.arrays


class BatchMemory:
    """Memory for the threads of this process. It grows to the most blocks in use at a time."""

    def __init__(self):
        self._free: collections.deque[ndarray] = collections.deque()

    def take(self, layout: Layout) -> Block:
        """A block with arbitrary values; every block must have the same layout."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(_num_bytes(layout), np.uint8)
        return Block(_lend(memory.data, layout, self._free.append, memory))


def _lend(memory: Any, layout: Layout, give_back: Callable[..., object], *args: object):
    """Arrays on `memory`; `give_back(*args)` is called when nothing refers to them any more."""
    # `memory` is not an ndarray, so every view of this one refers to it and to nothing beyond.
    lease = np.frombuffer(memory, np.uint8)
    weakref.finalize(lease, give_back, *args).atexit = False  # threads may still write at exit
    return _arrays(lease, layout)


def _arrays(memory: ndarray, layout: Layout) -> dict[str, ndarray]:
    """The arrays of a layout, one after the other."""
    found: dict[str, ndarray] = {}
    start = 0
    for name, (shape, dtype) in layout.items():
        stop = start + math.prod(shape) * np.dtype(dtype).itemsize
        found[name] = memory[start:stop].view(dtype).reshape(shape)
        start = stop
    return found


def _num_bytes(layout: Layout) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layout.values())


# A shared block ends with a flag: the worker sets it before it writes, and the parent clears it
# when the block is free.
_FREE, _IN_USE = 0, 1

_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class SharedBlock:
    """A block of a worker; pickled, it arrives in the parent on the same memory.

    It lies in an anonymous file that the worker's descriptor keeps alive and the parent opens in
    /proc: killed processes leave nothing behind, and /dev/shm, small in containers, is not used.

    Attributes:
        layout: of its arrays.
        descriptor: of the file, in the worker.
        file: the mapped file; None if the worker had ended before the block arrived.
    """

    layout: Layout
    descriptor: int
    file: mmap.mmap | None

    @property
    def arrays(self) -> dict[str, ndarray]:
        """The arrays, for the worker."""
        assert self.file is not None
        return _arrays(np.frombuffer(self.file, np.uint8), self.layout)

    def receive(self) -> dict[str, ndarray]:
        """The arrays, for the parent; the worker may reuse the block when they are gone.

        Raises:
            LookupError: the worker had ended.
        """
        if self.file is None:
            raise LookupError("the worker has ended")
        return _lend(self.file, self.layout, _free, self.file, os.getpid())

    def __reduce__(self):
        return _arrive, (self.layout, self.descriptor, os.getpid())


def _arrive(layout, descriptor, worker) -> SharedBlock:
    # Mapped at once: the worker may have ended when the block's turn comes.
    try:
        with open(f"/proc/{worker}/fd/{descriptor}", "r+b", buffering=0) as opened:
            return SharedBlock(layout, descriptor, mmap.mmap(opened.fileno(), 0))
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return SharedBlock(layout, descriptor, None)


def _free(file, owner):
    if os.getpid() == owner:  # A forked child must not free what its parent uses.
        file[-1] = _FREE


def can_share() -> bool:
    """Whether a parent can open its workers' anonymous files: on Linux, unless it is forbidden."""
    try:
        with open(os.memfd_create("batch"), "wb") as file:
            return os.access(f"/proc/{os.getpid()}/fd/{file.fileno()}", os.W_OK)
    except (AttributeError, OSError):
        return False


class WorkerMemory:
    """Memory that a worker shares with its parent; used like `BatchMemory`. Linux only."""

    def __init__(self):
        self._files: dict[int, mmap.mmap] = {}  # by their descriptors

    def take(self, layout: Layout) -> SharedBlock:
        """A block with arbitrary values, to be sent once; every block must have the same layout."""
        with _lock:
            descriptor = next((d for d, file in self._files.items() if file[-1] == _FREE), None)
            if descriptor is None:
                descriptor = os.memfd_create("batch")
                os.ftruncate(descriptor, _num_bytes(layout) + 1)
                self._files[descriptor] = mmap.mmap(descriptor, 0)
            file = self._files[descriptor]
            file[-1] = _IN_USE
        return SharedBlock(layout, descriptor, file)
