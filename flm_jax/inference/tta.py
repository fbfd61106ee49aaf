"""Where the boxes of a test come from, and several looks at a face. NumPy, on the host."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax import geometry

# Boxes f32[n, 4] and whether the faces are mirrored -> landmarks f32[n, 98, 2] of the faces as they
# are, in image pixels.
Predict = Callable[[ndarray, bool], ndarray]

# A second crop smaller than this share of the first box holds no face: the first is kept.
_SMALLEST = 0.25


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
    """Landmarks from several looks at every face.

    Args:
        predict: one look.
        boxes: of the faces.
        margins: of the training's boxes around their landmarks, as `mean_margins` gives them.
        two_pass: whether the faces are cropped again, around the points of a first look.
        flip: whether each look is averaged with that at the mirrored face.
        extra_crops: looks besides the first, each with the boxes moved and scaled at random.
        box_noise: how far, at most, in sides of the box.

    Returns:
        The mean of all looks of the last pass.
    """
    if two_pass:
        boxes = second_boxes(predict(boxes, False), boxes, margins)
    rng = np.random.default_rng(0)
    views = [boxes, *(random_boxes(rng, boxes, box_noise) for _ in range(extra_crops))]
    looks = [predict(view, side) for view in views for side in ((False, True)[: 1 + flip])]
    return np.stack(looks).mean(axis=0, dtype=np.float64).astype(np.float32)


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
    """The boxes around predicted landmarks, or the first where these hold no face."""
    found = boxes_around(landmarks, margins)
    shares = (found[:, 2:] - found[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    good = (shares > _SMALLEST).all(axis=1) & (shares < 1 / _SMALLEST).all(axis=1)
    return np.where(good[:, None], found, boxes).astype(np.float32)


def shifted_boxes(
    rng: np.random.Generator, boxes: Float[ndarray, "n 4"], share: float
) -> Float[ndarray, "n 4"]:
    """Each box moved by `share` of its width and height, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi, len(boxes))
    step = share * np.stack([np.cos(angle), np.sin(angle)], axis=1) * (boxes[:, 2:] - boxes[:, :2])
    return (boxes + np.tile(step, 2)).astype(np.float32)


def scaled_boxes(
    rng: np.random.Generator, boxes: Float[ndarray, "n 4"], share: float
) -> Float[ndarray, "n 4"]:
    """Each box, at random, larger or smaller by `share` of its sides, about its middle."""
    sign = rng.choice([-1, 1], (len(boxes), 1))
    return geometry.add_margins(boxes, sign * share / 2).astype(np.float32)


def random_boxes(
    rng: np.random.Generator, boxes: Float[ndarray, "n 4"], most: float
) -> Float[ndarray, "n 4"]:
    """Each box moved, and larger or smaller, by up to `most` of its sides."""
    move = rng.uniform(-most, most, (len(boxes), 2)) * (boxes[:, 2:] - boxes[:, :2])
    grow = rng.uniform(-most, most, (len(boxes), 1)) / 2
    return geometry.add_margins(boxes + np.tile(move, 2), grow).astype(np.float32)
