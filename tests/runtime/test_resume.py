"""N steps, a restart and N more are 2 N steps; on other devices nearly so."""

import pytest
from support.launches import (
    EVERY_STEP,
    copy_until,
    launch,
    read_checkpoint,
    read_events,
    read_log,
    run_recorded,
    tiny,
)


def copy_killed(step, source, workdir):
    """A copy as it is where a run was killed in the third step after a checkpoint."""
    copy_until(step, source, workdir)
    log = workdir / "metrics.jsonl"
    rows = log.read_text().splitlines(keepends=True)
    log.write_text("".join(rows[: 2 * step]) + rows[2 * step][:20])
    for result in workdir.glob("evaluation*"):
        result.unlink()


@pytest.mark.parametrize(("step", "workers"), [(3, 2), (4, 0)])
def test_a_restart_changes_nothing(every_step, faces_root, tmp_path, step, workers):
    """Neither in the middle of an epoch, after step 3, nor at its edge, after step 4."""
    expected, all_batches = every_step, (every_step.parent / "work_batches").read_text().split()
    assert len(all_batches) == 8
    workdir = tmp_path / "work"
    copy_killed(step, expected, workdir)
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


@pytest.mark.parametrize("devices", [1, 4])
def test_a_checkpoint_restores_on_other_devices(every_step, faces_root, tmp_path, devices):
    """Than the two that it was saved on."""
    copy_killed(3, every_step, tmp_path / "work")
    output = launch(*tiny(faces_root, tmp_path / "work", *EVERY_STEP), devices=devices)
    assert f"on {devices} cpu device(s); continuing after step 3" in output
    found, expected = (
        next(row["loss"] for row in read_log(folder) if row["step"] == 4)
        for folder in (tmp_path / "work", every_step)
    )
    assert found == pytest.approx(expected, rel=1e-5)
