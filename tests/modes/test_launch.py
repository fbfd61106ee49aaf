"""The command line: what it refuses, and that every config runs."""

import contextlib
import errno
import importlib
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from support.launches import ROOT, launch, start, tiny

import launch as program
from configs import demo
from flm_jax.config import build, schema, weights
from flm_jax.data import wflw
from flm_jax.errors import InputError
from flm_jax.modes import predict, preview, train
from flm_jax.runtime import processes, quiet
from flm_jax.runtime.devices import split_over_devices
from flm_jax.training.state import train_state_shapes
from flm_jax.training.step import pmap_train_step


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--mode=trian", "one of <benchmark|evaluate|export|predict|prepare|preview|train>"),
        ("--config.batchsize=3", "batchsize"),
        ("--config.batch_size=many", "many"),
        ("--mode=evaluate", "no checkpoint there; train first"),
        ("--output=x", "error: --output is for --mode predict"),
    ],
)
def test_a_wrong_command_is_refused_with_one_message(faces_root, tmp_path, argument, message):
    assert message in launch(*tiny(faces_root, tmp_path / "work"), argument, code=1)


@pytest.fixture
def main(monkeypatch):
    """Runs the program in this process, alone, with the flags given; later tests have theirs."""
    monkeypatch.setattr(processes, "connect", lambda *_, **__: None)
    monkeypatch.setattr(quiet, "quiet_libraries", lambda: None)

    def run(*arguments):
        with warnings.catch_warnings():  # ml_collections loads the config so.
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            program.flags.FLAGS(["launch.py", "--config=configs/demo.py", *arguments])
        program.main([])

    with flagsaver.flagsaver():
        yield run


def test_a_full_disk_is_told_in_one_line(main, tmp_path, monkeypatch, capsys):
    errors = [OSError(errno.ENOSPC, "No space left on device")]
    errors.append(IsADirectoryError(errno.EISDIR, "Is a directory", ".new", None, "ced.png"))

    def fill(*_):
        raise errors.pop(0)

    monkeypatch.setattr(preview, "run", fill)
    with pytest.raises(SystemExit, match="1"):
        main("--mode=preview", f"--workdir={tmp_path}")
    assert capsys.readouterr().err == f"error: {tmp_path}: No space left on device\n"
    with pytest.raises(SystemExit, match="1"):
        main("--mode=preview", f"--workdir={tmp_path}")
    assert capsys.readouterr().err == "error: ced.png: Is a directory\n"


def test_a_reader_that_goes_away_changes_no_exit_code(faces_root, tmp_path):
    prepared = f"--config.data.prepared={tmp_path}/faces"
    process = start(*tiny(faces_root, tmp_path / "work", "--mode=prepare", prepared))
    os.close(process._output)
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("mode", "announced"),
    [
        *[("benchmark", True), ("evaluate", True), ("train", True)],
        *[("export", False), ("predict", False), ("prepare", False), ("preview", False)],
    ],
)
def test_only_what_computes_together_takes_the_processes_of_a_job(
    main, monkeypatch, mode, announced
):
    def connect(*_, **given):
        assert given == {"announced": announced}
        raise InputError("seen")

    monkeypatch.setattr(processes, "connect", connect)
    with pytest.raises(SystemExit, match="1"):
        main(f"--mode={mode}")


def test_the_home_folder_may_stand_in_the_paths_of_a_command(main, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(weights, "trained_config", lambda *_: demo.get_config())
    seen = []
    monkeypatch.setattr(predict, "run", lambda _, workdir, **given: seen.append((workdir, given)))
    paths = {name: f"~/{name}" for name in ("input", "output", "boxes")}
    arguments = [f"--{name}={path}" for name, path in {"workdir": "~/work", **paths}.items()]
    main("--mode=predict", *arguments)
    assert seen == [(Path("/home/me/work"), {name: f"/home/me/{name}" for name in paths})]


def test_a_lost_process_is_told_in_one_line(main, monkeypatch, capsys):
    def lose(*_):
        raise ValueError("Gloo")

    monkeypatch.setattr(preview, "run", lose)
    monkeypatch.setattr(processes, "lost_process", lambda error: f"another has ended ({error})")
    with pytest.raises(SystemExit, match="1"):
        main("--mode=preview")
    assert capsys.readouterr().err == "error: another has ended (Gloo)\n"


def test_a_config_that_is_missing_is_refused():
    assert "configs/nowhere.py" in launch(config="nowhere", code=1)
    assert "--config" in launch(config="", code=1)


def test_an_error_in_a_config_file_keeps_its_place_and_a_missing_flag_file_is_a_line(tmp_path):
    (tmp_path / "own.py").write_text("def get_config():\n    import os\n    return os.nothing\n")
    for argument, message in [
        (f"--config={tmp_path}/own.py", f'{tmp_path}/own.py", line 3, in get_config'),
        (f"--flagfile={tmp_path}/none", "error: Unable to open flagfile"),
        ("--config=~/own.py", f"{tmp_path}/own.py"),
    ]:
        command = [sys.executable, "launch.py", argument]
        environment = {**os.environ, "HOME": str(tmp_path)}
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert process.returncode == 1
        assert message in process.stderr
        assert ("Traceback" in process.stderr) == argument.endswith("own.py")


RECIPES = {path.stem for path in (ROOT / "configs").glob("[a-z]*.py")} - {"demo"}


def on_the_test_faces(recipe, faces_root):
    config = importlib.import_module(f"configs.{recipe}").get_config()
    changes = {"data.root": str(faces_root), "data.drawn.train": 0, "data.prepared": ""}
    config.update_from_flattened_dict({**changes, "batch_size": 16, "num_epochs": 1})
    return config


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_starts_and_takes_its_batches(faces_root, tmp_path, recipe):
    """At its own size. The step is traced, and nothing is computed."""
    config = on_the_test_faces(recipe, faces_root)
    schema.check(config)
    splits = build.read_splits(config, tmp_path)
    model, schedule = build.build_model(config), build.build_schedule(config, 10)
    build.starting_values(config, model, splits.training)  # Weights that fit, where it has some.
    optimizer = build.build_optimizer(config, schedule)
    with_ema = bool(config.ema_decay)
    state = train_state_shapes(model, optimizer, config.data.image_size, with_ema=with_ema)
    step = pmap_train_step(
        *(model, optimizer, build.build_face_loss(config), schedule, config.ema_decay)
    )
    batches = build.training_batches(config, splits.trained_on, 0)
    with contextlib.closing(batches):
        batch = split_over_devices(next(batches), jax.device_count())
    after, scalars = jax.eval_shape(step, state, batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    assert scalars["loss"].shape == ()


def test_the_strong_recipe_runs_an_epoch(faces_root, tmp_path):
    """With one block at 32 px, from its first batch to its evaluation."""
    config = on_the_test_faces("wflw_resnet50_strong", faces_root)
    backbone = {"model.backbone.stage_sizes": (1,), "model.backbone.width": 4}
    changes = {"compilation_cache": "off", "data.image_size": 32, "model.pretrained": ""}
    config.update_from_flattened_dict({**changes, **backbone, "batch_size": 32})
    train.run(config, tmp_path)
    assert math.isfinite(json.loads((tmp_path / "evaluation.json").read_text())["nme"])


def test_the_demo_draws_its_faces(tmp_path):
    """The one launch of a new Python."""
    output = launch(
        f"--workdir={tmp_path}",
        *["--config.data.drawn.train=24", "--config.data.drawn.test=6", "--config.num_epochs=1"],
        *["--config.batch_size=8", "--config.data.image_size=32"],
        *["--config.model.backbone.width=4", "--config.model.backbone.stage_sizes=(1,)"],
        fork=False,
    )
    assert "epoch   1: training loss" in output
    assert len(wflw.read_list(tmp_path / "faces", wflw.TRAIN_LIST)) == 24
    assert len(wflw.read_list(tmp_path / "faces", wflw.TEST_LIST)) == 6
