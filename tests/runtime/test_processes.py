"""Two processes of `jax.distributed` on this machine: they train, save, restore and evaluate."""

import json
import pathlib
import shutil
import signal
import socket

import pytest
from support.launches import (
    EVERY_STEP,
    copy_until,
    count_lines,
    finish,
    launch,
    read_log,
    start,
    steps_in,
    tiny,
    wait_for,
)

from flm_jax.data import wflw

# launch.py, which also writes the name of every image that it opens into a file of its own.
AUDITED = """
import os, runpy, sys
def audit(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".jpg"):
        with open(f"{os.environ['OPENED']}.{os.getpid()}", "a") as file:
            file.write(f"{arguments[0]}\\n")
sys.addaudithook(audit)
runpy.run_path("launch.py", run_name="__main__")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_two(arguments, **settings):
    """Two processes with a device each."""
    address = f"--coordinator=localhost:{free_port()}"
    return [
        start(*arguments, address, "--num_processes=2", f"--process_id={i}", devices=1, **settings)
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def together(faces_root, tmp_path_factory):
    """The run of `every_step` by two processes, what they printed, and what each opened."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "audited.py").write_text(AUDITED)
    processes = start_two(
        tiny(faces_root, folder / "work", *EVERY_STEP),
        program=folder / "audited.py",
        environment={"OPENED": f"{folder}/opened"},
    )
    outputs = [finish(process) for process in processes]
    opened = [(folder / f"opened.{process.pid}").read_text().splitlines() for process in processes]
    return folder / "work", outputs, opened


def test_two_processes_compute_what_one_does_and_one_writes_and_prints(every_step, together):
    workdir, outputs, _ = together
    assert "on 2 cpu device(s)" in outputs[0]
    expected, found = read_log(every_step), read_log(workdir)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-6)
    figures = [
        json.loads((folder / "evaluation.json").read_text()) for folder in (workdir, every_step)
    ]
    assert figures[0]["num_faces"] == 20
    assert figures[0]["nme"] == pytest.approx(figures[1]["nme"], rel=1e-3)
    assert figures[0]["subsets"] != {}
    names = [
        sorted(path.name.split(".tfevents")[0] for path in folder.iterdir())
        for folder in (workdir, every_step)
    ]
    assert names[0] == names[1]
    assert [row["step"] for row in found if "loss" in row] == list(range(1, 9))
    assert outputs[0].count("mean shape NME") == 1
    assert "epoch" not in outputs[1]
    assert "mean shape NME" not in outputs[1]


def test_each_reads_its_own_share_and_together_every_face(together, faces_root):
    """Of the evaluation: the test images, but for those that process 0 draws in the end."""
    names = [record.image_name for record in wflw.read_list(faces_root, wflw.TEST_LIST)]
    first, second = (
        ["/".join(pathlib.Path(path).parts[-2:]) for path in paths if "test--Drawn" in path]
        for paths in together[2]
    )
    # Batches of 16, half of each to each process; 20 faces, so the second batch is the first's.
    assert sorted(second) == sorted(names[8:16])
    # Process 0 reads every face once more for predictions.png and for worst.png, and at the start,
    # to see whether it can be read, and the head of every image, for its orientation.
    assert sorted(first) == sorted([*names[:8], *names[16:20], *3 * names, *set(names)])


@pytest.mark.parametrize("to_two", [True, False])
def test_a_checkpoint_moves_between_one_process_and_two(
    every_step, together, faces_root, tmp_path, to_two
):
    source, workdir = every_step if to_two else together[0], tmp_path / "work"
    copy_until(3, source, workdir)
    arguments = tiny(faces_root, workdir, *EVERY_STEP)
    processes = start_two(arguments) if to_two else [start(*arguments)]
    output, *_ = [finish(process) for process in processes]
    assert "continuing after step 3" in output
    found, expected = (
        next(row["loss"] for row in read_log(folder) if row["step"] == 4)
        for folder in (workdir, source)
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("heard_by", [0, 1])
def test_all_stop_at_the_same_step_whoever_hears_the_signal(faces_root, tmp_path, heard_by):
    # Few validations, each of which asks by itself.
    arguments = tiny(faces_root, tmp_path, "--config.num_epochs=500", "--config.batch_size=4")
    processes = start_two(arguments)
    wait_for(processes[heard_by], lambda: count_lines(tmp_path / "metrics.jsonl") >= 3)
    processes[heard_by].send_signal(signal.SIGTERM)
    output, _ = [finish(process, 128 + signal.SIGTERM) for process in processes]
    step = steps_in(tmp_path)[-1]
    assert f"stopped by SIGTERM after step {step}, which is saved" in output
    assert max(row["step"] for row in read_log(tmp_path)) == step


def test_a_process_that_fails_ends_the_others(faces_root, tmp_path):
    """No one waits for ever for what will not come."""
    root = tmp_path / "faces"
    shutil.copytree(faces_root, root)
    for record in wflw.read_list(root, wflw.TRAIN_LIST):
        pathlib.Path(record.image_path).write_bytes(b"")
    processes = start_two(tiny(root, tmp_path / "work"))
    outputs = [process.communicate()[0] for process in processes]
    assert all(process.returncode != 0 for process in processes), outputs
    assert any("the file is empty" in output for output in outputs)


def test_half_of_the_flags_is_refused(faces_root, tmp_path):
    output = launch(*tiny(faces_root, tmp_path, "--num_processes=2"), code=1)
    assert "--coordinator, --num_processes and --process_id are given together" in output
