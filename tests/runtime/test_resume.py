"""N steps, a restart and N more are 2 N steps; on other devices nearly so."""

import shutil

import pytest
from test_metrics_writer import read_events
from test_train import read_log, run, tiny

from flm_jax.runtime.checkpoint import Checkpoints

EVERY_STEP = (
    "--config.checkpoint.every_steps=1",
    "--config.checkpoint.keep_last=100",
    "--config.ema_decay=0.9",
    "--config.data.augmentation.rotation.probability=0.5",
    "--config.data.augmentation.paste.probability=0.5",
)


def steps_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def run_recorded(workdir, *arguments, **settings):
    """Runs, and returns its output and a checksum of every batch that was trained on."""
    batches = workdir.parent / f"{workdir.name}_batches"
    batches.unlink(missing_ok=True)
    program = "tests/recorded_launch.py"
    code, output = run(*arguments, program=program, environment={"BATCHES": batches}, **settings)
    assert code == 0, output
    return output, batches.read_text().splitlines()


def read_checkpoint(workdir):
    """The last one's step, arrays (by types, shapes and checksums), progress, and the best one.

    That the checksums are those of the values is shown in test_checkpoint.py.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    last, best = checkpoints.find("last"), checkpoints.find("best")
    described = checkpoints._read(last)
    found = last, described["checksums"]["arrays"], described["progress"], best
    found += (checkpoints._loss(best),)
    checkpoints.close()
    return found


@pytest.fixture(scope="module")
def undisturbed(faces_root, tmp_path_factory):
    """Four epochs of two steps, with a checkpoint after each."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "work"
    _, batches = run_recorded(workdir, *tiny(faces_root, workdir, *EVERY_STEP))
    assert len(batches) == 8
    return workdir, batches


def copy_until(step, workdir, copy):
    """The work folder as it is where a run was killed in the third step after a checkpoint."""
    shutil.copytree(workdir, copy)
    for folder in (copy / "checkpoints").iterdir():
        if int(folder.name) > step:
            shutil.rmtree(folder)
    log = copy / "metrics.jsonl"
    rows = [row for row in log.read_text().splitlines(keepends=True)]
    log.write_text("".join(rows[: 2 * step]) + rows[2 * step][:20])
    for result in copy.glob("evaluation*"):
        result.unlink()


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_changes_nothing(undisturbed, faces_root, tmp_path, step, workers):
    """Neither in the middle of an epoch, after step 3, nor at its edge, after step 4."""
    expected, all_batches = undisturbed
    workdir = tmp_path / "work"
    copy_until(step, expected, workdir)
    assert read_log(expected)[: 2 * step] != []
    output, batches = run_recorded(
        workdir, *tiny(faces_root, workdir, *EVERY_STEP, f"--config.data.num_workers={workers}")
    )
    assert f"continuing after step {step}" in output
    assert batches == all_batches[step:]
    assert read_checkpoint(workdir) == read_checkpoint(expected)
    assert read_log(workdir) == read_log(expected)
    events = [
        [event[:3] for event in read_events(folder) if event[1] != "images_per_second"]
        for folder in (workdir, expected)
    ]
    assert events[0] == events[1] != []
    results = [(folder / "evaluation.json").read_text() for folder in (workdir, expected)]
    assert results[0] == results[1]


def next_loss(workdir, faces_root, devices, step):
    arguments = tiny(faces_root, workdir, *EVERY_STEP)
    code, output = run(*arguments, devices=devices)
    assert code == 0, output
    assert f"on {devices} cpu device(s); continuing after step {step}" in output
    rows = {row["step"]: row for row in read_log(workdir) if "loss" in row}
    return rows[step + 1]["loss"]


@pytest.fixture(scope="module")
def eightfold(faces_root, tmp_path_factory):
    """The same run on eight devices."""
    workdir = tmp_path_factory.mktemp("eightfold") / "work"
    code, output = run(*tiny(faces_root, workdir, *EVERY_STEP), devices=8)
    assert code == 0, output
    return workdir


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (8, 2), (8, 4), (1, 8), (1, 4)])
def test_a_checkpoint_restores_on_other_devices(
    undisturbed, eightfold, faces_root, tmp_path, saved_on, restored_on
):
    source = eightfold if saved_on == 8 else undisturbed[0]
    step = 3
    expected = next(row["loss"] for row in read_log(source) if row["step"] == step + 1)
    copy_until(step, source, tmp_path / "work")
    assert next_loss(tmp_path / "work", faces_root, restored_on, step) == pytest.approx(
        expected, rel=1e-5
    )
