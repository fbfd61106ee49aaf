"""A folder that appears complete or not at all: it is filled under another name."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def partial_folder(root: Path) -> Iterator[Path]:
    """A new folder beside `root`, to be filled and renamed to it; removed unless renamed.

    Folders that killed processes left are removed first.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    partial = partial_name(root)
    partial.mkdir()
    held = os.open(partial, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # Until this process ends, however it does.
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(held)


def partial_name(root: Path) -> Path:
    """A new name beside `root`; a folder of that name is removed unless a process locks it."""
    return root.parent / f".{root.name}.{uuid.uuid4().hex}.partial"


def _remove_abandoned(root: Path) -> None:
    for partial in root.parent.glob(f".{root.name}.*.partial"):
        with contextlib.suppress(OSError):  # Another process is filling or removing it.
            held = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial)
            finally:
                os.close(held)
