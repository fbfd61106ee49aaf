"""Trained weights of a work folder, and the config that they were trained with."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from flm_jax.config import build, schema
from flm_jax.errors import InputError
from flm_jax.models.network import variable_shapes
from flm_jax.runtime.devices import gathered, put_on_devices, replicated
from flm_jax.runtime.restore import SavedCheckpoints
from flm_jax.training.step import pmap_eval_step


class Weights(NamedTuple):
    """Trained weights.

    Attributes:
        step: how many training steps they have seen.
        config: what they were trained with.
        variables: `params` and `batch_stats`, the averaged ones where the training kept averages.
    """

    step: int
    config: ConfigDict
    variables: dict[str, Any]


def load_weights(workdir: Path, which: str, config: ConfigDict | None = None) -> Weights:
    """The weights of a checkpoint, on all devices.

    Args:
        workdir: where the training wrote.
        which: best (by validation loss), last or a step.
        config: what they have to fit; None: what they were trained with.

    Raises:
        InputError: there is no such checkpoint, it does not fit, or it is damaged.
    """
    with contextlib.closing(SavedCheckpoints(workdir)) as checkpoints:
        step = checkpoints.find(which)
        stored = schema.upgraded(checkpoints.config(step), workdir)
        if config is not None:
            schema.check_evaluation(schema.as_json(stored), config, workdir)
        shapes = variable_shapes(build.build_model(stored), stored.data.image_size)
        variables = checkpoints.restore_weights(step, shapes, replicated())
    return Weights(step, stored, variables)


def trained_config(workdir: Path, given: Mapping[str, Any]) -> ConfigDict:
    """The work folder's config, as its last training had it, changed by what is given explicitly.

    Args:
        workdir: where the training wrote.
        given: values by their flat keys, such as `evaluate.split`.

    Raises:
        InputError: there is neither a config nor a checkpoint, or a value of the wrong type.
    """
    try:
        stored = json.loads((workdir / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        with contextlib.closing(SavedCheckpoints(workdir)) as checkpoints:
            stored = checkpoints.config(checkpoints.find("last"))
    config = schema.upgraded(stored, workdir)
    try:
        config.update_from_flattened_dict(given)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{workdir}: its config does not take {dict(given)}: {error}") from None
    return config


def load_network(workdir: Path, which: str, config: ConfigDict | None = None) -> dict[str, Any]:
    """The keywords of `LandmarkPredictor` for the weights of a work folder, on all devices here.

    Args:
        workdir, which, config: of `load_weights`.
    """
    _, stored, variables = load_weights(workdir, which, config)
    config = config or stored
    model = build.build_model(config, folded=True)
    folded = model.fold_batch_norm(variables)
    step = pmap_eval_step(model)
    return {
        "network": lambda images: gathered(step(folded, put_on_devices({"image": images}))),
        "image_size": config.data.image_size,
        "crop": config.data.crop.to_dict(),
        "batch_size": config.batch_size,
        "pixel_outputs": model.head.pixel_outputs,
        "multiple": jax.local_device_count(),
    }
