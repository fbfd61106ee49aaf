"""--mode evaluate: the figures and pictures of a trained network on a list of faces."""

import contextlib
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from flm_jax import experiment, geometry, metrics, processes, visualization
from flm_jax.checkpoint import Checkpoints
from flm_jax.data import transforms, wflw
from flm_jax.errors import InputError
from flm_jax.losses import wing_loss
from flm_jax.models.resnet import fold_batch_norm
from flm_jax.predictor import predict_faces
from flm_jax.train_state import TrainState, train_state_shapes
from flm_jax.train_step import pmap_eval_step, replicated

# The crop and the loss that the reported `loss` is always taken in, whatever trained the network.
_REPORTED_MARGIN, _REPORTED_SIZE = 10.0, 224
_reported_loss = partial(wing_loss, width=5.0, curvature=0.5)

_PICTURED_FACES, _PICTURE_SIZE = 24, 256


def run(config: ConfigDict, workdir: Path) -> None:
    """Evaluates a checkpoint on `evaluate.split` and writes evaluation.json, predictions.npz and
    predictions.png into the work folder, with the split in their names if it is not the test list.

    Raises:
        InputError: the config, the data or the work folder can't be used.
    """
    experiment.check(config)
    experiment.enable_compilation_cache(config, workdir)
    step, state = _restore(config, workdir)
    with processes.first_alone():
        splits = experiment.read_splits(config, workdir)
    records = experiment.select_split(config, workdir, splits)
    predictions = _predict(config, state, records)
    if not np.isfinite(predictions).all():
        raise InputError(f"{workdir}: the weights of step {step} predict no finite numbers")
    targets = np.stack([record.landmarks for record in records])
    boxes = np.stack([record.box for record in records])
    training = splits.training + splits.validation
    shape = metrics.mean_shape(
        np.stack([record.landmarks for record in training]),
        np.stack([record.box for record in training]),
    )
    figures = {
        "split": config.evaluate.split,
        "box": "rectangle",
        "step": step,
        **summarise(predictions, targets, boxes),
        "nme_mean_shape": 100
        * float(metrics.nme(metrics.place_shape(shape, boxes), targets).mean()),
        "subsets": {
            name: summarise(predictions[chosen], targets[chosen], boxes[chosen])
            for name, chosen in zip(
                wflw.ATTRIBUTES, np.stack([record.attributes for record in records]).T, strict=True
            )
        },
    }
    if processes.is_first():
        _write(config, workdir, records, predictions, targets, figures)
        print(format_table(figures))


def summarise(
    predictions: Float[ndarray, "n 98 2"],
    targets: Float[ndarray, "n 98 2"],
    boxes: Float[ndarray, "n 4"],
) -> dict[str, Any]:
    """Number of faces, loss, NME and FR in per cent, AUC; nulls where there is no face.

    The loss is Wing(5, 0.5), mean over coordinates and faces, in pixels of the rectangle widened by
    10 px and stretched to 224 x 224.
    """
    if len(boxes) == 0:
        return {"num_faces": 0, "loss": None, "nme": None, "fr10": None, "auc10": None}
    boxes = geometry.expand_box(boxes, _REPORTED_MARGIN)
    scale = _REPORTED_SIZE / (boxes[:, None, 2:] - boxes[:, None, :2])
    errors = metrics.nme(predictions, targets)
    loss = _reported_loss(jnp.asarray(scale * predictions), jnp.asarray(scale * targets))
    return {
        "num_faces": len(boxes),
        "loss": float(np.asarray(loss).mean(dtype=np.float64)),
        "nme": 100 * float(errors.mean()),
        "fr10": 100 * metrics.failure_rate(errors),
        "auc10": metrics.auc(errors),
    }


def format_table(figures: dict[str, Any]) -> str:
    """The figures of all faces and of each subset, as text."""
    rows = {f"{figures['split']}, all": figures, **figures["subsets"]}
    lines = [f"{'':<18}{'faces':>7}{'loss':>9}{'NME %':>9}{'FR10 %':>9}{'AUC10':>9}"]
    for name, row in rows.items():
        numbers = [math.nan if row[key] is None else row[key] for key in _COLUMNS]
        cells = "".join(
            f"{number:>9.{places}f}" for number, places in zip(numbers, (2, 2, 2, 3), strict=True)
        )
        lines.append(f"{name:<18}{row['num_faces']:>7}{cells}")
    lines.append(f"mean shape NME {figures['nme_mean_shape']:.2f} %")
    return "\n".join(lines).replace("nan", "  -")


_COLUMNS = ("loss", "nme", "fr10", "auc10")


def _restore(config: ConfigDict, workdir: Path) -> tuple[int, TrainState]:
    """The checkpoint that `evaluate.checkpoint` names, and its step."""
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        step = checkpoints.find(str(config.evaluate.checkpoint))
        old = checkpoints.config(step)
        experiment.check_evaluation(old, config, workdir)
        # The optimiser's state is part of the checkpoint; its shapes depend on no schedule.
        optimizer = experiment.build_optimizer(ConfigDict(old), optax.constant_schedule(0.0))
        model = experiment.build_model(config)
        shapes = train_state_shapes(model, optimizer, config.data.image_size)
        state, _ = checkpoints.restore(step, shapes, replicated())
    return step, state


def _predict(
    config: ConfigDict, state: TrainState, records: Sequence[wflw.Record]
) -> Float[ndarray, "n 98 2"]:
    """Landmarks in image pixels."""
    model = experiment.build_model(config, folded=True)
    eval_step = pmap_eval_step(model, experiment.build_face_loss(config))
    variables = fold_batch_norm(state.variables)
    with contextlib.closing(experiment.evaluation_batches(config, records)) as batches:
        return predict_faces(eval_step, variables, batches, len(records)).landmarks


def _write(config, workdir, records, predictions, targets, figures):
    split = config.evaluate.split
    suffix = "" if split == "test" else f"_{split}"
    arrays = {
        "image_name": np.array([record.image_name for record in records]),
        "line": np.array([record.line for record in records]),
        "landmarks": predictions,
        "target": targets,
        "nme": metrics.nme(predictions, targets).astype(np.float32),
    }
    text = json.dumps(figures, indent=2) + "\n"

    def write_arrays(path):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    experiment.write_atomically(workdir / f"predictions{suffix}.npz", write_arrays)
    experiment.write_atomically(
        workdir / f"evaluation{suffix}.json", lambda path: path.write_text(text)
    )
    experiment.write_atomically(
        workdir / f"predictions{suffix}.png",
        partial(_draw, records=records, predictions=predictions, targets=targets),
    )


def _draw(path, records, predictions, targets):
    """Faces spread evenly over the list, each in a square of 1.5 times its rectangle."""
    chosen = (
        np.linspace(0, len(records) - 1, min(_PICTURED_FACES, len(records))).round().astype(int)
    )
    errors = metrics.nme(predictions, targets)
    crops, points, truths, titles = [], [], [], []
    for i in chosen:
        box = records[i].box
        middle, side = (box[:2] + box[2:]) / 2, 0.75 * (box[2:] - box[:2]).max()
        square = np.concatenate([middle - side, middle + side])
        crop_from_image = geometry.crop_from_image(square, _PICTURE_SIZE)
        image = transforms.read_image(records[i])
        crop = transforms.crop_image(image, geometry.invert(crop_from_image), _PICTURE_SIZE)
        crops.append(crop[..., ::-1])
        points.append(geometry.apply(crop_from_image, predictions[i]))
        truths.append(geometry.apply(crop_from_image, targets[i]))
        titles.append(f"NME {100 * errors[i]:.1f} %")
    visualization.draw_predictions(path, crops, np.stack(points), np.stack(truths), titles)
