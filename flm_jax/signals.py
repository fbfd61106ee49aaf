"""SIGINT and SIGTERM, collected instead of raised.

Python raises KeyboardInterrupt wherever it happens to be; inside of an XLA compilation that ends in
a segmentation fault. Here the program looks for itself when it can stop.
"""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in a list; a second one ends the process at once."""
    received: list[int] = []

    def receive(number, frame):
        received.append(number)
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
