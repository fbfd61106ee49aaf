"""From predictions to the figures of evaluation.json, and to a table."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.wflw import ATTRIBUTES
from flm_jax.evaluation import metrics
from flm_jax.training.losses import wing_loss

# The crop and the loss that the reported `loss` is always taken in, whatever trained the network.
_REPORTED_MARGIN, _REPORTED_SIZE = 10.0, 224
_reported_loss = jax.jit(partial(wing_loss, width=5.0, curvature=0.5))

_COLUMNS = ("loss", "nme", "fr10", "auc10")


def summarise(
    predictions: Float[ndarray, "n 98 2"],
    targets: Float[ndarray, "n 98 2"],
    boxes: Float[ndarray, "n 4"],
) -> dict[str, Any]:
    """Number of faces, loss, NME and FR in per cent, AUC; nulls where there is no face.

    The loss is Wing(5, 0.5), mean over coordinates and faces, in pixels of the rectangle widened by
    10 px and stretched to 224 x 224.
    """
    return _summarise(metrics.nme(predictions, targets), _losses(predictions, targets, boxes))


def _losses(predictions, targets, boxes):
    """Each face's reported loss, f64[n]."""
    boxes = geometry.expand_box(boxes, _REPORTED_MARGIN)
    scale = _REPORTED_SIZE / (boxes[:, None, 2:] - boxes[:, None, :2])
    loss = _reported_loss(jnp.asarray(scale * predictions), jnp.asarray(scale * targets))
    return np.asarray(loss).mean(axis=(1, 2), dtype=np.float64)


def _summarise(errors, losses):
    if len(errors) == 0:
        return {"num_faces": 0, "loss": None, "nme": None, "fr10": None, "auc10": None}
    return {
        "num_faces": len(errors),
        "loss": float(losses.mean()),
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
    if hidden := figures.get("visibility"):
        values = {name: math.nan if value is None else value for name, value in hidden.items()}
        lines.append(
            f"hidden points: average precision {values['average_precision']:.3f}; "
            f"{values['hidden_occluded']:.1f} a face with occlusion, "
            f"{values['hidden_others']:.1f} without"
        )
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


def subsets(
    predictions: Float[ndarray, "n 98 2"],
    targets: Float[ndarray, "n 98 2"],
    boxes: Float[ndarray, "n 4"],
    attributes: Bool[ndarray, "n 6"],
) -> dict[str, dict[str, Any]]:
    """`summarise` of the faces that have each of WFLW's attributes."""
    # Once for all: each number of faces would be compiled for.
    errors, losses = metrics.nme(predictions, targets), _losses(predictions, targets, boxes)
    return {
        name: _summarise(errors[chosen], losses[chosen])
        for name, chosen in zip(ATTRIBUTES, attributes.T, strict=True)
    }


def hidden_points(
    visibility: Float[ndarray, "n 98"],
    visible: Sequence[Bool[ndarray, "98"] | None],
    occluded: Bool[ndarray, " n"],
) -> dict[str, float | None]:
    """What a network's visibility is worth.

    Args:
        visibility: each point's probability to be visible.
        visible: whether it is, by face; None where that is unknown.
        occluded: which faces have WFLW's occlusion attribute.

    Returns:
        `average_precision` of hidden points, where they are known; and the mean number of points
        called hidden on the occluded faces and on the others.
    """
    known = [i for i, each in enumerate(visible) if each is not None]
    hidden = ~np.array([visible[i] for i in known], bool).reshape(-1)
    counts = (visibility < 0.5).sum(axis=1)
    return {
        "average_precision": metrics.average_precision(1 - visibility[known].reshape(-1), hidden)
        if hidden.any()
        else None,
        "hidden_occluded": float(counts[occluded].mean()) if occluded.any() else None,
        "hidden_others": float(counts[~occluded].mean()) if (~occluded).any() else None,
    }


def details(
    predictions: Float[ndarray, "n 98 2"], targets: Float[ndarray, "n 98 2"]
) -> dict[str, Any]:
    """NME in per cent of each group of points, and the 95 % interval of the whole's."""
    groups = metrics.group_nme(predictions, targets)
    interval = metrics.nme_interval(metrics.nme(predictions, targets))
    return {
        "nme_interval": [100 * end for end in interval],
        "groups": {group: 100 * error for group, error in groups.items()},
    }
