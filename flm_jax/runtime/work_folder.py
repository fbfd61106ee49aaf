"""The work folder: created, locked during a training, and written in whole files."""

import contextlib
import fcntl
import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from flm_jax.errors import InputError

LOCK = "lock"

# What `write_atomically` names a file until it is whole.
_UNFINISHED = re.compile(r"\.flm_jax-(\d{1,7})-[0-9a-f]{8}-.+", re.DOTALL)

# Orbax expands the path of a checkpoint as a pattern, and TensorStore takes a backslash for a slash
# and UTF-8 alone.
_NOT_IN_PATHS = re.compile(r"[*?[\\\ud800-\udfff]")


def make(workdir: Path) -> None:
    """Creates the work folder; raises InputError where that is impossible."""
    check_path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={workdir}: can't be made: {error.strerror}") from None


def check_path(workdir: Path) -> None:
    """Raises InputError for a folder whose checkpoints could not be read back."""
    path = str(workdir.absolute())
    if strange := _NOT_IN_PATHS.search(path):
        raise InputError(
            f"--workdir={path!a}: checkpoints can't be read back from a path with {strange[0]!a} "
            "in it; rename the folder, or name a link to it"
        )


def remove_litter(workdir: Path) -> None:
    """Removes unfinished files of `write_atomically` whose processes were killed."""
    for path in workdir.iterdir():
        name = _UNFINISHED.fullmatch(path.name)
        if name and path.is_file() and not _is_alive(int(name[1])):
            path.unlink(missing_ok=True)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """Holds the folder's lock, a file with the owner's process and host.

    A killed process loses it at once, even if its workers live on: Python closes its files in the
    programs that it starts.

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
    except (ValueError, KeyError, TypeError):  # It is just being written.
        return "another process"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a path beside `path` and renames: `path` is never half-written."""
    # The whole name may leave no room for more.
    new = path.with_name(f".flm_jax-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name[-50:]}")
    try:
        write(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
