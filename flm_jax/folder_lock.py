"""One training at a time in a work folder: a lock that the kernel drops with its owner."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from flm_jax.errors import InputError

LOCK = "lock"


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """Holds the folder's lock; the file stays, with the last owner's process and host in it.

    A killed process loses it at once. Worker processes do not keep it: they are new programs, and
    Python closes what it has open for those.

    Raises:
        InputError: another process holds it.
    """
    file = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{workdir}: {_owner(file)} trains there; wait for it or stop it, or choose "
                "another --workdir"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(file)


def _owner(file: int) -> str:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):  # It has just begun.
        return "another process"
