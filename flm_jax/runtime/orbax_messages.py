"""What Orbax prints and nobody needs.

It tells of an error by raising it, which ends in a message of this project's, and its threads and
libraries print it besides, which would only hide that. It also warns of what is meant to be.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

import absl.logging


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Keeps Orbax's threads from printing the stack traces of what is raised."""
    of_threads, of_callbacks = threading.excepthook, sys.unraisablehook

    def in_thread(error):
        if not is_of_orbax(error.thread):
            of_threads(error)

    def in_callback(error):
        # TensorStore's threads answer an event loop that has ended with the first error.
        if str(error.exc_value) != "Event loop is closed":
            of_callbacks(error)

    threading.excepthook, sys.unraisablehook = in_thread, in_callback
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = of_threads, of_callbacks


def is_of_orbax(thread: threading.Thread | None) -> bool:
    """Whether Orbax has started the thread."""
    return type(thread).__module__.startswith("orbax.")


@contextlib.contextmanager
def no_warning_of_reading() -> Iterator[None]:
    """Orbax warns of a folder that is only read, as of something unexpected."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


@contextlib.contextmanager
def quiet_if_it_fails() -> Iterator[None]:
    """Of a damaged checkpoint every array may fail, and asyncio tells of each with a stack trace,
    some of them when Orbax's tasks are collected at last: then it stays quiet."""
    asyncio_log = logging.getLogger("asyncio")
    level = asyncio_log.level
    asyncio_log.setLevel(logging.CRITICAL)
    yield
    asyncio_log.setLevel(level)
