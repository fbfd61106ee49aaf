"""Which values a config may hold, and which of them may change when a run continues."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flm_jax.config.base import base_config
from flm_jax.data import augmentation
from flm_jax.data.crop import BOXES
from flm_jax.errors import InputError

# Sections whose keys depend on the choice that `name` makes; what it builds checks them.
_CHOSEN_BY_NAME = ("model.backbone", "model.head", "loss", "optimizer", "schedule")

# Of every number that has one; tuples count entry by entry.
_INTERVALS = {
    "seed": "[0, 4294967295]",
    "batch_size": "[1, 1048576]",
    "num_epochs": "[1, 1000000]",
    "ema_decay": "[0, 1)",
    "data.drawn.train": "[0, 100000000]",
    "data.drawn.test": "[0, 100000000]",
    "data.drawn.seed": "[0, 4294967295]",
    "data.drawn.share": "[0, 1)",
    "data.drop_lines": "[1, inf)",
    "data.validation_fraction": "(0, 1)",
    "data.split_seed": "[0, 4294967295]",
    "data.image_size": "[32, 4096]",
    "data.crop.margin": "[-10000, 10000]",
    "data.crop.factor": "(0, 100]",
    "data.max_unreadable": "[0, 1)",
    "data.num_workers": "[0, 1024]",
    "data.num_threads": "[0, 1024]",
    "model.backbone.stage_sizes": "[1, 1000]",
    "model.backbone.width": "[1, 4096]",
    "model.backbone.last_stride": "[0, 4096]",
    "model.head.visibility": "[0, inf)",
    "model.head.bins_per_pixel": "(0, 64]",
    "model.head.margin": "[0, 4]",
    "model.head.std": "(0, 1]",
    "model.head.weight": "[0, inf)",
    "optimizer.b1": "[0, 1)",
    "optimizer.b2": "[0, 1)",
    "optimizer.eps": "[1e-30, inf)",
    "optimizer.weight_decay": "[0, inf)",
    "optimizer.momentum": "[0, 1)",
    "optimizer.clip_norm": "[0, inf)",
    "optimizer.backbone_lr_scale": "[0, inf)",
    "optimizer.grad_accum_steps": "[1, 1048576]",
    "schedule.learning_rate": "[1e-20, inf)",
    "schedule.warmup": "[0, 1)",
    "schedule.final": "[0, 1]",
    "schedule.drops": "[0, 1]",
    "schedule.factor": "(0, 1]",
    "log.every_steps": "[1, inf)",
    "checkpoint.every_steps": "[1, inf)",
    "checkpoint.keep_last": "[1, inf)",
    "checkpoint.keep_best": "[1, inf)",
    "evaluate.tta.extra_crops": "[0, 1000]",
    "evaluate.tta.box_noise": "[0, 1]",
    "predict.threshold": "[0, 1]",
    "predict.side": "[0, 8192]",
    "predict.tta.extra_crops": "[0, 1000]",
    "predict.tta.box_noise": "[0, 1]",
    "predict.smoothing.cutoff": "[0, inf)",
    "predict.smoothing.beta": "[0, inf)",
    "benchmark.repeats": "[1, 1000]",
    "benchmark.seconds": "[0, 3600]",
}

# By the type of a default. A bool is an int, too.
_TYPES: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    int: ("whole numbers", (int,)),
    float: ("numbers", (int, float)),
    str: ("a text", (str, int)),
    type(None): ("numbers, texts, True or False", (bool, int, float, str)),
}

_CHOICES = {
    "on_nonfinite": ("stop", "skip"),
    "on_new_schedule": ("stop", "continue"),
    "data.box": tuple(BOXES),
    "evaluate.boxes": tuple(BOXES),
    "model.dtype": ("float32", "bfloat16"),
    "checkpoint.on_save_error": ("stop", "continue"),
    "benchmark.against": ("", "torch"),
}

_PATHS = ("compilation_cache", "data.root", "data.prepared", "model.pretrained", "predict.detector")

# What the result of a run does not depend on, so that it may change when the run continues.
_FREE_ON_RESTART = (
    "on_nonfinite",
    "on_new_schedule",
    "compilation_cache",
    "data.max_unreadable",
    "data.root",
    "data.prepared",
    "data.num_workers",
    "data.num_threads",
    "log",
    "checkpoint",
    "evaluate",
    "predict",
    "benchmark",
    "num_epochs",
)
# What each process of a run may have of its own.
_FREE_IN_PROCESSES = (
    "compilation_cache",
    "data.root",
    "data.prepared",
    "data.num_workers",
    "data.num_threads",
)
# What decides the function that trained weights compute.
_FIXED_IN_EVALUATION = (
    "data.image_size",
    "data.box",
    "data.crop",
    "model.backbone",
    "model.head",
)


def expand_home(config: ConfigDict) -> None:
    """Replaces ~ in the paths of a config by the home folder."""
    flat = _flat(config.to_dict())
    paths = {key: flat[key] for key in _PATHS if isinstance(flat.get(key), str)}
    config.update_from_flattened_dict({key: os.path.expanduser(paths[key]) for key in paths})


def check(config: ConfigDict) -> None:
    """Raises InputError for an unknown or missing key, or a value out of its range."""
    _check_keys(config.to_dict(), base_config().to_dict())
    defaults = _flat(base_config().to_dict())
    for key, value in _flat(config.to_dict()).items():
        default = defaults.get(key, ())
        entries = value if isinstance(value, tuple | list) else (value,)
        if key in defaults and (entries is value) != isinstance(default, tuple):
            raise InputError(f"{key}={value!r}: expected such as {default!r}")
        expected, types = _expect(key, default)
        for entry in entries:
            if not isinstance(entry, types) or (isinstance(entry, bool) and bool not in types):
                raise InputError(f"{key}={value!r}: expected {expected}")
            if isinstance(entry, float | int) and not _is_in(entry, _INTERVALS.get(key)):
                expected = _INTERVALS.get(key, "(-inf, inf)")
                raise InputError(f"{key}={value}: expected numbers in {expected}")
            if entry not in _CHOICES.get(key, (entry,)):
                expected = ", ".join(_CHOICES[key])
                raise InputError(f"{key}={value}: expected one of {expected}")
    if config.data.drawn.share and not config.data.drawn.train:
        raise InputError(
            f"data.drawn.share={config.data.drawn.share}: needs data.drawn.train, the number of "
            "drawn faces to choose from"
        )
    if not config.model.backbone.get("stage_sizes", (1,)):
        raise InputError("model.backbone.stage_sizes=(): expected at least one stage")
    which = str(config.evaluate.checkpoint)
    if which not in ("best", "last") and not which.isdecimal():
        raise InputError(f"evaluate.checkpoint={which}: expected best, last or a step")
    augmentation.check(config.data.augmentation.to_dict())


def _check_keys(given, known, place=""):
    if place in _CHOSEN_BY_NAME:
        if "name" not in given:
            raise InputError(f"config.{place} lacks the key 'name'")
        return
    section = f"config.{place}" if place else "config"
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"{section} has unknown keys {unknown}; known are: {', '.join(known)}")
    if missing := sorted(set(known) - set(given)):
        raise InputError(f"{section} lacks the keys {missing}")
    for key, value in known.items():
        if isinstance(value, dict):
            if not isinstance(given[key], dict):
                raise InputError(f"{section}.{key}={given[key]}: expected the keys {list(value)}")
            _check_keys(given[key], value, f"{place}.{key}" if place else key)


def _expect(key, default):
    """What has to stand where the base config has such a default, in words and types."""
    if isinstance(default, tuple):  # Or there is none.
        is_number = key in _INTERVALS or key.startswith("loss.")
        default = default[0] if default else 0.0 if is_number else None
    return _TYPES[type(default)]


def _is_in(value, interval):
    """Whether a number is finite and in an interval such as "[0, 1)"."""
    if not math.isfinite(value) or interval is None:
        return math.isfinite(value)
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def upgraded(stored: Any, workdir: Path) -> ConfigDict:
    """A stored config, with the keys that are new since then at their neutral defaults.

    Raises:
        InputError: it is no config, or has keys that this version does not know.
    """
    default = base_config().to_dict()
    known, given = _flat(default), _flat(stored) if isinstance(stored, Mapping) else {}
    strange = [key for key in given if key not in known and not _is_under(key, _CHOSEN_BY_NAME)]
    if strange or "model.head.name" not in given:
        reason = f" (its config has {strange[0]})" if strange else ""
        raise InputError(
            f"{workdir}: trained by another version of this program{reason}; use that version, or "
            "train again with another --workdir"
        )
    config = ConfigDict(_filled(stored, default))
    if "data.split_seed" not in given:
        config.data.split_seed = config.seed  # which once moved the split, too
    return config


def _filled(stored, default):
    new = {key: value for key, value in default.items() if key not in stored}
    return new | {
        key: _filled(value, default[key])
        if isinstance(value, dict)
        and isinstance(default.get(key), dict)
        and value.get("name") == default[key].get("name")
        else value
        for key, value in stored.items()
    }


def check_restart(old: dict[str, Any], config: ConfigDict, workdir: Path) -> None:
    """Raises InputError unless a run with the config `old` can continue with `config`."""
    old = as_json(upgraded(old, workdir))
    differing = [
        (key, *values)
        for key, values in _differences(old, as_json(config)).items()
        if not _is_under(key, _FREE_ON_RESTART)
    ]
    if config.num_epochs < old["num_epochs"]:
        differing.append(("num_epochs", old["num_epochs"], config.num_epochs))
    _refuse(differing, workdir, "continue with the old values, or choose another --workdir")


def check_evaluation(old: dict[str, Any], config: ConfigDict, workdir: Path) -> None:
    """Raises InputError unless weights trained with the config `old` fit `config`."""
    differing = [
        (key, *values)
        for key, values in _differences(old, as_json(config)).items()
        if _is_under(key, _FIXED_IN_EVALUATION)
    ]
    _refuse(differing, workdir, "evaluate with the values that it was trained with")


def shared(config: ConfigDict) -> dict[str, Any]:
    """What all processes of a run have to have alike, by flat keys."""
    flat = _flat(as_json(config))
    return {key: value for key, value in flat.items() if not _is_under(key, _FREE_IN_PROCESSES)}


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as it reads back from JSON: tuples are lists."""
    return json.loads(config.to_json())


def _refuse(differing, workdir, fix):
    if differing:
        rows = "\n".join(f"  {key}: {old} -> {new}" for key, old, new in differing)
        raise InputError(f"{workdir} was trained with another config (old -> new):\n{rows}\n{fix}")


def _differences(old, new):
    old, new = _flat(old), _flat(new)
    keys = [*old, *(key for key in new if key not in old)]
    pairs = {key: (old.get(key, "(none)"), new.get(key, "(none)")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _is_under(key, prefixes):
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _flat(tree, prefix=""):
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
