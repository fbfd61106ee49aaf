"""From a config to the objects that it describes: what the modes have in common.

With `launch.py` and the modes, the only reader of configs. A section's settings are the keywords of
the function that it configures, so an unknown or missing one is an error that names it.
"""

import json
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from numpy import ndarray

from flm_jax import (
    geometry,
    losses,
    optimizer,
    protocols,
    smoothing,
    tensor_files,
    train_step,
)
from flm_jax.data import augmentation, drawn_faces, input_pipeline, transforms, wflw
from flm_jax.errors import InputError, check_keywords
from flm_jax.models import pretrained
from flm_jax.models.landmark_regressor import HEAD_SIZE, LandmarkRegressor
from flm_jax.models.resnet import ResNet

_SECTIONS = {
    "": "seed batch_size num_epochs average_decay data model loss optimizer schedule log "
    "checkpoint evaluate predict",
    "data": "root drawn drop_lines validation_fraction image_size box crop augmentation "
    "num_workers num_threads",
    "model": "dtype pretrained mean_shape uncertainty backbone",
    "log": "every_steps",
    "checkpoint": "every_steps keep_last keep_best",
    "evaluate": "split checkpoint boxes gains box_errors",
    "predict": "detector threshold overlays gains smoothing",
}

_LEAST = {
    "batch_size": 1,
    "num_epochs": 1,
    "seed": 0,
    "average_decay": 0,
    "data.image_size": 32,
    "data.num_workers": 0,
    "data.num_threads": 1,
    "model.backbone.width": 1,
    "optimizer.clip_norm": 0,
    "optimizer.backbone_rate": 0,
    "optimizer.accumulate": 1,
    "evaluate.gains.jitters": 0,
    "evaluate.gains.jitter": 0,
    "predict.threshold": 0,
    "predict.gains.jitters": 0,
    "predict.gains.jitter": 0,
    "predict.smoothing.cutoff": 0,
    "predict.smoothing.beta": 0,
    "log.every_steps": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": 1,
}

# What may change when a run continues, and all that must not when its weights are evaluated.
_FREE_ON_RESTART = (
    "data.root",
    "data.num_workers",
    "data.num_threads",
    "log",
    "checkpoint",
    "evaluate",
    "predict",
    "num_epochs",
)
_FIXED_IN_EVALUATION = ("model", "data.image_size", "data.box", "data.crop")


class Splits(NamedTuple):
    """The faces of a data root: the training list in its two parts, and the test list."""

    training: list[wflw.Record]
    validation: list[wflw.Record]
    test: list[wflw.Record]


def check(config: ConfigDict) -> None:
    """Raises InputError for an unknown or missing key, or a setting that can't work."""
    for section, names in _SECTIONS.items():
        given = set(config[section] if section else config)
        place = f"config.{section}" if section else "config"
        if unknown := sorted(given - set(names.split())):
            raise InputError(f"{place} has unknown keys {unknown}; known are: {names}")
        if missing := sorted(set(names.split()) - given):
            raise InputError(f"{place} lacks the keys {missing}")
    dtypes = ("float32", "bfloat16")
    if config.model.dtype not in dtypes:
        raise InputError(f"model.dtype={config.model.dtype}: expected one of {', '.join(dtypes)}")
    if config.model.uncertainty != (config.loss.get("name") == "laplace"):
        raise InputError(
            f"model.uncertainty={config.model.uncertainty} with loss.name={config.loss.name}: "
            "the laplace loss learns the uncertainty, and no other does"
        )
    values = _flat(config.to_dict())
    for key, least in _LEAST.items():
        if values.get(key, least) < least:
            raise InputError(f"{key}={values[key]}: expected at least {least}")
    if config.average_decay >= 1:
        raise InputError(f"average_decay={config.average_decay}: expected less than 1")
    if not 0 < config.data.validation_fraction < 1:
        raise InputError(
            f"data.validation_fraction={config.data.validation_fraction}: expected a share of the "
            "training images between 0 and 1"
        )
    which = str(config.evaluate.checkpoint)
    if which not in ("best", "last") and not which.isdecimal():
        raise InputError(f"evaluate.checkpoint={which}: expected best, last or a step")
    for box in config.evaluate.boxes:
        if box not in transforms.BOXES:
            expected = ", ".join(transforms.BOXES)
            raise InputError(f"evaluate.boxes={config.evaluate.boxes}: expected of {expected}")
    gains = dict.fromkeys(("predict", "boxes", "margins"))
    check_keywords("evaluate.gains", protocols.predict_with_gains, **gains, **config.evaluate.gains)
    check_keywords("predict.gains", protocols.predict_with_gains, **gains, **config.predict.gains)
    check_keywords("predict.smoothing", smoothing.OneEuroFilter, **config.predict.smoothing)
    check_keywords("data.drawn", drawn_faces.draw_dataset, "", **config.data.drawn)
    check_keywords("data.crop", transforms.crop_box, None, **config.data.crop)
    if config.data.box not in transforms.BOXES:
        expected = ", ".join(transforms.BOXES)
        raise InputError(f"data.box={config.data.box}: expected one of {expected}")
    augmentation.check(config.data.augmentation.to_dict())
    train_step.check_batch_size(config.batch_size, jax.device_count())


def make_workdir(workdir: Path) -> None:
    """Makes the work folder; InputError where that is impossible."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={workdir}: can't be made: {error.strerror}") from None


def read_splits(config: ConfigDict, workdir: Path) -> Splits:
    """Reads the lists, after drawing the faces where the config says so."""
    data = config.data
    root = Path(data.root) if data.root else workdir / "faces"
    if data.drawn.train:
        drawn_faces.draw_dataset(root, **data.drawn)
    train_list = wflw.drop_lines(wflw.read_list(root, wflw.TRAIN_LIST), data.drop_lines)
    training, validation = wflw.split_by_image(train_list, data.validation_fraction, config.seed)
    return Splits(training, validation, wflw.read_list(root, wflw.TEST_LIST))


def select_split(config: ConfigDict, workdir: Path, splits: Splits) -> list[wflw.Record]:
    """The faces that `evaluate.split` names."""
    split = config.evaluate.split
    if split in wflw.SUBSETS:
        root = Path(config.data.root) if config.data.root else workdir / "faces"
        return wflw.read_subset(root, split, splits.test)
    named = {"train": splits.training, "validation": splits.validation, "test": splits.test}
    if split not in named:
        expected = ", ".join([*named, *wflw.SUBSETS])
        raise InputError(f"evaluate.split={split}: expected one of {expected}")
    return named[split]


def training_order(config: ConfigDict, num_faces: int) -> input_pipeline.TrainingOrder:
    """This process's rows of every training step."""
    return input_pipeline.TrainingOrder(
        num_faces=num_faces,
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def training_batches(
    config: ConfigDict, records: Sequence[wflw.Record], start: int
) -> Generator[dict[str, ndarray]]:
    """This process's batches from step `start` on, augmented."""
    order = training_order(config, len(records))
    data = config.data
    return _batches(
        config,
        order,
        records,
        box=data.box,
        augmentation=data.augmentation.to_dict(),
        num_workers=data.num_workers,
        start=start,
    )


def evaluation_batches(
    config: ConfigDict, records: Sequence[wflw.Record], *, box: str, mirror: bool = False
) -> Generator[dict[str, ndarray]]:
    """This process's batches of every face once, read by threads of this process.

    Starting worker processes takes seconds, at every epoch's validation.

    Args:
        config: the crop and the batch size.
        records: the faces.
        box: their box, one of `transforms.BOXES`.
        mirror: whether they are mirrored.
    """
    order = input_pipeline.EvaluationOrder(
        len(records), config.batch_size, jax.process_index(), jax.process_count()
    )
    return _batches(config, order, records, box=box, mirror=mirror, num_workers=0)


def _batches(config, order, records, box, **settings):
    data = config.data
    for record in records:
        crop = transforms.crop_from_image(
            transforms.face_box(record, box), data.image_size, **data.crop
        )
        if crop[0, 0] <= 0 or crop[1, 1] <= 0 or not np.isfinite(crop).all():
            raise InputError(f"{record.place}: data.crop={data.crop.to_dict()} leaves no crop")
    return input_pipeline.batches(
        order,
        records,
        image_size=data.image_size,
        box=box,
        crop=data.crop.to_dict(),
        num_threads=data.num_threads,
        **settings,
    )


def build_model(config: ConfigDict, *, folded: bool = False) -> LandmarkRegressor:
    """The network, with batch norm over all devices, or folded into the convolutions."""
    bound = {
        "dtype": jnp.dtype(config.model.dtype),
        "axis_name": train_step.AXIS,
        "folded": folded,
    }
    return LandmarkRegressor(
        _call("model.backbone", ResNet, config.model.backbone, **bound),
        uncertainty=config.model.uncertainty,
    )


def starting_values(
    config: ConfigDict, model: LandmarkRegressor, records: Sequence[wflw.Record]
) -> dict[str, Any]:
    """The variables that do not start at random: a pretrained backbone, and the head's bias at the
    mean shape of the training faces, `records`."""
    given: dict[str, Any] = {}
    if config.model.pretrained:
        tensors = tensor_files.read_tensors(config.model.pretrained)
        images = jnp.zeros((1, config.data.image_size, config.data.image_size, 3))
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        parts = ("params", "batch_stats")
        loaded = pretrained.load_backbone(
            {name: shapes[name]["backbone"] for name in parts}, tensors
        )
        given = {name: {"backbone": loaded[name]} for name in parts}
    if config.model.mean_shape:
        maps = [
            transforms.crop_from_image(
                transforms.face_box(record, config.data.box), HEAD_SIZE, **config.data.crop
            )
            for record in records
        ]
        points = np.stack([record.landmarks for record in records])
        shape = geometry.apply(np.stack(maps), points).mean(axis=0)
        given.setdefault("params", {})["head"] = {"bias": shape.ravel().astype(np.float32)}
    return given


def build_face_loss(config: ConfigDict) -> losses.FaceLoss:
    """The training loss."""
    return _call("loss", losses.make_face_loss, config.loss, image_size=config.data.image_size)


def build_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """The learning rate of every step of a training of `num_steps`."""
    return _call("schedule", optimizer.make_schedule, config.schedule, num_steps=num_steps)


def build_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser that follows the schedule."""
    return _call("optimizer", optimizer.make_optimizer, config.optimizer, schedule=schedule)


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a path beside `path` and renames, so that a good file stays whole."""
    new = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


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


def _call(section, function, settings, **bound):
    """Calls with the section's settings as keywords; they may not set what the caller does."""
    if clash := sorted(set(settings) & set(bound)):
        raise InputError(f"config.{section} has unknown keys {clash}")
    check_keywords(section, function, **settings, **bound)
    return function(**settings, **bound)
