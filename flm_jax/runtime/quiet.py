"""Silences libraries that print what this program reports itself."""

import logging
import sys


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


def _all_but_closed_loops(error):
    if not (isinstance(error.exc_value, RuntimeError) and "loop is closed" in str(error.exc_value)):
        sys.__unraisablehook__(error)
