"""Which settings a config may have, and which of them may change when a run goes on."""

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flm_jax.benchmark import torch_process
from flm_jax.data import augmentation
from flm_jax.data.crop import BOXES, crop_box
from flm_jax.drawing import dataset
from flm_jax.errors import InputError, check_keywords
from flm_jax.inference import smoothing, tta
from flm_jax.runtime.devices import check_batch_size

_SECTIONS = {
    "": "seed batch_size num_epochs ema_decay on_nonfinite compilation_cache data model loss "
    "optimizer schedule log checkpoint evaluate predict benchmark",
    "data": "root prepared drawn drop_lines validation_fraction image_size box crop max_unreadable "
    "augmentation num_workers num_threads",
    "model": "dtype pretrained mean_shape uncertainty backbone",
    "log": "every_steps",
    "checkpoint": "every_steps keep_last keep_best on_save_error",
    "evaluate": "split checkpoint boxes tta box_robustness",
    "predict": "detector threshold overlays tta smoothing",
    "benchmark": "against repeats seconds",
}

_LEAST = {
    "batch_size": 1,
    "num_epochs": 1,
    "seed": 0,
    "ema_decay": 0,
    "data.image_size": 32,
    "data.num_workers": 0,
    "data.num_threads": 0,
    "model.backbone.width": 1,
    "optimizer.clip_norm": 0,
    "optimizer.backbone_lr_scale": 0,
    "optimizer.grad_accum_steps": 1,
    "evaluate.tta.extra_crops": 0,
    "evaluate.tta.box_noise": 0,
    "predict.threshold": 0,
    "predict.tta.extra_crops": 0,
    "predict.tta.box_noise": 0,
    "predict.smoothing.cutoff": 0,
    "predict.smoothing.beta": 0,
    "log.every_steps": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": 1,
    "benchmark.repeats": 1,
    "benchmark.seconds": 0,
}

_CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "on_nonfinite": ("stop", "skip"),
    "checkpoint.on_save_error": ("stop", "continue"),
    "benchmark.against": ("", "torch"),
}

# What may change when a run continues, and all that must not when its weights are evaluated.
_FREE_ON_RESTART = (
    "on_nonfinite",
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
_FIXED_IN_EVALUATION = ("model", "data.image_size", "data.box", "data.crop")


def check(config: ConfigDict) -> None:
    """Raises InputError for an unknown or missing key, or a setting that can't work."""
    for section, names in _SECTIONS.items():
        given = set(config[section] if section else config)
        place = f"config.{section}" if section else "config"
        if unknown := sorted(given - set(names.split())):
            raise InputError(f"{place} has unknown keys {unknown}; known are: {names}")
        if missing := sorted(set(names.split()) - given):
            raise InputError(f"{place} lacks the keys {missing}")
    values = _flat(config.to_dict())
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise InputError(f"{key}={values[key]}: expected one of {', '.join(choices)}")
    if config.model.uncertainty != (config.loss.get("name") == "laplace"):
        raise InputError(
            f"model.uncertainty={config.model.uncertainty} with loss.name={config.loss.name}: "
            "the laplace loss learns the uncertainty, and no other does"
        )
    for key, least in _LEAST.items():
        if values.get(key, least) < least:
            raise InputError(f"{key}={values[key]}: expected at least {least}")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay={config.ema_decay}: expected less than 1")
    if not 0 <= config.data.max_unreadable < 1:
        raise InputError(
            f"data.max_unreadable={config.data.max_unreadable}: expected a share of the faces, "
            "from 0 to less than 1"
        )
    if not 0 < config.data.validation_fraction < 1:
        raise InputError(
            f"data.validation_fraction={config.data.validation_fraction}: expected a share of the "
            "training images between 0 and 1"
        )
    if config.benchmark.against == "torch" and config.loss.name not in torch_process.LOSSES:
        raise InputError(
            f"benchmark.against=torch: knows the losses {', '.join(torch_process.LOSSES)}, not "
            f"loss.name={config.loss.name}"
        )
    which = str(config.evaluate.checkpoint)
    if which not in ("best", "last") and not which.isdecimal():
        raise InputError(f"evaluate.checkpoint={which}: expected best, last or a step")
    for box in config.evaluate.boxes:
        if box not in BOXES:
            expected = ", ".join(BOXES)
            raise InputError(f"evaluate.boxes={config.evaluate.boxes}: expected of {expected}")
    bound = dict.fromkeys(("predict", "boxes", "margins"))
    check_keywords("evaluate.tta", tta.predict_with_tta, **bound, **config.evaluate.tta)
    check_keywords("predict.tta", tta.predict_with_tta, **bound, **config.predict.tta)
    check_keywords("predict.smoothing", smoothing.OneEuroFilter, **config.predict.smoothing)
    check_keywords("data.drawn", dataset.draw_dataset, "", **config.data.drawn)
    check_keywords("data.crop", crop_box, None, **config.data.crop)
    if config.data.box not in BOXES:
        expected = ", ".join(BOXES)
        raise InputError(f"data.box={config.data.box}: expected one of {expected}")
    augmentation.check(config.data.augmentation.to_dict())
    check_batch_size(config.batch_size, jax.device_count())


def check_restart(old: dict[str, Any], config: ConfigDict, workdir: Path) -> None:
    """Raises InputError unless a run with the config `old` can go on with `config`."""
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
