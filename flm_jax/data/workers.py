"""What a worker process does first: it leaves stopping to its parent, and ends with it."""

import multiprocessing
import os
import signal
import threading
import time

import cv2


def start_worker(*_: object) -> None:
    """Called in the worker. Signals reach the whole group; the parent decides what they mean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()  # Which may be gone already.
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent has gone, killed or not."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
