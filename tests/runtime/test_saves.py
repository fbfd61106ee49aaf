"""Checkpoints that are damaged on disk, and checkpoints that can't be written."""

import contextlib
import resource
import signal

import jax
import numpy as np
import pytest
from support.launches import (
    EVERY_STEP,
    READ_ONLY_CACHE,
    copy_until,
    count_lines,
    finish,
    launch,
    read_log,
    read_state,
    start,
    tiny,
    wait_for,
)
from support.networks import tiny_config

from flm_jax.modes import train
from flm_jax.runtime.checkpoint import Checkpoints, SaveError


def truncate_largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2])


def test_a_damaged_checkpoint_is_reported_set_aside_and_done_without(
    every_step, faces_root, tmp_path
):
    workdir = tmp_path / "work"
    copy_until(5, every_step, workdir)
    truncate_largest_file(workdir / "checkpoints" / "5" / "state")
    output = launch(*tiny(faces_root, workdir, *EVERY_STEP))
    assert "checkpoints/5: the checkpoint is damaged" in output
    assert "damaged_checkpoints/5" in output
    assert "continuing after step 4" in output
    assert (workdir / "damaged_checkpoints" / "5" / "state").is_dir()
    assert read_log(workdir) == read_log(every_step)


def test_with_every_checkpoint_damaged_nothing_starts_over_unasked(
    every_step, faces_root, tmp_path
):
    workdir = tmp_path / "work"
    copy_until(2, every_step, workdir)
    for step in ("1", "2"):
        truncate_largest_file(workdir / "checkpoints" / step / "state")
    output = launch(*tiny(faces_root, workdir, *EVERY_STEP), code=1)
    assert "every checkpoint was damaged, and none is left to continue from" in output
    assert sorted(p.name for p in (workdir / "damaged_checkpoints").iterdir()) == ["1", "2"]


def limit(process, size):
    """Lets no file grow beyond this size, as on a disk that is full."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_save_that_fails_ends_the_run_or_not_and_room_is_used_when_there_is(faces_root, tmp_path):
    # The checkpoints are the only large files, each of one array at least that can't be written
    # whole, the head's of 12 kB: how Orbax spreads the others over files is different every time.
    large, full = tiny(faces_root, tmp_path), 8_000
    process = start(*large, environment=READ_ONLY_CACHE)
    limit(process, full)
    output = finish(process, 1)
    assert "error: " in output
    assert "a checkpoint could not be saved" in output
    assert "mean shape NME" not in output
    # At once: not after the four epochs.
    assert len([row for row in read_log(tmp_path) if "epoch" in row]) < 4
    more = ("--config.checkpoint.on_save_error=continue", "--config.num_epochs=12")
    process = start(*large, *more, environment=READ_ONLY_CACHE)
    limit(process, full)
    wait_for(process, lambda: count_lines(tmp_path / "metrics.jsonl") >= 9)
    limit(process, resource.RLIM_INFINITY)
    assert "warning: " in finish(process)
    step, state = read_state(tmp_path)
    assert step == 24
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("stopped", [False, True])
def test_without_a_last_checkpoint_no_run_succeeds(
    faces_root, tmp_path, monkeypatch, capsys, stopped
):
    """Nor does one that is stopped say that it is saved."""
    received = []

    def fail(*_, **__):
        received.extend([signal.SIGTERM] * stopped)
        raise SaveError("a checkpoint could not be saved")

    monkeypatch.setattr(Checkpoints, "save", fail)
    monkeypatch.setattr(train, "collect_signals", lambda: contextlib.nullcontext(received))
    config = tiny_config(faces_root)
    config.checkpoint.on_save_error = "continue"
    with pytest.raises(SaveError):
        train.run(config, tmp_path)
    output = capsys.readouterr().out
    assert "warning: a checkpoint could not be saved" in output
    assert "which is saved" not in output
    epochs = [row for row in read_log(tmp_path) if "epoch" in row]
    assert len(epochs) == (1 if stopped else 4)
    assert not any((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "evaluation.json").exists()
