"""Which configs are accepted, and which changes of them."""

import numpy as np
import pytest
from support.networks import change

from configs import (
    demo,
    ladder,
    wflw_resnet18_128px,
    wflw_resnet50,
    wflw_resnet50_48px,
    wflw_resnet50_strong,
)
from flm_jax.config import schema
from flm_jax.errors import InputError
from flm_jax.models.heads import SimCCHead


@pytest.fixture
def config():
    return wflw_resnet50.get_config()


def test_the_shipped_configs_are_accepted(config):
    schema.check(config)
    for module in (demo, wflw_resnet50_strong, wflw_resnet50_48px, wflw_resnet18_128px):
        schema.check(module.get_config())
    for rung in ladder.RUNGS:
        schema.check(ladder.get_config(rung))
    assert ladder.get_config("original").loss == config.loss


def test_an_unknown_rung_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match="ladder.py:coisne: expected one of original, strong, "):
        ladder.get_config("coisne")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batchsize", 3, r"config has unknown keys \['batchsize'\]"),
        ("model.dtype", "float16", "model.dtype=float16: expected one of float32, bfloat16"),
        ("data.box", "face", "data.box=face: expected one of rectangle, landmarks"),
        ("on_nonfinite", "ignore", "on_nonfinite=ignore: expected one of stop, skip"),
        ("evaluate.checkpoint", "bset", "evaluate.checkpoint=bset: expected best, last or a step"),
        ("batch_size", 0, r"batch_size=0: expected numbers in \[1, "),
        ("ema_decay", 1.0, r"ema_decay=1.0: expected numbers in \[0, 1\)"),
        ("seed", 2**64, f"seed={2**64}: expected numbers in"),
        ("loss.width", float("inf"), "loss.width=inf: expected numbers in"),
        ("data.crop.margin", 1e30, r"data.crop.margin=1e\+30: expected numbers in"),
        ("model.backbone.stage_sizes", (0, 2), r"stage_sizes=\(0, 2\): expected numbers in"),
        ("model.backbone.stage_sizes", (np.int64(1),), "expected whole numbers"),
        ("model.backbone.stage_sizes", 2, r"stage_sizes=2: expected such as \(3, 4, 6, 3\)"),
        ("model.backbone.width", 4.5, "width=4.5: expected whole numbers"),
        ("model.backbone.bottleneck", "False", "bottleneck='False': expected True or False"),
        ("optimizer.grad_accum_steps", True, "grad_accum_steps=True: expected whole numbers"),
        ("schedule.learning_rate", 1e-320, "learning_rate=1e-320: expected numbers in"),
        ("optimizer.eps", 1e-300, "eps=1e-300: expected numbers in"),
        ("schedule.learning_rate", "1e-3", "learning_rate='1e-3': expected numbers"),
        ("loss.width", "10", "loss.width='10': expected numbers"),
        ("seed", None, "seed=None: expected whole numbers"),
        ("model.backbone.stage_sizes", (), "stage_sizes=.*: expected at least one stage"),
    ],
)
def test_a_wrong_or_missing_setting_is_named(config, key, value, message):
    with pytest.raises(InputError, match=message):
        schema.check(change(config, key, value))
    with config.unlocked():
        del config.loss
    with pytest.raises(InputError, match=r"config lacks the keys \['loss'\]"):
        schema.check(config)


def test_the_home_folder_may_stand_in_every_path(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for key in schema._PATHS:
        changed = change(config, key, "~/x")
        schema.expand_home(changed)
        assert schema._flat(changed.to_dict())[key] == "/home/me/x"


def test_every_interval_and_choice_is_of_a_key(config):
    configs = [config, wflw_resnet50_strong.get_config(), demo.get_config()]
    known = {key for each in configs for key in schema._flat(each.to_dict())}
    known |= {"optimizer.momentum", "schedule.drops", "schedule.factor"}  # of other choices
    known |= {f"model.head.{key}" for key in SimCCHead.__dataclass_fields__}
    assert set(schema._INTERVALS) | set(schema._CHOICES) <= known


@pytest.mark.parametrize("stored", [[], {}, {"model": 3}, {"model": {"head": {}}}])
def test_a_stored_config_that_is_none_is_refused(stored, tmp_path):
    with pytest.raises(InputError, match="another version of this program"):
        schema.upgraded(stored, tmp_path)


def test_new_keys_of_a_choice_are_filled_where_it_is_the_defaults(config, tmp_path):
    stored = schema.as_json(config)
    del stored["model"]["backbone"]["last_stride"]
    stored["model"]["head"] = {"name": "another"}
    found = schema.upgraded(stored, tmp_path).model
    assert found.backbone.last_stride == 0
    assert found.head.to_dict() == {"name": "another"}


def test_an_older_config_keeps_its_validation_faces(config, tmp_path):
    """When the seed moved the split, too."""
    old = schema.as_json(change(config, "seed", 3))
    del old["data"]["split_seed"]
    assert schema.upgraded(old, tmp_path).data.split_seed == 3
    with pytest.raises(InputError, match=r"data\.split_seed: 3 -> 0"):
        schema.check_restart(old, change(config, "seed", 3), tmp_path)


def test_a_work_folder_of_another_version_is_refused(config, tmp_path):
    old = schema.as_json(config)
    old["average_decay"] = old.pop("ema_decay")
    with pytest.raises(InputError, match="another version of this program .*average_decay"):
        schema.check_restart(old, config, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 32),
        ("num_epochs", 199),
        ("data.crop.margin", 5.0),
        ("data.drop_lines", (3,)),
        ("model.dtype", "bfloat16"),
        ("loss.width", 10.0),
    ],
)
def test_a_restart_with_another_recipe_lists_old_and_new(config, tmp_path, key, value):
    changed = change(config, key, value)
    with pytest.raises(InputError) as error:
        schema.check_restart(schema.as_json(config), changed, tmp_path)
    old = schema.as_json(config)
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
        ("checkpoint.keep_last", 5),
    ],
)
def test_a_restart_may_change_what_the_result_does_not_depend_on(config, tmp_path, key, value):
    schema.check_restart(schema.as_json(config), change(config, key, value), tmp_path)


def test_an_evaluation_needs_the_same_network_and_crop_alone(config, tmp_path):
    old = schema.as_json(config)
    for key, value in [("batch_size", 8), ("loss.width", 10.0), ("data.root", "x"), ("seed", 4)]:
        schema.check_evaluation(old, change(config, key, value), tmp_path)
    for key, value in [("model.backbone.width", 8), ("data.crop.margin", 0.0)]:
        with pytest.raises(InputError, match=key):
            schema.check_evaluation(old, change(config, key, value), tmp_path)


def test_an_evaluation_takes_weights_whatever_they_started_from(config, tmp_path):
    old = schema.as_json(config)
    for key, value in [("pretrained", "drawn"), ("mean_shape", True), ("dtype", "bfloat16")]:
        assert old["model"][key] != value
        schema.check_evaluation(old, change(config, f"model.{key}", value), tmp_path)


def test_every_number_has_an_interval(config):
    """But for those that a loss or an augmentation checks itself."""
    for each in (config, schema.base_config(), wflw_resnet50_strong.get_config()):
        for key, value in schema._flat(each.to_dict()).items():
            entries = value if isinstance(value, tuple) else (value,)
            if {int, float} & {*map(type, entries)}:
                own = key.startswith(("loss.", "data.augmentation."))
                assert own or key in schema._INTERVALS, key
