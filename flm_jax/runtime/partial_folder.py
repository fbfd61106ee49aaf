"""A folder that appears whole or not at all: filled beside its place under another name."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def partial_folder(root: Path) -> Iterator[Path]:
    """A new folder beside `root`, to be filled and renamed; where it was not, it is removed.

    What killed processes have left of others is removed first.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    partial = partial_name(root)
    partial.mkdir()
    held = os.open(partial, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # For as long as this process lives.
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(held)


def partial_name(root: Path) -> Path:
    """A new name beside `root`, of what is removed when nobody holds it."""
    return root.parent / f".{root.name}.{uuid.uuid4().hex}.partial"


def _remove_abandoned(root: Path) -> None:
    for partial in root.parent.glob(f".{root.name}.*.partial"):
        with contextlib.suppress(OSError):  # Another process fills it, or removes it.
            held = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial)
            finally:
                os.close(held)
