"""A training on drawn faces; test_resume.py and test_signals.py stop and continue it."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from support.launches import read_log, steps_in
from support.networks import change, load_evaluation, tiny_config

from flm_jax.data import wflw
from flm_jax.data.images import ImageError
from flm_jax.errors import InputError
from flm_jax.modes import evaluate, train


def test_a_run_leaves_what_it_promises(trained):
    workdir, output = trained, (trained.parent / "output.txt").read_text()
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
    rows = read_log(trained)
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


def test_validation_is_that_of_the_validation_faces(trained, faces_root, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(trained, workdir)
    config = tiny_config(faces_root)
    config.evaluate.split, config.evaluate.checkpoint = "validation", "last"
    evaluate.run(config, workdir)
    figures, _ = load_evaluation(workdir, "_validation")
    assert figures["nme"] == pytest.approx(read_log(workdir)[-1]["validation_nme"], rel=1e-5)


def test_the_best_epoch_is_kept_and_evaluated(faces_root, tmp_path, monkeypatch):
    config = tiny_config(faces_root)
    config.checkpoint.keep_last = 1
    losses = iter([5.0, 2.0, 4.0, 3.0])
    monkeypatch.setattr(
        train,
        "_validate",
        lambda *_: {"validation_loss": next(losses), "validation_nme": 1.0},
    )
    train.run(config, tmp_path)
    assert steps_in(tmp_path) == [4, 8]
    assert load_evaluation(tmp_path)[0]["step"] == 4


def test_an_unreadable_test_image_is_told_of_before_the_training(faces_root, tmp_path):
    config = tiny_config(faces_root)
    config.data.root = str(tmp_path / "faces")
    shutil.copytree(faces_root, config.data.root)
    record = wflw.read_list(config.data.root, wflw.TEST_LIST)[5]
    pathlib.Path(record.image_path).write_bytes(b"")
    with pytest.raises(ImageError, match=f":6: {record.image_name}: the file is empty"):
        train.run(config, tmp_path / "work")
    assert not list((tmp_path / "work").glob("*/*"))


def test_a_jump_of_the_learning_rate_has_to_be_wanted(trained, faces_root, tmp_path, capsys):
    """The demo's rate has come down to its end."""
    workdir = tmp_path / "work"
    shutil.copytree(trained, workdir)
    config = tiny_config(faces_root)
    config.batch_size, config.num_epochs, config.log.every_steps = 16, 5, 1
    with pytest.raises(InputError, match="4 -> 5 changes .* --config.on_new_schedule=continue"):
        train.run(config, workdir)
    config.on_new_schedule = "continue"
    train.run(config, workdir)
    assert "4 -> 5 changes the learning rate after step 8 from" in capsys.readouterr().out
    assert steps_in(workdir)[-1] == 10


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss.width", 10.0, r"loss.width: 5.0 -> 10.0"),
        ("model.backbone.width", 8, r"model.backbone.width: 4 -> 8"),
    ],
)
def test_another_recipe_in_a_used_work_folder_is_refused(
    trained, faces_root, tmp_path, key, value, message
):
    workdir = tmp_path / "work"
    shutil.copytree(trained, workdir)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(InputError, match=message):
        train.run(change(tiny_config(faces_root), key, value), workdir)
    assert (workdir / "config.json").read_bytes() == before
    assert steps_in(workdir) == steps_in(trained)
    assert not (workdir / "damaged_checkpoints").exists()
