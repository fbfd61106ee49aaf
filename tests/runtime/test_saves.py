"""Checkpoints that are damaged on disk, and checkpoints that can't be written."""

import re
import resource
import signal

import jax
import numpy as np
from support.launches import (
    EVERY_STEP,
    READ_ONLY_CACHE,
    copy_until,
    count_lines,
    read_log,
    read_state,
    run,
    start,
    steps_in,
    tiny,
    wait_for,
)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_damaged_checkpoint_is_reported_set_aside_and_done_without(
    every_step, faces_root, tmp_path
):
    workdir = tmp_path / "work"
    copy_until(5, every_step, workdir)
    truncate(largest_file(workdir / "checkpoints" / "5" / "state"))
    code, output = run(*tiny(faces_root, workdir, *EVERY_STEP))
    assert code == 0, output
    assert "checkpoints/5: the checkpoint is damaged" in output
    assert "damaged_checkpoints/5" in output
    assert "continuing after step 4" in output
    assert "Traceback" not in output
    assert (workdir / "damaged_checkpoints" / "5" / "state").is_dir()
    assert read_log(workdir) == read_log(every_step)


def test_with_every_checkpoint_damaged_nothing_starts_over_unasked(
    every_step, faces_root, tmp_path
):
    workdir = tmp_path / "work"
    copy_until(2, every_step, workdir)
    for step in (1, 2):
        truncate(largest_file(workdir / "checkpoints" / str(step) / "state"))
    for _ in range(2):
        code, output = run(*tiny(faces_root, workdir, *EVERY_STEP))
        assert code == 1
        assert "every checkpoint was damaged, and none is left to continue from" in output
    assert sorted(p.name for p in (workdir / "damaged_checkpoints").iterdir()) == ["1", "2"]


def test_a_checkpoint_of_another_network_is_refused_and_stays(every_step, faces_root, tmp_path):
    workdir = tmp_path / "work"
    copy_until(2, every_step, workdir)
    code, output = run(*tiny(faces_root, workdir, "--config.model.backbone.width=8"))
    assert code == 1
    assert "model.backbone.width: 4 -> 8" in output
    assert "Traceback" not in output
    assert steps_in(workdir) == [1, 2]
    assert not (workdir / "damaged_checkpoints").exists()


def start_limited(*arguments):
    """Starts a run in which no file may grow beyond FULL bytes, as on a disk that is full."""
    process = start(*arguments, environment=READ_ONLY_CACHE)
    limit(process, FULL)
    return process


def limit(process, size):
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# The checkpoints are the only large files, each of one array at least that can't be written whole:
# how Orbax spreads the others over files is different every time.
LARGE = ("--config.model.backbone.width=32",)
FULL = 20_000


def test_a_save_that_fails_ends_the_run_with_an_error(faces_root, tmp_path):
    process = start_limited(*tiny(faces_root, tmp_path, *LARGE))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "error: " in output
    assert "a checkpoint could not be saved" in output
    assert "Traceback" not in output
    assert "mean shape NME" not in output
    # At once: not after the four epochs.
    assert len([row for row in read_log(tmp_path) if "epoch" in row]) < 4
    code, output = run(*tiny(faces_root, tmp_path, *LARGE))
    assert code == 0, output


def test_without_a_last_checkpoint_no_run_succeeds(faces_root, tmp_path):
    continued = "--config.checkpoint.on_save_error=continue"
    process = start_limited(*tiny(faces_root, tmp_path, *LARGE, continued))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "warning: " in output
    assert re.search("error: .*a checkpoint could not be saved", output)
    assert "Traceback" not in output
    assert "mean shape NME" not in output
    assert len([row for row in read_log(tmp_path) if "epoch" in row]) == 4
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_stopped_run_does_not_say_that_it_is_saved_where_it_is_not(faces_root, tmp_path):
    more = ("--config.checkpoint.on_save_error=continue", "--config.num_epochs=500")
    process = start_limited(*tiny(faces_root, tmp_path, *LARGE, *more))
    wait_for(process, lambda: count_lines(tmp_path / "metrics.jsonl") >= 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert re.search("error: .*a checkpoint could not be saved", output)
    assert "which is saved" not in output


def test_a_run_may_outlast_a_full_disk(faces_root, tmp_path):
    more = ("--config.checkpoint.on_save_error=continue", "--config.num_epochs=30")
    process = start_limited(*tiny(faces_root, tmp_path, *LARGE, *more))
    wait_for(process, lambda: count_lines(tmp_path / "metrics.jsonl") >= 9)
    limit(process, resource.RLIM_INFINITY)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "warning: " in output
    assert "Traceback" not in output
    step, state = read_state(tmp_path)
    assert step == 60
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_work_folder_that_can_not_be_written_is_named(faces_root):
    """Not by a mode bit, which the superuser does not see."""
    code, output = run(*tiny(faces_root, "/proc/work"))
    assert code == 1
    assert "--workdir=/proc/work: can't be made" in output
    assert "Traceback" not in output
