"""--mode evaluate: the figures and images of a trained network on a list of faces."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy import ndarray

from flm_jax import geometry
from flm_jax.config import build, schema
from flm_jax.config.weights import averaged_runs, load_weights
from flm_jax.data import sampler, wflw
from flm_jax.data.crop import crop_image, face_box
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics, plots
from flm_jax.evaluation.box_robustness import scaled_boxes, shifted_boxes
from flm_jax.evaluation.faces import FacePredictions, predict_faces
from flm_jax.evaluation.report import (
    details,
    format_table,
    hidden_points,
    subsets,
    summarise,
)
from flm_jax.inference import tta
from flm_jax.landmarks import MIRROR
from flm_jax.runtime import processes, work_folder
from flm_jax.runtime.alike import check_alike
from flm_jax.training.progress import Unreadable
from flm_jax.training.step import pmap_eval_step

# launch.py passes the config that the weights were trained with, and the overrides.
CONFIG_OF_WEIGHTS = True

# Slurm, Open MPI and TPUs start it as the processes of one run.
SEVERAL_PROCESSES = True

# Per cent of the box's sides.
_BOX_ERRORS = (5, 10, 20)

_SHOWN_FACES, _SHOWN_SIZE = 24, 256


def run(config: ConfigDict, workdir: Path) -> None:
    """Evaluates a checkpoint on `evaluate.split` and writes evaluation.json, predictions.npz,
    predictions.png, worst.png and ced.png into the work folder, with the split in their names if it
    is not the test list.

    Args:
        config: of the weights, and what `config.evaluate` says.
        workdir: where the weights are.

    Raises:
        InputError: the config, the data or the work folder can't be used.
    """
    schema.check(config)
    check_alike({"--mode": "evaluate", **schema.shared(config)})
    build.enable_compilation_cache(config, workdir)
    step, _, variables = load_weights(workdir, str(config.evaluate.checkpoint), config)
    with processes.first_alone():
        splits = build.read_splits(config, workdir)
    records = build.select_split(config, workdir, splits)
    check_alike({"step": step, f"the {config.evaluate.split} faces": sampler.fingerprint(records)})
    processes.say(build.describe_source(config, workdir))

    unreadable = Unreadable(config.evaluate.split, records, config.data.max_unreadable)
    predict_records = _predictor(config, variables, unreadable.add)
    plain = predict_records(records, False)
    if unreadable.rows:
        processes.say(str(unreadable))
    records = [record for record, is_read in zip(records, plain.read, strict=True) if is_read]
    num_unreadable, plain = int((~plain.read).sum()), plain.readable()
    if not np.isfinite(plain.landmarks).all():
        raise InputError(f"{workdir}: the weights of step {step} predict no finite numbers")

    targets = np.stack([record.landmarks for record in records])
    boxes = np.stack([record.box for record in records])

    def predict(boxes: ndarray, flip: bool) -> ndarray:
        moved = [replace(record, box=box) for record, box in zip(records, boxes, strict=True)]
        points = predict_records(moved, flip).landmarks
        return points[:, MIRROR] if flip else points

    training = splits.training + splits.validation
    attributes = np.stack([record.attributes for record in records])
    others = _predict_protocols(config, predict, plain.landmarks, boxes, targets, training)
    figures = {
        "split": config.evaluate.split,
        "box": "rectangle",
        "step": step,
        "average_with": averaged_runs(config),
        "num_unreadable": num_unreadable,
        **summarise(plain.landmarks, targets, boxes),
        **details(plain.landmarks, targets),
        "nme_mean_shape": _nme_of_mean_shape(training, boxes, targets),
        "subsets": subsets(plain.landmarks, targets, boxes, attributes),
        "tta": config.evaluate.tta.to_dict(),
        "protocols": {
            box: {
                kind: {**summarise(points, targets, boxes), **details(points, targets)}
                for kind, points in kinds.items()
            }
            for box, kinds in others.items()
        },
        "box_robustness": {},
    }
    if "visibility" in plain.outputs:
        visible = [record.visible for record in records]
        occluded = attributes[:, wflw.ATTRIBUTES.index("occlusion")]
        figures["visibility"] = hidden_points(plain.outputs["visibility"], visible, occluded)
    if config.evaluate.box_robustness:
        figures["box_robustness"] = _box_robustness(predict, boxes, targets)
    if processes.is_first():
        _write(config, workdir, records, plain, others, targets, figures)
        print(format_table(figures))


def _predictor(
    config: ConfigDict, variables: dict[str, Any], at_unreadable: Callable[[int], object]
) -> Callable[[Sequence[wflw.Record], bool], FacePredictions]:
    """Records and whether they are flipped -> predictions in image pixels."""
    model = build.build_model(config, folded=True)
    eval_step = pmap_eval_step(model, build.build_face_loss(config))
    folded = jax.jit(model.fold_batch_norm)(variables)

    def predict(records, flip):
        batches = build.evaluation_batches(
            config, records, box="rectangle", flip=flip, at_unreadable=at_unreadable
        )
        with contextlib.closing(batches):
            pixels = model.head.pixel_outputs
            return predict_faces(eval_step, folded, batches, len(records), pixels)

    return predict


def _nme_of_mean_shape(training, boxes, targets) -> float:
    """NME in per cent of the training faces' mean shape placed in the rectangles."""
    points = np.stack([record.landmarks for record in training])
    shape = metrics.mean_shape(points, np.stack([record.box for record in training]))
    return 100 * float(metrics.nme(metrics.place_shape(shape, boxes), targets).mean())


def _predict_protocols(config, predict, plain, rectangles, targets, training):
    """The predictions of `evaluate.boxes`, each without and, where it is on, with test-time
    augmentation. `plain` are those of the rectangles without."""
    chosen = config.evaluate.tta
    margins = tta.mean_margins(
        np.stack([face_box(record, config.data.box) for record in training]),
        np.stack([record.landmarks for record in training]),
    )
    of_box = {"rectangle": rectangles, "landmarks": geometry.bounding_box(targets)}
    predictions: dict[str, dict[str, ndarray]] = {}
    for box in config.evaluate.boxes:
        predictions[box] = {"plain": plain if box == "rectangle" else predict(of_box[box], False)}
        if chosen.two_pass or chosen.flip or chosen.extra_crops:
            predictions[box]["tta"] = tta.predict_with_tta(predict, of_box[box], margins, **chosen)
    return predictions


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
        **plain.outputs,
    }
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
    count = min(_SHOWN_FACES, len(records))
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
        crop_from_image = geometry.crop_from_image(square, _SHOWN_SIZE)
        image = read_record_image(records[i])
        image_from_crop = geometry.invert(crop_from_image)
        crops.append(crop_image(image, image_from_crop, _SHOWN_SIZE))
        dots.append(geometry.apply(crop_from_image, points[i]))
        truths.append(geometry.apply(crop_from_image, targets[i]))
        titles.append(f"line {records[i].line}: NME {100 * errors[i]:.1f} %")
    plots.draw_faces(path, crops, np.stack(dots), titles, targets=np.stack(truths))
