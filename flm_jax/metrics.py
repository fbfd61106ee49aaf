"""Errors of predicted landmarks, as the field reports them on WFLW. NumPy, on the host."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.landmarks import OUTER_EYE_CORNERS


def nme(
    predictions: Float[ndarray, "n 98 2"], targets: Float[ndarray, "n 98 2"]
) -> Float[ndarray, " n"]:
    """Normalised mean error of each face, as a fraction.

    The mean distance of a face's points from the truth, over the distance of its outer eye corners
    (Wu et al., CVPR 2018). Both in pixels of the original image: a stretched crop would change it.
    """
    distance = np.linalg.norm(predictions.astype(np.float64) - targets, axis=-1)
    left, right = OUTER_EYE_CORNERS
    eyes = np.linalg.norm(targets[:, left].astype(np.float64) - targets[:, right], axis=-1)
    return distance.mean(axis=-1) / eyes


def failure_rate(errors: Float[ndarray, " n"], threshold: float = 0.10) -> float:
    """The share of faces whose error is strictly above the threshold."""
    return float(1 - (errors <= threshold).mean())  # NaN is a failure.


def auc(errors: Float[ndarray, " n"], threshold: float = 0.10) -> float:
    """Area under the cumulative error curve from 0 to the threshold, over the threshold.

    The curve is a step at each face's error, so its integral is exact:
    mean of max(0, 1 - error / threshold). Published tools approximate it at steps of 1e-4.
    """
    return float(np.maximum(0.0, 1.0 - errors / threshold).mean())


def mean_shape(
    landmarks: Float[ndarray, "n 98 2"], boxes: Float[ndarray, "n 4"]
) -> Float[ndarray, "98 2"]:
    """The mean over faces of (landmark - box corner) / box size."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return ((landmarks - corner) / size).mean(axis=0)


def place_shape(
    shape: Float[ndarray, "98 2"], boxes: Float[ndarray, "n 4"]
) -> Float[ndarray, "n 98 2"]:
    """A shape in units of the box, placed in each box: the guess that looks at no picture."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return corner + shape * size
