"""The command line: what it refuses, and that every config runs."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.launches import ROOT, run, tiny
from support.networks import safetensors_bytes

from flm_jax.data import wflw


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--mode=trian"],
            "value should be one of <benchmark|evaluate|export|predict|prepare|preview|train>",
        ),
        (["--config.batchsize=3"], "batchsize"),
        (["--config.batch_size=many"], "many"),
        (["--config.data.root=nowhere", "--config.data.drawn.train=0"], "wywu.github.io"),
        (["--mode=evaluate"], "no checkpoint there; train first"),
        (["--config.batch_size=7000"], "batch_size=7000 exceeds the"),
    ],
)
def test_a_wrong_command_is_refused_with_one_message(faces_root, tmp_path, arguments, message):
    code, output = run(*tiny(faces_root, tmp_path / "work"), *arguments)
    assert code != 0
    assert message in output
    assert "Traceback" not in output


def test_a_config_that_is_not_there_is_refused():
    code, output = run(config="nowhere")
    assert code == 1
    assert "configs/nowhere.py" in output
    assert "Traceback" not in output
    process = subprocess.run(
        [sys.executable, "launch.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "--config" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_broken_image_ends_the_run_with_its_line(faces_root, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(faces_root, root)
    record = wflw.read_list(root, wflw.TRAIN_LIST)[0]
    pathlib.Path(record.image_path).write_bytes(b"")
    code, output = run(
        *tiny(root, tmp_path / "work"),
        "--config.data.num_workers=2",
        "--config.data.validation_fraction=0.1",
    )
    assert code == 1
    assert f"{wflw.TRAIN_LIST}:1: {record.image_name}: the file is empty" in output
    assert "Traceback" not in output


def test_a_broken_line_ends_the_run_with_its_number(faces_root, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(faces_root, root)
    path = root / wflw.TRAIN_LIST
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace(" ", "  x ", 1)
    path.write_text("\n".join(lines) + "\n")
    code, output = run(*tiny(root, tmp_path / "work"))
    assert code == 1
    assert f"error: {path}:5: 208 fields, expected 207" in output
    assert "Traceback" not in output


def test_every_config_is_launched_here():
    tested = {f"{name.partition(':')[0]}.py" for name in ["demo", *RECIPES]}
    configs = {path.name for path in (ROOT / "configs").glob("*.py")} - {"__init__.py"}
    assert configs == tested


RECIPES = [
    "wflw_resnet50",
    "wflw_resnet50_strong",
    "wflw_resnet50_48px",
    "wflw_resnet18_128px",
    "ladder:adamw",
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_a_step(faces_root, tmp_path, recipe):
    """At 32 px: one step, validation, checkpoint, evaluation. ResNet-50 is whole in one alone."""
    whole = recipe == "wflw_resnet50"
    code, output = run(
        *([] if whole else ["--config.model.backbone.stage_sizes=(1,1,1,1)"]),
        "--config.model.backbone.width=8",
        f"--workdir={tmp_path}",
        f"--config.data.root={faces_root}",
        "--config.data.image_size=32",
        "--config.batch_size=32",
        "--config.num_epochs=1",
        config=recipe,
    )
    assert code == 0, output
    assert "epoch   1: training loss" in output
    assert (tmp_path / "evaluation.json").exists()


def test_pretrained_weights_that_do_not_fit_are_refused(faces_root, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors_bytes({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}))
    code, output = run(*tiny(faces_root, tmp_path / "work"), f"--config.model.pretrained={path}")
    assert code == 1
    assert "error: model.pretrained: the file lacks" in output
    assert "Traceback" not in output


def test_the_demo_draws_its_faces(tmp_path):
    code, output = run(
        f"--workdir={tmp_path}",
        *["--config.data.drawn.train=24", "--config.data.drawn.test=6", "--config.num_epochs=1"],
        *["--config.batch_size=8", "--config.data.image_size=32"],
        *["--config.model.backbone.width=4", "--config.model.backbone.stage_sizes=(1,1)"],
    )
    assert code == 0, output
    assert len(wflw.read_list(tmp_path / "faces", wflw.TRAIN_LIST)) == 24
    assert len(wflw.read_list(tmp_path / "faces", wflw.TEST_LIST)) == 6
