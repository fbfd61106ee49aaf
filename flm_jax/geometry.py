"""Affine maps of the plane, as 2x3 matrices, and the boxes that they come from.

A map is named `b_from_a`: it takes points of `a` to points of `b`. Points are pixels, and (0, 0) is
the centre of the top-left pixel, so an image of width w covers [-0.5, w - 0.5]. A box is
(xmin, ymin, xmax, ymax).
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

# The sense in which each side of a box leaves its middle.
_OUTWARDS = np.array([-1, -1, 1, 1])


def expand_box(box: Float[ndarray, "*n 4"], margin: float) -> Float[ndarray, "*n 4"]:
    """The box with every side moved outwards by `margin` pixels."""
    return box + np.array([-margin, -margin, margin, margin], box.dtype)


def add_margins(
    box: Float[ndarray, "*n 4"], margins: Float[ndarray, "*#n #4"]
) -> Float[ndarray, "*n 4"]:
    """The box with its left, top, right and bottom moved outwards by shares of its sides; or, by
    one margin, with all four."""
    sides = np.tile(box[..., 2:] - box[..., :2], 2)
    return box + _OUTWARDS * margins * sides


def margins_around(
    inner: Float[ndarray, "*n 4"], outer: Float[ndarray, "*n 4"]
) -> Float[ndarray, "*n 4"]:
    """The margins that make `outer` of `inner`, by `add_margins`."""
    return _OUTWARDS * (outer - inner) / np.tile(inner[..., 2:] - inner[..., :2], 2)


def scale_box(box: Float[ndarray, "*n 4"], factor: float) -> Float[ndarray, "*n 4"]:
    """The box with its sides multiplied by `factor`, about its middle."""
    middle, half = (box[..., :2] + box[..., 2:]) / 2, factor / 2 * (box[..., 2:] - box[..., :2])
    return np.concatenate([middle - half, middle + half], axis=-1)


def square_box(box: Float[ndarray, "*n 4"]) -> Float[ndarray, "*n 4"]:
    """The square around the box's middle with the longer of its sides."""
    middle = (box[..., :2] + box[..., 2:]) / 2
    half = (box[..., 2:] - box[..., :2]).max(axis=-1, keepdims=True) / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def bounding_box(points: Float[ndarray, "*n p 2"]) -> Float[ndarray, "*n 4"]:
    """The smallest box that holds the points."""
    return np.concatenate([points.min(axis=-2), points.max(axis=-2)], axis=-1)


def image_box(image: UInt8[ndarray, "h w c"]) -> Float[ndarray, "4"]:
    """The box that covers the image, edge on edge."""
    height, width = image.shape[:2]
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5], np.float32)


def crop_from_image(box: Float[ndarray, "*n 4"], size: int) -> Float[ndarray, "*n 2 3"]:
    """The map that stretches `box` over a crop of `size` x `size` pixels, edge on edge.

    Edge on edge keeps the crop symmetric: mirroring the box about its middle is mirroring the crop,
    u -> size - 1 - u.
    """
    low, high = box[..., :2].astype(np.float64), box[..., 2:].astype(np.float64)
    scale = size / (high - low)
    found = np.zeros((*box.shape[:-1], 2, 3))
    found[..., 0, 0], found[..., 1, 1] = scale[..., 0], scale[..., 1]
    found[..., 2] = -scale * low - 0.5
    return found


def flip(size: int) -> Float[ndarray, "2 3"]:
    """The map that mirrors a crop of `size` pixels in x: u -> size - 1 - u."""
    return np.array([[-1.0, 0, size - 1], [0, 1.0, 0]])


def apply(
    b_from_a: Float[ndarray, "*#n 2 3"], points: Float[ndarray, "*#n p 2"]
) -> Float[ndarray, "..."]:
    """The points of `a`, in `b`. Leading axes broadcast: one map a face, or one for all."""
    return points @ np.swapaxes(b_from_a[..., :2], -1, -2) + b_from_a[..., None, :, 2]


def compose(
    c_from_b: Float[ndarray, "*#n 2 3"], b_from_a: Float[ndarray, "*#n 2 3"]
) -> Float[ndarray, "..."]:
    """The map that applies `b_from_a` first, `c_from_b` second. Leading axes broadcast."""
    linear = c_from_b[..., :2] @ b_from_a
    linear[..., 2] += c_from_b[..., 2]
    return linear


def invert(b_from_a: Float[ndarray, "2 3"]) -> Float[ndarray, "2 3"]:
    """The inverse map, `a_from_b`. Raises ZeroDivisionError where there is none."""
    # By Cramer's rule: NumPy's solver takes ten times as long for so small a matrix, and the loader
    # inverts up to three for each face.
    (a, b, x), (c, d, y) = b_from_a.tolist()
    if b == c == 0:
        a, d = 1 / a, 1 / d  # To the last digit, as the browser page has it.
    else:
        det = a * d - b * c
        a, b, c, d = d / det, -b / det, -c / det, a / det
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def steps(b_from_a: Float[ndarray, "2 3"]) -> tuple[float, float]:
    """How many pixels of `b`, in x and in y, one step in `a` spans: how much the map to `a` shrinks
    an image."""
    (a, b, _), (c, d, _) = b_from_a.tolist()
    return math.hypot(a, b), math.hypot(c, d)


def pixels_under(
    image_from_crop: Float[ndarray, "2 3"],
    size: int,
    margins: Sequence[float],
    image_size: tuple[int, int],
) -> list[tuple[int, int]]:
    """The image's pixels under a crop of `size` x `size`: the first, and the one after the last, in
    x and in y. At least one, which lies at the edge where the crop is beyond it.

    Args:
        image_from_crop: the map.
        size: the crop's side.
        margins: pixels of the image that are taken more on each side, in x and in y.
        image_size: width and height.
    """
    found = []
    # In numbers of Python: small arrays take several times as long, and the loader asks this for
    # every face.
    for (a, b, start), margin, side in zip(
        image_from_crop.tolist(), margins, image_size, strict=True
    ):
        along, across = (-0.5 * a, (size - 0.5) * a), (-0.5 * b, (size - 0.5) * b)
        # In this order, as the browser page has it: whole numbers stand just where these round.
        first = math.floor(min(along) + min(across) + start - margin)
        last = math.ceil(max(along) + max(across) + start + margin)
        low = min(max(first, 0), side - 1)
        found.append((low, min(max(last, low + 1), side)))
    return found


def mirrors(b_from_a: Float[ndarray, "*n 2 3"]) -> Bool[ndarray, "*n"] | np.bool:
    """Whether the map turns left to right."""
    a, b, c, d = (b_from_a[..., row, column] for row in (0, 1) for column in (0, 1))
    return a * d < b * c
