"""The whole program on drawn faces, in processes of its own."""

import json
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from support.launches import count_lines, read_log, read_state, run, start, steps_in, tiny, wait_for


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


def interrupt(process, signal_group=False):
    (os.killpg if signal_group else os.kill)(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    return output


def test_an_interrupted_run_continues_bit_for_bit(trained, faces_root, tmp_path):
    process = start(*tiny(faces_root, tmp_path))
    wait_for(process, lambda: count_lines(tmp_path / "metrics.jsonl") >= 2)
    assert "stopped by SIGINT after step" in interrupt(process)
    stopped, _ = read_state(tmp_path)
    last, expected = read_state(trained)
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
    assert read_log(tmp_path) == read_log(trained)
    evaluations = [(folder / "evaluation.json").read_text() for folder in (tmp_path, trained)]
    assert evaluations[0] == evaluations[1]


def test_a_run_stopped_in_mid_epoch_goes_on_as_if_it_were_not(trained, faces_root, tmp_path):
    """The first step of an epoch of two is the middle of it, whatever the machine's speed."""
    kept = ["--config.checkpoint.every_steps=1", "--config.checkpoint.keep_last=100"]
    code, output = run(*tiny(faces_root, tmp_path, *kept))
    assert code == 0, output
    assert steps_in(tmp_path) == list(range(1, 9))
    for step in range(4, 9):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    code, output = run(*tiny(faces_root, tmp_path, "--config.data.num_workers=2"))
    assert code == 0, output
    assert "continuing after step 3" in output
    assert read_log(tmp_path) == read_log(trained)


def test_averages_accumulation_and_augmentation_continue_too(faces_root, tmp_path):
    """Stopped after any step, the middle of an accumulation included, the run ends the same."""
    recipe = [
        "--config.ema_decay=0.9",
        "--config.optimizer.grad_accum_steps=2",
        "--config.optimizer.clip_norm=1.0",
        "--config.data.augmentation.rotation.probability=0.5",
        "--config.data.augmentation.paste.probability=0.5",
        "--config.checkpoint.every_steps=1",
        "--config.checkpoint.keep_last=100",
    ]
    code, output = run(*tiny(faces_root, tmp_path, *recipe))
    assert code == 0, output
    last, expected = read_state(tmp_path)
    log, figures = read_log(tmp_path), (tmp_path / "evaluation.json").read_text()
    for step in range(4, last + 1):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    code, output = run(*tiny(faces_root, tmp_path, *recipe, "--config.data.num_workers=2"))
    assert code == 0, output
    assert "continuing after step 3" in output
    step, state = read_state(tmp_path)
    assert step == last
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert "head" in state["average"]["params"]
    assert read_log(tmp_path) == log
    assert (tmp_path / "evaluation.json").read_text() == figures


def test_an_interrupt_of_the_group_reaches_no_worker(faces_root, tmp_path):
    process = start(*tiny(faces_root, tmp_path, "--config.data.num_workers=2"))
    # The line that it starts with comes right before the workers do.
    wait_for(process, lambda: (tmp_path / "config.json").exists())
    time.sleep(1.0)
    interrupt(process, signal_group=True)
    assert read_state(tmp_path)[0] >= 1


def test_two_devices_train_what_one_does(trained, faces_root, tmp_path):
    code, output = run(*tiny(faces_root, tmp_path, "--config.num_epochs=1"), devices=2)
    assert code == 0, output
    assert "on 2 cpu device(s)" in output
    # The learning rate's schedule depends on the epochs, so the first step alone is the same.
    first, expected = read_log(tmp_path)[0], read_log(trained)[0]
    assert first["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert first["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)


def test_validation_is_that_of_the_validation_faces(trained, faces_root, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(trained, workdir)
    code, output = run(
        *tiny(faces_root, workdir, "--mode=evaluate"),
        *["--config.evaluate.split=validation", "--config.evaluate.checkpoint=last"],
    )
    assert code == 0, output
    figures = json.loads((workdir / "evaluation_validation.json").read_text())
    assert figures["nme"] == pytest.approx(read_log(workdir)[-1]["validation_nme"], rel=1e-5)


def test_the_best_epoch_is_kept_and_evaluated(faces_root, tmp_path, monkeypatch):
    from configs import demo
    from flm_jax.modes import train

    config = demo.get_config()
    config.batch_size, config.num_epochs = 16, 4
    config.data.root, config.data.image_size = str(faces_root), 32
    config.data.drawn.train = 0
    config.model.backbone.stage_sizes, config.model.backbone.width = (1,), 4
    config.checkpoint.keep_last = 1
    config.compilation_cache = "off"  # It would stay on for the tests that follow.
    losses = iter([5.0, 2.0, 4.0, 3.0])
    monkeypatch.setattr(
        train,
        "_validate",
        lambda *_: {"validation_loss": next(losses), "validation_nme": 1.0},
    )
    train.run(config, tmp_path)
    assert steps_in(tmp_path) == [4, 8]
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 4


def test_a_diverged_run_stops_and_keeps_what_was_good(faces_root, tmp_path):
    code, output = run(
        *tiny(faces_root, tmp_path, "--config.schedule.learning_rate=1e38"),
        "--config.optimizer.eps=1e-30",
    )
    assert code == 1
    assert re.search(r"error: step \d+: the (validation )?loss is (nan|inf)", output), output
    assert "Traceback" not in output


def test_a_finished_run_only_evaluates_again(trained, faces_root, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(trained, workdir)
    before = read_log(workdir)
    code, output = run(*tiny(faces_root, workdir))
    assert code == 0, output
    assert "all of them are done" in output
    assert "mean shape NME" in output
    assert read_log(workdir) == before


def test_another_recipe_in_a_used_work_folder_is_refused(trained, faces_root, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(trained, workdir)
    before = (workdir / "config.json").read_bytes()
    code, output = run(*tiny(faces_root, workdir, "--config.loss.width=10.0"))
    assert code == 1
    assert "loss.width: 5.0 -> 10.0" in output
    assert "Traceback" not in output
    assert (workdir / "config.json").read_bytes() == before
