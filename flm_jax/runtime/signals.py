"""Signals that stop: the first asks to stop where that is safe, the second quits at once.

Python's KeyboardInterrupt may come anywhere; inside an XLA compilation it ends in a segmentation
fault. So training asks between its steps whether to stop.

A Python handler runs only when the main thread returns from C, which takes minutes while XLA
compiles. So the signal's number goes through a pipe to a thread.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from flm_jax.runtime.log import write_error

# Besides Ctrl-C and `kill`: a terminal that is closed, and Slurm's warning (--signal=USR1@60).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

# `timeout` sends a signal to its command and again to the group that both are in.
_SAME_WITHIN = 0.1  # seconds


@contextlib.contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects the first of `SIGNALS` in a list; a second one ends the process at once."""
    received: list[int] = []
    with _handled(received.append):
        yield received


@contextlib.contextmanager
def exit_on_signals(remark: str) -> Iterator[None]:
    """Ends the process at the first of `SIGNALS` with 128 + its number, and a remark."""

    def leave(number: int) -> None:
        write_error(f"\nstopped by {signal.Signals(number).name}: {remark}\n")
        os._exit(128 + number)

    with _handled(leave):
        yield


@contextlib.contextmanager
def _handled(at_first: Callable[[int], None]) -> Iterator[None]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        first = None
        while number := ord(os.read(reading, 1)):
            if number not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                at_first(number)
            elif time.monotonic() - first > _SAME_WITHIN:
                os._exit(128 + number)

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    # Python writes to the pipe only for signals that have a Python handler.
    # Under `nohup` the end of a session is none of the process.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    previous = {number: signal.signal(number, lambda *_: None) for number in {*SIGNALS} - ignored}
    previous_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_pipe)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.write(writing, b"\0")
        watcher.join()
        os.close(reading)
        os.close(writing)
