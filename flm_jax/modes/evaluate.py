"""--mode evaluate: the figures and pictures of a trained network on a list of faces."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from flm_jax import geometry
from flm_jax.config import build, schema
from flm_jax.data import wflw
from flm_jax.data.crop import crop_image
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics, plots
from flm_jax.evaluation.box_robustness import scaled_boxes, shifted_boxes
from flm_jax.inference import tta
from flm_jax.inference.predictor import EvalStep, Predictions, predict_faces, restore
from flm_jax.landmarks import MIRROR
from flm_jax.models.resnet import fold_batch_norm
from flm_jax.runtime import processes, work_folder
from flm_jax.training.losses import wing_loss
from flm_jax.training.step import pmap_eval_step

# The crop and the loss that the reported `loss` is always taken in, whatever trained the network.
_REPORTED_MARGIN, _REPORTED_SIZE = 10.0, 224
_reported_loss = partial(wing_loss, width=5.0, curvature=0.5)

# Per cent of the box's sides.
_BOX_ERRORS = (5, 10, 20)

_PICTURED_FACES, _PICTURE_SIZE = 24, 256


def run(config: ConfigDict, workdir: Path) -> None:
    """Evaluates a checkpoint on `evaluate.split` and writes evaluation.json, predictions.npz,
    predictions.png, worst.png and ced.png into the work folder, with the split in their names if it
    is not the test list.

    Raises:
        InputError: the config, the data or the work folder can't be used.
    """
    schema.check(config)
    build.enable_compilation_cache(config, workdir)
    step, _, state = restore(workdir, str(config.evaluate.checkpoint), config)
    with processes.first_alone():
        splits = build.read_splits(config, workdir)
    records = build.select_split(config, workdir, splits)
    processes.say(build.describe_source(config, workdir))
    targets = np.stack([record.landmarks for record in records])
    boxes = np.stack([record.box for record in records])
    training = splits.training + splits.validation
    training_points = np.stack([record.landmarks for record in training])
    training_boxes = np.stack([record.box for record in training])
    shape = metrics.mean_shape(training_points, training_boxes)

    model = build.build_model(config, folded=True)
    eval_step = pmap_eval_step(model, build.build_face_loss(config))
    variables = fold_batch_norm(state.averaged_variables)
    plain = _predict(config, eval_step, variables, records)
    predictions = plain.landmarks
    if not np.isfinite(predictions).all():
        raise InputError(f"{workdir}: the weights of step {step} predict no finite numbers")

    def predict(boxes: ndarray, flip: bool) -> ndarray:
        moved = [
            dataclasses.replace(record, box=box) for record, box in zip(records, boxes, strict=True)
        ]
        points = _predict(config, eval_step, variables, moved, flip).landmarks
        return points[:, MIRROR] if flip else points

    if config.data.box == "landmarks":
        training_boxes = geometry.bounding_box(training_points)
    margins = tta.mean_margins(training_boxes, training_points)
    others = _predict_protocols(config, predict, predictions, boxes, targets, margins)
    figures = {
        "split": config.evaluate.split,
        "box": "rectangle",
        "step": step,
        **summarise(predictions, targets, boxes),
        **_details(predictions, targets),
        "nme_mean_shape": 100
        * float(metrics.nme(metrics.place_shape(shape, boxes), targets).mean()),
        "subsets": {
            name: summarise(predictions[chosen], targets[chosen], boxes[chosen])
            for name, chosen in zip(
                wflw.ATTRIBUTES, np.stack([record.attributes for record in records]).T, strict=True
            )
        },
        "tta": config.evaluate.tta.to_dict(),
        "protocols": {
            box: {
                kind: {**summarise(points, targets, boxes), **_details(points, targets)}
                for kind, points in kinds.items()
            }
            for box, kinds in others.items()
        },
        "box_robustness": _box_robustness(predict, boxes, targets)
        if config.evaluate.box_robustness
        else {},
    }
    if processes.is_first():
        _write(config, workdir, records, plain, others, targets, figures)
        print(format_table(figures))


def _predict_protocols(config, predict, plain, rectangles, targets, margins):
    """The predictions of `evaluate.boxes`, each without and, where there are any, with tta.

    `plain` are those of the rectangles without.
    """
    chosen = config.evaluate.tta
    of_box = {"rectangle": rectangles, "landmarks": geometry.bounding_box(targets)}
    predictions: dict[str, dict[str, ndarray]] = {}
    for box in config.evaluate.boxes:
        predictions[box] = {"plain": plain if box == "rectangle" else predict(of_box[box], False)}
        if chosen.two_pass or chosen.flip or chosen.extra_crops:
            predictions[box]["tta"] = tta.predict_with_tta(predict, of_box[box], margins, **chosen)
    return predictions


def _details(predictions, targets) -> dict[str, Any]:
    """NME in per cent of each group of points, and the 95 % interval of the whole's."""
    groups = metrics.group_nme(predictions, targets)
    interval = metrics.nme_interval(metrics.nme(predictions, targets))
    return {
        "nme_interval": [100 * end for end in interval],
        "groups": {group: 100 * error for group, error in groups.items()},
    }


def _box_robustness(predict, boxes, targets) -> dict[str, dict[str, float]]:
    """NME in per cent where each box is off by so many per cent of its sides."""
    return {
        name: {
            str(share): 100
            * float(
                metrics.nme(
                    predict(change(np.random.default_rng(0), boxes, share / 100), False), targets
                ).mean()
            )
            for share in _BOX_ERRORS
        }
        for name, change in (
            ("shift", shifted_boxes),
            ("scale", scaled_boxes),
        )
    }


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
    low, high = figures["nme_interval"]
    groups = ", ".join(f"{group} {error:.2f}" for group, error in figures["groups"].items())
    lines.append(f"NME's 95 % interval {low:.2f} to {high:.2f}; {groups}")
    lines += [
        f"{f'box {box}, {kind}':<34}NME {row['nme']:.2f} %"
        for box, kinds in figures["protocols"].items()
        for kind, row in kinds.items()
    ]
    lines += [
        f"{f'rectangles off by a {name}':<34}"
        + ", ".join(f"{share} %: {error:.2f} %" for share, error in row.items())
        for name, row in figures["box_robustness"].items()
    ]
    lines.append(f"mean shape NME {figures['nme_mean_shape']:.2f} %")
    return "\n".join(lines).replace("nan", "  -")


_COLUMNS = ("loss", "nme", "fr10", "auc10")


def _predict(
    config: ConfigDict,
    eval_step: EvalStep,
    variables: dict[str, Any],
    records: Sequence[wflw.Record],
    flip: bool = False,
) -> Predictions:
    """Predictions in image pixels."""
    batches = build.evaluation_batches(config, records, box="rectangle", flip=flip)
    with contextlib.closing(batches):
        return predict_faces(eval_step, variables, batches, len(records))


def _write(config, workdir, records, plain, others, targets, figures):
    split = config.evaluate.split
    suffix = "" if split == "test" else f"_{split}"
    predictions, errors = plain.landmarks, metrics.nme(plain.landmarks, targets)
    arrays = {
        "image_name": np.array([record.image_name for record in records]),
        "line": np.array([record.line for record in records]),
        "landmarks": predictions,
        "target": targets,
        "nme": errors.astype(np.float32),
    }
    if plain.scale is not None:
        arrays["scale"] = plain.scale
    curves = {"rectangle": errors}
    for box, kinds in others.items():
        for kind, points in kinds.items():
            arrays[f"landmarks_{box}_{kind}"] = points
            curves[f"{box}, {kind}"] = metrics.nme(points, targets)
    curves.pop("rectangle, plain", None)  # The first again.
    text = json.dumps(figures, indent=2) + "\n"

    def write_arrays(path):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    work_folder.write_atomically(workdir / f"predictions{suffix}.npz", write_arrays)
    work_folder.write_atomically(
        workdir / f"evaluation{suffix}.json", lambda path: path.write_text(text)
    )
    work_folder.write_atomically(
        workdir / f"ced{suffix}.png", lambda path: plots.draw_error_curves(path, curves)
    )
    count = min(_PICTURED_FACES, len(records))
    chosen = {
        "predictions": np.linspace(0, len(records) - 1, count).round().astype(int),
        "worst": np.argsort(-errors)[:count],
    }
    for name, faces in chosen.items():
        draw = partial(_draw, chosen=faces, records=records, points=predictions, targets=targets)
        work_folder.write_atomically(workdir / f"{name}{suffix}.png", draw)


def _draw(path, chosen, records, points, targets):
    """Faces of the list, each in a square of 1.5 times its rectangle."""
    errors = metrics.nme(points, targets)
    crops, dots, truths, titles = [], [], [], []
    for i in chosen:
        square = geometry.square_box(geometry.scale_box(records[i].box, 1.5))
        crop_from_image = geometry.crop_from_image(square, _PICTURE_SIZE)
        image = read_record_image(records[i])
        image_from_crop = geometry.invert(crop_from_image)
        crops.append(crop_image(image, image_from_crop, _PICTURE_SIZE))
        dots.append(geometry.apply(crop_from_image, points[i]))
        truths.append(geometry.apply(crop_from_image, targets[i]))
        titles.append(f"line {records[i].line}: NME {100 * errors[i]:.1f} %")
    plots.draw_faces(path, crops, np.stack(dots), titles, targets=np.stack(truths))
