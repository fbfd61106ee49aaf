"""The work folder: whole files, one training at a time, no litter."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
from support.launches import (
    READ_ONLY_CACHE,
    children,
    count_lines,
    launch,
    start,
    tiny,
    wait_for,
    wait_until_gone,
)
from support.networks import tiny_config

from flm_jax.errors import InputError
from flm_jax.modes import train
from flm_jax.runtime import work_folder


def read_lock(workdir):
    return json.loads((workdir / "lock").read_text() or '{"pid": 0}')["pid"]


def test_one_training_at_a_time_whose_lock_and_workers_die_with_it(faces_root, tmp_path):
    long = (*tiny(faces_root, tmp_path), "--config.num_epochs=500")
    first = start(*long, "--config.data.num_workers=2", environment=READ_ONLY_CACHE)
    wait_for(first, lambda: count_lines(tmp_path / "metrics.jsonl") >= 1)
    before = (tmp_path / "config.json").read_bytes()
    output = launch(*tiny(faces_root, tmp_path, "--config.num_epochs=600"), code=1)
    owner = f"process {first.pid} on {socket.gethostname()}"
    assert f"error: {tmp_path}: {owner} trains there" in output
    assert (tmp_path / "config.json").read_bytes() == before
    assert first.poll() is None
    workers = children(first.pid)
    assert len(workers) >= 2
    # Stopped, they can't notice that they are orphans.
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        first.kill()
        first.wait()
        assert all(os.path.exists(f"/proc/{worker}") for worker in workers)
        second = start(*long, environment=READ_ONLY_CACHE)
        wait_for(second, lambda: read_lock(tmp_path) == second.pid)
        second.kill()
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
    wait_until_gone(workers)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text("good")

    def fail(new):
        new.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        work_folder.write_atomically(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]
    assert path.read_text() == "good"


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / (251 * "x" + ".jpg")
    work_folder.write_atomically(path, lambda new: new.write_text("x"))
    assert path.read_text() == "x"


def test_a_training_removes_the_unfinished_files_of_killed_processes_as_it_starts(tmp_path):
    """Before anything else: this one finds no faces."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = {f".flm_jax-{os.getppid()}-01234567-evaluation.json", "config.json", ".hidden", ".git.x"}
    # A user's own, and an editor's.
    own = ("notes.md", "0123456-a", "0123456g-a", "012345678-a", "01234567-", "01234567.a")
    kept |= {f".flm_jax-{ended.pid}-{name}" for name in own}
    kept |= {".999999.notes.txt", ".1st.txt", ".2024.notes", ".2024-notes.md.swp", ".flm_jax-9"}
    for name in (*kept, f".flm_jax-{ended.pid}-0123cdef-loss_curve.png"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="no such folder"):
        train.run(tiny_config(tmp_path / "nowhere"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "lock"}


def test_a_work_folder_that_can_not_be_made_is_named(faces_root):
    """Not by a mode bit, which the superuser does not see."""
    with pytest.raises(InputError, match="--workdir=/proc/work: can't be made"):
        train.run(tiny_config(faces_root), pathlib.Path("/proc/work"))


def test_a_path_that_no_checkpoint_can_have_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="can't be read back from a path with"):
        train.run(tiny_config(tmp_path / "nowhere"), tmp_path / "a[b]")
    assert not list(tmp_path.iterdir())
