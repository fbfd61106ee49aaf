import copy
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tensor_files import safetensors_bytes

from configs import (
    demo,
    ladder,
    wflw_resnet18_128px,
    wflw_resnet50,
    wflw_resnet50_48px,
    wflw_resnet50_strong,
)
from flm_jax import experiment
from flm_jax.errors import InputError
from flm_jax.models import pretrained
from flm_jax.train_state import create_train_state


@pytest.fixture
def config():
    return wflw_resnet50.get_config()


def test_the_shipped_configs_are_accepted(config):
    experiment.check(config)
    for module in (demo, wflw_resnet50_strong, wflw_resnet50_48px, wflw_resnet18_128px):
        experiment.check(module.get_config())
    for rung in ladder.CHANGES:
        experiment.check(ladder.get_config(rung))
    assert ladder.get_config("seed").loss == config.loss


def test_an_unknown_rung_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match="ladder.py:coisne: expected one of seed, cosine, "):
        ladder.get_config("coisne")


def change(config, key, value):
    config = copy.deepcopy(config)
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    return config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batchsize", 3, r"config has unknown keys \['batchsize'\]"),
        ("data.sise", 3, r"config.data has unknown keys \['sise'\]"),
        ("model.dtype", "float16", "model.dtype=float16: expected one of float32, bfloat16"),
        ("model.uncertainty", True, "model.uncertainty=True with loss.name=wing: the laplace loss"),
        ("average_decay", 1.0, "average_decay=1.0: expected less than 1"),
        ("optimizer.accumulate", 0, "optimizer.accumulate=0: expected at least 1"),
        ("data.box", "face", "data.box=face: expected one of rectangle, landmarks"),
        ("batch_size", 0, "batch_size=0: expected at least 1"),
        ("batch_size", 60, "batch_size=60 does not divide over 8 devices"),
        ("num_epochs", 0, "num_epochs=0: expected at least 1"),
        ("data.image_size", 8, "data.image_size=8: expected at least 32"),
        ("data.num_workers", -1, "data.num_workers=-1: expected at least 0"),
        ("log.every_steps", 0, "log.every_steps=0: expected at least 1"),
        ("checkpoint.keep_last", 0, "checkpoint.keep_last=0: expected at least 1"),
        ("data.validation_fraction", -0.2, "data.validation_fraction=-0.2: expected a share"),
        ("data.max_unreadable", 1.0, "data.max_unreadable=1.0: expected a share"),
        ("non_finite", "ignore", "non_finite=ignore: expected one of stop, skip"),
        ("checkpoint.failed_save", "", "checkpoint.failed_save=: expected one of stop, continue"),
        ("evaluate.checkpoint", "bset", "evaluate.checkpoint=bset: expected best, last or a step"),
    ],
)
def test_a_wrong_setting_is_named(config, key, value, message):
    with pytest.raises(InputError, match=message):
        experiment.check(change(config, key, value))


def test_a_missing_key_is_named(config):
    with config.unlocked():
        del config.loss
    with pytest.raises(InputError, match=r"config lacks the keys \['loss'\]"):
        experiment.check(config)


@pytest.mark.parametrize(
    ("key", "build"),
    [
        ("model.backbone.widht", experiment.build_model),
        ("loss.widht", experiment.build_face_loss),
        ("optimizer.widht", lambda config: experiment.build_optimizer(config, lambda step: 1.0)),
        ("schedule.widht", lambda config: experiment.build_schedule(config, 10)),
        ("data.drawn.widht", experiment.check),
        ("data.crop.widht", experiment.check),
    ],
)
def test_an_unknown_key_of_a_section_is_named(config, key, build):
    section = key.removesuffix(".widht")
    with pytest.raises(InputError, match=rf"config\.{section}: .*'widht'"):
        build(change(config, key, 1))


@pytest.mark.parametrize(
    ("key", "build"),
    [
        ("loss.image_size", experiment.build_face_loss),
        ("schedule.num_steps", lambda config: experiment.build_schedule(config, 10)),
        ("optimizer.schedule", lambda config: experiment.build_optimizer(config, lambda step: 1.0)),
        ("model.backbone.axis_name", experiment.build_model),
    ],
)
def test_a_section_can_not_set_what_the_program_does(config, key, build):
    section, _, name = key.rpartition(".")
    with pytest.raises(InputError, match=rf"config\.{section} has unknown keys \['{name}'\]"):
        build(change(config, key, 3))


def test_the_reader_gets_the_settings_of_the_config(config, train_records, monkeypatch):
    seen = []

    def remember(*_, **settings):
        seen.append(settings)
        return (batch for batch in ())

    monkeypatch.setattr(experiment.input_pipeline, "batches", remember)
    config = change(config, "data.num_workers", 3)
    config.batch_size = 8
    experiment.training_batches(config, train_records, 5)
    experiment.evaluation_batches(config, train_records, box="landmarks")
    assert [(each["num_workers"], each["box"]) for each in seen] == [
        (3, "rectangle"),
        (0, "landmarks"),
    ]
    assert seen[0]["start"] == 5
    assert seen[0]["augmentation"] == config.data.augmentation.to_dict()
    assert "augmentation" not in seen[1]


def test_a_crop_of_no_size_names_the_face(config, train_records):
    config = change(config, "data.crop.margin", -1000.0)
    config.batch_size = 8
    with pytest.raises(InputError, match=r"txt:1: .*data.crop=.* leaves no crop"):
        experiment.training_batches(config, train_records, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("batch_size", 32),
        ("num_epochs", 199),
        ("data.image_size", 128),
        ("data.crop.margin", 5.0),
        ("data.drop_lines", (3,)),
        ("model.backbone.stage_sizes", (2, 2, 2, 2)),
        ("model.dtype", "bfloat16"),
        ("loss.width", 10.0),
        ("optimizer.b1", 0.8),
        ("schedule.learning_rate", 1e-4),
    ],
)
def test_a_restart_with_another_recipe_lists_old_and_new(config, tmp_path, key, value):
    changed = change(config, key, value)
    with pytest.raises(InputError) as error:
        experiment.check_restart(experiment.as_json(config), changed, tmp_path)
    old = experiment.as_json(config)
    for name in key.split("."):
        old = old[name]
    new = list(value) if isinstance(value, tuple) else value
    assert f"  {key}: {old} -> {new}\n" in str(error.value)
    assert str(error.value).count("->") == 2  # the heading and this one


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_epochs", 300),
        ("data.root", "elsewhere"),
        ("data.num_workers", 4),
        ("log.every_steps", 1),
        ("checkpoint.keep_last", 5),
    ],
)
def test_a_restart_may_change_what_the_result_does_not_depend_on(config, tmp_path, key, value):
    experiment.check_restart(experiment.as_json(config), change(config, key, value), tmp_path)


def test_an_evaluation_needs_the_same_network_and_crop_alone(config, tmp_path):
    old = experiment.as_json(config)
    for key, value in [("batch_size", 8), ("loss.width", 10.0), ("data.root", "x"), ("seed", 4)]:
        experiment.check_evaluation(old, change(config, key, value), tmp_path)
    for key, value in [("model.backbone.width", 8), ("data.crop.margin", 0.0)]:
        with pytest.raises(InputError, match=key):
            experiment.check_evaluation(old, change(config, key, value), tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text("good")

    def fail(new):
        new.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        experiment.write_atomically(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]
    assert path.read_text() == "good"


def test_the_head_starts_at_the_mean_shape_of_the_training_faces(config, train_records):
    config = change(config, "model.mean_shape", True)
    given = experiment.starting_values(config, experiment.build_model(config), train_records)
    shapes = []
    for record in train_records:
        low, high = record.box[:2] - 10, record.box[2:] + 10
        shapes.append((record.landmarks - low) / (high - low) * 224 - 0.5)
    expected = np.mean(shapes, axis=0)
    np.testing.assert_allclose(given["params"]["head"]["bias"].reshape(98, 2), expected, atol=1e-3)
    assert given.keys() == {"params"}


def test_a_pretrained_backbone_is_where_training_starts(config, train_records, tmp_path):
    config.model.backbone.update({"stage_sizes": (1, 1), "width": 4})
    config.data.image_size = 32
    config.model.pretrained = str(tmp_path / "weights.safetensors")
    model = experiment.build_model(config)
    fresh = model.init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)), train=False)
    backbone = {name: fresh[name]["backbone"] for name in ("params", "batch_stats")}
    tensors = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(backbone)[0]:
        values = np.asarray(leaf)
        values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values
        tensors[pretrained.torch_name([key.key for key in path])] = np.ascontiguousarray(values + 1)
    (tmp_path / "weights.safetensors").write_bytes(safetensors_bytes(tensors))
    given = experiment.starting_values(config, model, train_records)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b + 1),
        {name: given[name]["backbone"] for name in backbone},
        backbone,
    )
    assert "head" not in given["params"]
    # What the program trains starts there too.
    adam = experiment.build_optimizer(config, lambda step: 1e-3)
    state = create_train_state(model, adam, jax.random.key(0), 32, given=given)
    np.testing.assert_array_equal(
        state.params["backbone"]["conv1"]["kernel"], given["params"]["backbone"]["conv1"]["kernel"]
    )


def test_pretrained_weights_that_are_not_there_are_named(config, train_records):
    config.model.pretrained = "gone.safetensors"
    with pytest.raises(InputError, match="model.pretrained=gone.safetensors: no such file"):
        experiment.starting_values(config, experiment.build_model(config), train_records)


def test_the_unfinished_files_of_killed_processes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = {f".{os.getppid()}.evaluation.json", "config.json", ".hidden", ".git.x"}
    for name in (*kept, f".{ended.pid}.loss_curve.png"):
        (tmp_path / name).write_text("x")
    experiment.remove_litter(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
