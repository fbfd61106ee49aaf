"""The whole program on drawn faces, in processes of its own."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--config.batch_size=16",
    "--config.num_epochs=4",
    "--config.data.drawn.train=0",
    "--config.data.image_size=32",
    "--config.data.num_threads=1",
    "--config.model.backbone.stage_sizes=(1,)",
    "--config.model.backbone.width=4",
    "--config.log.every_steps=1",
]


def start(*arguments, config="demo"):
    return subprocess.Popen(
        [sys.executable, "launch.py", f"--config=configs/{config}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments, config="demo"):
    process = start(*arguments, config=config)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def tiny(faces_root, workdir, *arguments):
    return (f"--workdir={workdir}", f"--config.data.root={faces_root}", *TINY, *arguments)


@pytest.fixture(scope="module")
def trained(faces_root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    code, output = run(*tiny(faces_root, workdir))
    assert code == 0, output
    return workdir, output


def read_state(workdir):
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    handler = ocp.StandardCheckpointer()
    return step, handler.restore(workdir / "checkpoints" / str(step) / "state")


def read_log(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def test_a_run_leaves_what_it_promises(trained):
    workdir, output = trained
    names = {path.name for path in workdir.iterdir()}
    promised = {"config.json", "checkpoints", "metrics.jsonl", "loss_curve.png"}
    promised |= {"predictions.png", "evaluation.json", "predictions.npz"}
    assert promised <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.startswith(".") for name in names)
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 16
    for pattern in (r"images/s", r"loss=", r"epoch +4: training loss", r"mean shape NME [\d.]+ %"):
        assert re.search(pattern, output), pattern


def test_the_log_has_every_step_and_every_epoch(trained):
    rows = read_log(trained[0])
    steps = [row["step"] for row in rows if "loss" in row]
    epochs = [row for row in rows if "epoch" in row]
    assert steps == list(range(1, len(steps) + 1))
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    per_epoch = len(steps) // 4
    losses = [row["loss"] for row in rows if "loss" in row]
    assert epochs[1]["training_loss"] == pytest.approx(
        np.mean(losses[per_epoch : 2 * per_epoch]), rel=1e-6
    )
    assert all(row["validation_loss"] > 0 and row["validation_nme"] > 0 for row in epochs)


def test_an_interrupted_run_continues_bit_for_bit(trained, faces_root, tmp_path):
    workdir, _ = trained
    process = start(*tiny(faces_root, tmp_path))
    deadline = time.monotonic() + 240
    log = tmp_path / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "stopped by SIGINT after step" in output
    assert "Traceback" not in output
    stopped, _ = read_state(tmp_path)
    last, expected = read_state(workdir)
    assert 0 < stopped < last

    code, output = run(*tiny(faces_root, tmp_path))
    assert code == 0, output
    assert f"continuing after step {stopped}" in output
    step, state = read_state(tmp_path)
    assert step == last
    leaves, structure = jax.tree.flatten(state)
    expected_leaves, expected_structure = jax.tree.flatten(expected)
    assert structure == expected_structure
    for a, b in zip(leaves, expected_leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    assert read_log(tmp_path) == read_log(workdir)
    evaluations = [(folder / "evaluation.json").read_text() for folder in (tmp_path, workdir)]
    assert evaluations[0] == evaluations[1]


def test_a_finished_run_only_evaluates_again(trained, faces_root):
    workdir, _ = trained
    before = read_log(workdir)
    code, output = run(*tiny(faces_root, workdir))
    assert code == 0, output
    assert "mean shape NME" in output
    assert read_log(workdir) == before


def test_another_recipe_in_a_used_work_folder_is_refused(trained, faces_root):
    workdir, _ = trained
    before = (workdir / "config.json").read_bytes()
    code, output = run(*tiny(faces_root, workdir, "--config.loss.width=10.0"))
    assert code == 1
    assert "loss.width: 5.0 -> 10.0" in output
    assert "Traceback" not in output
    assert (workdir / "config.json").read_bytes() == before
