"""Trained weights of a work folder, and the config that they were trained with."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from flm_jax.config import build, schema
from flm_jax.config.base import base_config
from flm_jax.data.files import read_regular
from flm_jax.errors import InputError
from flm_jax.models.network import LandmarkRegressor, variable_shapes
from flm_jax.runtime.devices import gathered, put_on_devices, replicated
from flm_jax.runtime.restore import DamagedError, SavedCheckpoints
from flm_jax.training.step import pmap_eval_step

# As `inference.predictor` has it.
Network = Callable[[Any], Mapping[str, Any]]


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
    """The weights of a checkpoint, on all devices; of a newer one where a training replaces it.

    With `evaluate.average_with` they are the mean of this run's and those runs'. Wortsman et al.,
    "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", ICML 2022: it takes runs that started from the same weights.

    Args:
        workdir: where the training wrote.
        which: best (by validation loss), last or a step, of every run.
        config: what they have to fit; None: what they were trained with.

    Raises:
        InputError: there is no such checkpoint, it does not fit, or it is damaged.
    """
    weights = _load_run(workdir, which, config)
    others = config.evaluate.average_with if config else ()
    if not others:
        return weights
    runs = [weights.variables]
    for other in map(str, others):
        try:
            runs.append(_load_run(Path(other).expanduser(), which, config).variables)
        except InputError as error:
            raise InputError(f"evaluate.average_with={other}: {error}") from None
    mean = jax.tree.map(lambda *arrays: sum(arrays) / len(arrays), *runs)
    return weights._replace(variables=mean)


def averaged_runs(config: ConfigDict) -> list[str]:
    """The names of the other runs that the weights are averaged with: files that travel have no
    place for the folders above them."""
    return [Path(str(other)).name for other in config.evaluate.average_with]


def _load_run(workdir, which, config):
    while True:
        with contextlib.closing(SavedCheckpoints(workdir)) as checkpoints:
            step = checkpoints.find(which)
            try:
                return _load(checkpoints, step, workdir, config)
            except DamagedError:
                if checkpoints.is_there(step):
                    raise


def _load(checkpoints, step, workdir, config):
    stored = schema.upgraded(checkpoints.config(step), workdir)
    if config is not None:
        schema.check_evaluation(schema.as_json(stored), config, workdir)
    shapes = variable_shapes(build.build_model(stored), stored.data.image_size)
    return Weights(step, stored, checkpoints.restore_weights(step, shapes, replicated()))


def trained_config(workdir: Path, given: Mapping[str, Any]) -> ConfigDict:
    """The work folder's config, as its last training had it, changed by what is given explicitly.

    For an exported network, `<name>.onnx`, the neutral config, which has the options of prediction.

    Args:
        workdir: where the training wrote.
        given: values by their flat keys, such as `evaluate.split`.

    Raises:
        InputError: there is neither a config nor a checkpoint, or a value of the wrong type.
    """
    config = base_config() if workdir.suffix == ".onnx" else _stored_config(workdir)
    try:
        config.update_from_flattened_dict(given)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{workdir}: its config does not take {dict(given)}: {error}") from None
    return config


def _stored_config(workdir):
    try:
        stored = json.loads(read_regular(workdir / "config.json"))
    except (OSError, ValueError, RecursionError):
        with contextlib.closing(SavedCheckpoints(workdir)) as checkpoints:
            stored = checkpoints.config(checkpoints.find("last"))
    return schema.upgraded(stored, workdir)


def load_network(
    workdir: Path,
    which: str,
    config: ConfigDict | None = None,
    run: Callable[[LandmarkRegressor, Any, int], Network | None] | None = None,
) -> dict[str, Any]:
    """The keywords of `LandmarkPredictor` for the weights of a work folder.

    Args:
        workdir, which, config: of `load_weights`.
        run: makes what computes from a network without batch norm, its variables and the size of
            its input. Without it, and where it makes nothing: the evaluation step, on all devices
            here.
    """
    _, stored, variables = load_weights(workdir, which, config)
    config = config or stored
    model = build.build_model(config, folded=True)
    settings = {
        "image_size": config.data.image_size,
        "crop": config.data.crop.to_dict(),
        "batch_size": config.batch_size,
        "box": config.data.box,
        "pixel_outputs": model.head.pixel_outputs,
    }
    folded = jax.jit(model.fold_batch_norm)(variables)
    if run and (network := run(model, jax.device_get(folded), config.data.image_size)):
        return {"network": network, "compiled": False, **settings}
    step = pmap_eval_step(model)
    return {
        "network": lambda images: gathered(step(folded, put_on_devices({"image": images}))),
        "multiple": jax.local_device_count(),
        **settings,
    }
