"""Folders that are filled once in a run of the tests, whichever of its processes comes first."""

import fcntl
import os
import shutil


def filled_once(tmp_path_factory, name, fill):
    """The folder `name` after `fill(folder)`, the same one for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            fill(folder)
            done.touch()
    return folder
