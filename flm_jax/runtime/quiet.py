"""Silences libraries that print what this program reports itself."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator


def quiet_libraries() -> None:
    """Silences Orbax, asyncio and TensorStore, by name; all others print as before.

    Orbax logs every step of its work through absl's logger, and every error with a stack trace
    before it raises it. Its first error also closes an event loop: asyncio logs the errors of the
    tasks left in it, and the callbacks of TensorStore's threads fail, for which Python has no
    logger but `sys.unraisablehook`.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _all_but_closed_loops


@contextlib.contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Drops what C libraries write to standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _all_but_closed_loops(error):
    if not (isinstance(error.exc_value, RuntimeError) and "loop is closed" in str(error.exc_value)):
        sys.__unraisablehook__(error)
