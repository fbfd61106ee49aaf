"""A folder that appears whole or not at all: filled beside its place under another name."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from flm_jax.errors import InputError


def landing(root: Path) -> Path:
    """Where a folder has to be renamed to in order to become `root`: links are followed.

    Raises:
        InputError: nothing can be renamed to it, as it is a mount point.
    """
    place = root.resolve()
    if place.is_dir():
        try:
            place.rename(place / "itself")  # Never possible, and a mount point says why.
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EBUSY):
                raise InputError(
                    f"{root}: is a mount point, which can't be replaced; name a folder in it"
                ) from None
    return place


@contextlib.contextmanager
def partial_folder(root: Path, resume: str | None = None) -> Iterator[Path]:
    """A temporary folder beside `root` that the caller fills and renames to `root`.

    Unless it was renamed, it is deleted on exit. What killed processes left is removed first.

    Args:
        root: the folder that shall appear.
        resume: names what the folder will hold, by numbers with - between them. A folder of that
            name is kept when filling it fails, and is handed out again, with what it holds, unless
            another process fills it.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    kept = root.parent / f".{root.name}.{resume}.partial" if resume else None
    _remove_abandoned(root, kept)
    held = _hold(kept) if kept else None
    partial = kept if kept and held is not None else partial_name(root)
    while held is None:
        partial = partial_name(root)
        held = _hold(partial)
    try:
        partial.mkdir(exist_ok=True)
        yield partial
    finally:
        if partial != kept or root.exists():
            shutil.rmtree(partial, ignore_errors=True)
        _release(partial, held)


def partial_name(root: Path) -> Path:
    """A new name beside `root`, of what is removed when nobody holds it."""
    return root.parent / f".{root.name}.{uuid.uuid4().hex}.partial"


def _hold(partial: Path) -> int | None:
    """Locks a file beside the folder, for as long as this process lives; None where another process
    holds it. NFS locks no folder, and no file that is not written."""
    path = f"{partial}.lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed it meanwhile.
        if os.path.samestat(os.fstat(held), os.stat(path)):
            return held
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(held)
        raise
    os.close(held)
    return None


def _release(partial: Path, held: int) -> None:
    Path(f"{partial}.lock").unlink(missing_ok=True)
    os.close(held)


def _remove_abandoned(root: Path, kept: Path | None) -> None:
    name = rf"(\.{re.escape(root.name)}\.([0-9a-f]{{32}}|\d+(-\d+)+)\.partial)(\.lock)?"
    for path in sorted(root.parent.iterdir()):
        if not (own := re.fullmatch(name, path.name)):
            continue
        partial = path.with_name(own[1])
        if partial != kept and (held := _hold(partial)) is not None:
            shutil.rmtree(partial, ignore_errors=True)
            _release(partial, held)
