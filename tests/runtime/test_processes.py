"""Two processes of `jax.distributed` on this machine: they train, save, restore and evaluate."""

import json
import pathlib
import shutil
import signal
import socket

import numpy as np
import pytest
from support.launches import (
    EVERY_STEP,
    copy_until,
    count_lines,
    read_log,
    run,
    start,
    steps_in,
    tiny,
    wait_for,
)

from flm_jax.data import wflw

# Writes the name of every picture that a process opens into a file of its own.
AUDIT = """
import os, sys
_files = os.environ.get("OPENED")
if _files:
    def _audit(event, arguments):
        if event == "open" and str(arguments[0]).endswith(".jpg"):
            with open(f"{_files}.{os.getpid()}", "a") as file:
                file.write(f"{arguments[0]}\\n")
    sys.addaudithook(_audit)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_two(arguments, devices=(1, 1), **settings):
    address = f"--coordinator=localhost:{free_port()}"
    return [
        start(
            *arguments,
            *[address, "--num_processes=2", f"--process_id={i}"],
            devices=devices[i],
            **settings,
        )
        for i in range(2)
    ]


def finish(processes, code=0):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [code, code], "\n\n".join(outputs)
    return outputs


@pytest.fixture(scope="module")
def alone(faces_root, tmp_path_factory):
    """One process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "work"
    code, output = run(*tiny(faces_root, workdir, *EVERY_STEP), devices=2)
    assert code == 0, output
    return workdir


@pytest.fixture(scope="module")
def together(faces_root, tmp_path_factory):
    """Two processes with a device each, and what each of them opened."""
    folder = tmp_path_factory.mktemp("together")
    workdir = folder / "work"
    (folder / "sitecustomize.py").write_text(AUDIT)
    environment = {"PYTHONPATH": str(folder), "OPENED": str(folder / "opened")}
    outputs = finish(start_two(tiny(faces_root, workdir, *EVERY_STEP), environment=environment))
    return workdir, outputs


def test_two_processes_compute_what_one_does(alone, together):
    workdir, outputs = together
    assert "on 2 cpu device(s)" in outputs[0]
    expected, found = read_log(alone), read_log(workdir)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-6)
    figures = [json.loads((folder / "evaluation.json").read_text()) for folder in (workdir, alone)]
    assert figures[0]["num_faces"] == 20
    assert figures[0]["nme"] == pytest.approx(figures[1]["nme"], rel=1e-3)
    assert figures[0]["subsets"] != {}


def test_each_reads_its_own_share_and_together_every_face(together, faces_root):
    """Of the evaluation: the test pictures, but for those that process 0 draws in the end."""
    workdir, _ = together
    names = [record.image_name for record in wflw.read_list(faces_root, wflw.TEST_LIST)]
    opened = [
        [line for line in path.read_text().splitlines() if "test--Drawn" in line]
        for path in workdir.parent.glob("opened.*")
    ]
    opened = sorted((lines for lines in opened if lines), key=len)
    assert len(opened) == 2
    second, first = ([str(pathlib.Path(*pathlib.Path(p).parts[-2:])) for p in o] for o in opened)
    # Batches of 16, half of each to each process; 20 faces, so the second batch is the first's.
    assert sorted(second) == sorted(names[8:16])
    # Process 0 reads every picture once more for predictions.png, and for worst.png.
    assert sorted(first) == sorted([*names[:8], *names[16:20], *names, *names])


def test_only_one_writes_and_prints(together, alone):
    workdir, outputs = together
    names = [
        sorted(path.name.split(".tfevents")[0] for path in folder.iterdir())
        for folder in (workdir, alone)
    ]
    assert names[0] == names[1]
    steps = [row["step"] for row in read_log(workdir) if "loss" in row]
    assert steps == list(range(1, 9))
    assert outputs[0].count("mean shape NME") == 1
    assert "epoch" not in outputs[1]
    assert "mean shape NME" not in outputs[1]


@pytest.mark.parametrize("to_two", [True, False])
def test_a_checkpoint_moves_between_one_process_and_two(
    alone, together, faces_root, tmp_path, to_two
):
    source = alone if to_two else together[0]
    workdir = tmp_path / "work"
    copy_until(3, source, workdir)
    arguments = tiny(faces_root, workdir, *EVERY_STEP)
    if to_two:
        outputs = finish(start_two(arguments))
    else:
        code, output = run(*arguments, devices=2)
        assert code == 0, output
        outputs = [output]
    assert "continuing after step 3" in outputs[0]
    losses = [
        next(row["loss"] for row in read_log(folder) if row["step"] == 4)
        for folder in (workdir, source)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("heard_by", [0, 1])
def test_all_stop_at_the_same_step_whoever_hears_the_signal(faces_root, tmp_path, heard_by):
    # Eleven steps an epoch: few of them are followed by a validation, which asks by itself.
    arguments = tiny(faces_root, tmp_path, "--config.num_epochs=500", "--config.batch_size=4")
    processes = start_two(arguments)
    wait_for(processes[heard_by], lambda: count_lines(tmp_path / "metrics.jsonl") >= 3)
    processes[heard_by].send_signal(signal.SIGTERM)
    outputs = finish(processes, 128 + signal.SIGTERM)
    (step,) = steps_in(tmp_path)[-1:]
    assert f"stopped by SIGTERM after step {step}, which is saved" in outputs[0]
    assert max(row["step"] for row in read_log(tmp_path)) == step
    assert "Traceback" not in "".join(outputs)


def test_a_process_that_fails_ends_the_others(faces_root, tmp_path):
    """No one waits for ever for what will not come."""
    root = tmp_path / "faces"
    shutil.copytree(faces_root, root)
    for record in wflw.read_list(root, wflw.TRAIN_LIST):
        pathlib.Path(record.image_path).write_bytes(b"")
    processes = start_two(tiny(root, tmp_path / "work"))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode != 0 for process in processes), outputs
    assert any("the file is empty" in output for output in outputs)


def test_half_of_the_flags_is_refused(faces_root, tmp_path):
    code, output = run(*tiny(faces_root, tmp_path, "--num_processes=2"))
    assert code == 1
    assert "--coordinator, --num_processes and --process_id are given together" in output
    assert np.all("Traceback" not in output)
