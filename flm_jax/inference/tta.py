"""Test-time augmentation, and boxes around landmarks. NumPy, on the host."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax import geometry

# Boxes f32[n, 4] and whether the crops are flipped -> landmarks f32[n, 98, 2] of the unflipped
# faces, in image pixels.
Predict = Callable[[ndarray, bool], ndarray]

# A second box smaller than this share of the first, or larger by as much, holds no face.
_MIN_SHARE = 0.25


def predict_with_tta(
    predict: Predict,
    boxes: Float[ndarray, "n 4"],
    margins: Float[ndarray, "4"],
    *,
    two_pass: bool,
    flip: bool,
    extra_crops: int,
    box_noise: float,
) -> Float[ndarray, "n 98 2"]:
    """The mean of several predictions for every face.

    Args:
        predict: the network.
        boxes: of the faces.
        margins: of the training's boxes around their landmarks, as `mean_margins` gives them.
        two_pass: whether faces are cropped again, around the points of a first pass.
        flip: whether each crop's prediction is averaged with that of the flipped crop.
        extra_crops: how many more crops there are, whose boxes are shifted and scaled at random.
        box_noise: by how much at most, in sides of the box.
    """
    if two_pass:
        boxes = second_boxes(predict(boxes, False), boxes, margins)
    rng = np.random.default_rng(0)
    views = [boxes, *(noisy_boxes(rng, boxes, box_noise) for _ in range(extra_crops))]
    flips = (False, True) if flip else (False,)
    points = [predict(view, flipped) for view in views for flipped in flips]
    return np.stack(points).mean(axis=0, dtype=np.float64).astype(np.float32)


def mean_margins(
    boxes: Float[ndarray, "n 4"], landmarks: Float[ndarray, "n 98 2"]
) -> Float[ndarray, "4"]:
    """How far the boxes reach beyond their landmarks' left, top, right and bottom: the mean over
    faces, in widths and heights of the landmarks' box."""
    inner = geometry.bounding_box(landmarks.astype(np.float64))
    return geometry.margins_around(inner, boxes).mean(axis=0)


def boxes_around(
    landmarks: Float[ndarray, "n 98 2"], margins: Float[ndarray, "4"]
) -> Float[ndarray, "n 4"]:
    """Boxes with these margins around the landmarks."""
    inner = geometry.bounding_box(landmarks.astype(np.float64))
    return geometry.add_margins(inner, margins).astype(np.float32)


def second_boxes(
    landmarks: Float[ndarray, "n 98 2"],
    boxes: Float[ndarray, "n 4"],
    margins: Float[ndarray, "4"],
) -> Float[ndarray, "n 4"]:
    """The boxes around predicted landmarks, or the first ones where these hold no face."""
    found = boxes_around(landmarks, margins)
    shares = (found[:, 2:] - found[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    good = ((shares > _MIN_SHARE) & (shares < 1 / _MIN_SHARE)).all(axis=1)
    return np.where(good[:, None], found, boxes).astype(np.float32)


def noisy_boxes(
    rng: np.random.Generator, boxes: Float[ndarray, "n 4"], noise: float
) -> Float[ndarray, "n 4"]:
    """Each box shifted, and scaled about its middle, by up to `noise` of its sides."""
    shift = rng.uniform(-noise, noise, (len(boxes), 2)) * (boxes[:, 2:] - boxes[:, :2])
    growth = rng.uniform(-noise, noise, (len(boxes), 1)) / 2
    return geometry.add_margins(boxes + np.tile(shift, 2), growth).astype(np.float32)
