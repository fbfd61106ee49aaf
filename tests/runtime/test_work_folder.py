"""The work folder: whole files, one training at a time, no litter."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from support.launches import READ_ONLY_CACHE, children, count_lines, run, start, tiny, wait_for

from flm_jax.runtime import work_folder

LONG = "--config.num_epochs=500"


def test_a_second_run_is_refused_with_the_first_ones_process_and_host(faces_root, tmp_path):
    first = start(*tiny(faces_root, tmp_path, LONG), environment=READ_ONLY_CACHE)
    wait_for(first, lambda: count_lines(tmp_path / "metrics.jsonl") >= 1)
    before = json.loads((tmp_path / "config.json").read_text())
    code, output = run(*tiny(faces_root, tmp_path, "--config.num_epochs=600"))
    assert code == 1
    owner = f"process {first.pid} on {socket.gethostname()}"
    assert f"error: {tmp_path}: {owner} trains there" in output
    assert "Traceback" not in output
    assert json.loads((tmp_path / "config.json").read_text()) == before
    assert first.poll() is None
    first.kill()
    first.communicate(timeout=120)


def test_the_lock_dies_with_its_owner_though_orphans_live(faces_root, tmp_path):
    arguments = tiny(faces_root, tmp_path, LONG, "--config.data.num_workers=2")
    first = start(*arguments, environment=READ_ONLY_CACHE)
    wait_for(first, lambda: count_lines(tmp_path / "metrics.jsonl") >= 1)
    workers = children(first.pid)
    # Stopped, they can't notice that they are orphans.
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        first.kill()
        first.wait(timeout=120)
        assert all(os.path.exists(f"/proc/{worker}") for worker in workers)
        second = start(*tiny(faces_root, tmp_path, LONG), environment=READ_ONLY_CACHE)
        wait_for(second, lambda: json.loads(read_lock(tmp_path))["pid"] == second.pid)
        second.kill()
        second.communicate(timeout=120)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        first.communicate(timeout=120)


def read_lock(workdir):
    return (workdir / "lock").read_text() or '{"pid": 0}'


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


def test_the_unfinished_files_of_killed_processes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = {f".{os.getppid()}.evaluation.json", "config.json", ".hidden", ".git.x"}
    for name in (*kept, f".{ended.pid}.loss_curve.png"):
        (tmp_path / name).write_text("x")
    work_folder.remove_litter(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_training_removes_them_as_it_starts(tmp_path):
    """Before anything else: this one finds no faces."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    workdir = tmp_path / "work"
    workdir.mkdir()
    (workdir / f".{ended.pid}.loss_curve.png").write_text("x")
    code, output = run(*tiny(tmp_path / "nowhere" / "faces", workdir))
    assert code == 1
    assert "no such folder" in output
    assert not list(workdir.glob(".*"))
