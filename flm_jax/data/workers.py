"""How many cores there are, and what a process that reads pictures does first."""

import multiprocessing
import os
import signal
import threading
import time

import cv2


def num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_worker(*_: object) -> None:
    """Called in the worker: it leaves stopping to its parent, and ends with it.

    Signals reach the whole group; the parent decides what they mean.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start_reading()
    parent = multiprocessing.parent_process()  # Which may be gone already.
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def start_reading() -> None:
    """What a process does first whose own threads read pictures.

    They share the cores already; OpenCV's would only wait for one another. And pictures are to take
    the memory of those before them: glibc gives what a picture had back to the system, which clears
    it for the next one, until a piece as large as this has once been freed. Of pictures of many
    sizes, about 1024 x 768 pixels, that took a quarter of a worker's time.
    """
    cv2.setNumThreads(1)
    bytearray(31 << 20)


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent has gone, killed or not."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
