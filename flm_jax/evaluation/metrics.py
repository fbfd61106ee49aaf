"""Errors of predicted landmarks, as the field reports them on WFLW. NumPy, on the host."""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from flm_jax.landmarks import GROUPS, OUTER_EYE_CORNERS


def nme(
    predictions: Float[ndarray, "n 98 2"], targets: Float[ndarray, "n 98 2"]
) -> Float[ndarray, " n"]:
    """Normalised mean error of each face, as a fraction.

    The mean distance of a face's points from the truth, over the distance of its outer eye corners
    (Wu et al., CVPR 2018). Both in pixels of the original image: a stretched crop would change it.
    """
    return _point_errors(predictions, targets).mean(axis=-1)


def group_nme(
    predictions: Float[ndarray, "n 98 2"], targets: Float[ndarray, "n 98 2"]
) -> dict[str, float]:
    """The mean over faces of the NME of each group's points, as a fraction."""
    errors = _point_errors(predictions, targets).mean(axis=0)
    return {group: float(errors[list(indices)].mean()) for group, indices in GROUPS.items()}


def nme_interval(errors: Float[ndarray, " n"], samples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean error, resampling faces with replacement.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. It covers the choice
    of test faces, not the variation between trainings.
    """
    rng = np.random.default_rng(0)
    means = [errors[rng.integers(len(errors), size=len(errors))].mean() for _ in range(samples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _point_errors(predictions, targets):
    """Each point's distance from the truth, over the distance of the outer eye corners."""
    distance = np.linalg.norm(predictions.astype(np.float64) - targets, axis=-1)
    left, right = OUTER_EYE_CORNERS
    eyes = np.linalg.norm(targets[:, left].astype(np.float64) - targets[:, right], axis=-1)
    return distance / eyes[:, None]


def failure_rate(errors: Float[ndarray, " n"], threshold: float = 0.10) -> float:
    """The share of faces whose error is strictly above the threshold."""
    return float(1 - (errors <= threshold).mean())  # NaN is a failure.


def auc(errors: Float[ndarray, " n"], threshold: float = 0.10) -> float:
    """Area under the cumulative error curve from 0 to the threshold, over the threshold.

    The curve is a step at each face's error, so its integral is exact:
    mean of max(0, 1 - error / threshold). Published tools approximate it at steps of 1e-4.
    """
    return float(np.maximum(0.0, 1.0 - errors / threshold).mean())


def average_precision(scores: Float[ndarray, " n"], positive: Bool[ndarray, " n"]) -> float:
    """The mean, over the positives, of the precision among all that score at least as high."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    # Those of equal scores are taken together, up to the last of them.
    last = np.searchsorted(-scores[order], -scores[order], side="right") - 1
    return float((found / np.arange(1, len(order) + 1))[last][positive[order]].mean())


def mean_shape(
    landmarks: Float[ndarray, "n 98 2"], boxes: Float[ndarray, "n 4"]
) -> Float[ndarray, "98 2"]:
    """The mean over faces of (landmark - box corner) / box size."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return ((landmarks - corner) / size).mean(axis=0)


def place_shape(
    shape: Float[ndarray, "98 2"], boxes: Float[ndarray, "n 4"]
) -> Float[ndarray, "n 98 2"]:
    """A shape in units of the box, placed in each box: a guess that ignores the image."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return corner + shape * size
