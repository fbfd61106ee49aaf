"""Boxes, and affine maps of the plane as 2x3 matrices.

A map is named `b_from_a`: it takes points of `a` to points of `b`. Points are pixels, and (0, 0) is
the centre of the top-left pixel, so an image of width w covers [-0.5, w - 0.5]. A box is
(xmin, ymin, xmax, ymax).
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

# The outward direction of each side of a box.
_OUTWARDS = np.array([-1, -1, 1, 1])


def expand_box(box: Float[ndarray, "*n 4"], margin: float) -> Float[ndarray, "*n 4"]:
    """The box with every side moved outwards by `margin` pixels."""
    return box + np.array([-margin, -margin, margin, margin], box.dtype)


def add_margins(
    box: Float[ndarray, "*n 4"], margins: Float[ndarray, "*#n #4"]
) -> Float[ndarray, "*n 4"]:
    """The box with left, top, right and bottom moved outwards by shares of its width and height.

    A single margin moves all four.
    """
    sides = np.tile(box[..., 2:] - box[..., :2], 2)
    return box + _OUTWARDS * margins * sides


def remove_margins(
    box: Float[ndarray, "*n 4"], margins: Float[ndarray, "4"]
) -> Float[ndarray, "*n 4"]:
    """The boxes that `add_margins` makes `box` of."""
    sides = 1 + margins[:2] + margins[2:]
    return add_margins(box, -margins / np.tile(sides, 2))


def margins_around(
    inner: Float[ndarray, "*n 4"], outer: Float[ndarray, "*n 4"]
) -> Float[ndarray, "*n 4"]:
    """The margins with which `add_margins` makes `outer` of `inner`."""
    return _OUTWARDS * (outer - inner) / np.tile(inner[..., 2:] - inner[..., :2], 2)


def scale_box(box: Float[ndarray, "*n 4"], factor: float) -> Float[ndarray, "*n 4"]:
    """The box scaled by `factor` about its middle."""
    middle, half = (box[..., :2] + box[..., 2:]) / 2, factor / 2 * (box[..., 2:] - box[..., :2])
    return np.concatenate([middle - half, middle + half], axis=-1)


def square_box(box: Float[ndarray, "*n 4"]) -> Float[ndarray, "*n 4"]:
    """The square with the box's middle and longer side."""
    middle = (box[..., :2] + box[..., 2:]) / 2
    half = (box[..., 2:] - box[..., :2]).max(axis=-1, keepdims=True) / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def bounding_box(points: Float[ndarray, "*n p 2"]) -> Float[ndarray, "*n 4"]:
    """The smallest box around the points."""
    return np.concatenate([points.min(axis=-2), points.max(axis=-2)], axis=-1)


def image_box(image: UInt8[ndarray, "h w c"]) -> Float[ndarray, "4"]:
    """The box that covers the image, edge on edge."""
    height, width = image.shape[:2]
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5], np.float32)


def crop_from_image(box: Float[ndarray, "*n 4"], size: int) -> Float[ndarray, "*n 2 3"]:
    """The map that stretches `box` over a crop of `size` x `size` pixels, edge on edge.

    So flipping the box about its middle flips the crop: u -> size - 1 - u.
    """
    low, high = box[..., :2].astype(np.float64), box[..., 2:].astype(np.float64)
    scale = size / (high - low)
    crop_from_image = np.zeros((*box.shape[:-1], 2, 3))
    crop_from_image[..., 0, 0], crop_from_image[..., 1, 1] = scale[..., 0], scale[..., 1]
    crop_from_image[..., 2] = -scale * low - 0.5
    return crop_from_image


def flip(size: int) -> Float[ndarray, "2 3"]:
    """The map that flips a crop of `size` pixels left to right: u -> size - 1 - u."""
    return np.array([[-1.0, 0, size - 1], [0, 1.0, 0]])


def apply(
    b_from_a: Float[ndarray, "*#n 2 3"], points: Float[ndarray, "*#n p 2"]
) -> Float[ndarray, "..."]:
    """The points of `a` in `b`. Leading axes broadcast: one map per face, or one for all."""
    return points @ np.swapaxes(b_from_a[..., :2], -1, -2) + b_from_a[..., None, :, 2]


def compose(
    c_from_b: Float[ndarray, "*#n 2 3"], b_from_a: Float[ndarray, "*#n 2 3"]
) -> Float[ndarray, "..."]:
    """`c_from_a`: first `b_from_a`, then `c_from_b`. Leading axes broadcast."""
    c_from_a = c_from_b[..., :2] @ b_from_a
    c_from_a[..., 2] += c_from_b[..., 2]
    return c_from_a


def invert(b_from_a: Float[ndarray, "2 3"]) -> Float[ndarray, "2 3"]:
    """`a_from_b`. Raises ZeroDivisionError if there is no inverse."""
    # Cramer's rule: NumPy's solver takes ten times as long, and the loader inverts up to three maps
    # per face.
    (a, b, x), (c, d, y) = b_from_a.tolist()
    if b == c == 0:
        a, d = 1 / a, 1 / d  # bit for bit as in the browser page
    else:
        det = a * d - b * c
        a, b, c, d = d / det, -b / det, -c / det, a / det
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def steps(b_from_a: Float[ndarray, "2 3"]) -> tuple[float, float]:
    """How many pixels of `b` one pixel of `a` spans in x and in y: how much `a` shrinks `b`."""
    (a, b, _), (c, d, _) = b_from_a.tolist()
    return math.hypot(a, b), math.hypot(c, d)


def pixels_under(
    image_from_crop: Float[ndarray, "2 3"],
    size: int,
    margins: Sequence[float],
    image_size: tuple[int, int],
) -> list[tuple[int, int]]:
    """The image's pixels under a crop: half-open ranges in x and in y, never empty.

    Args:
        image_from_crop: the map.
        size: the crop's side in pixels.
        margins: pixels of the image to add on each side, in x and in y.
        image_size: width and height.
    """
    found = []
    # Plain Python numbers: small arrays take several times as long, and every face needs this.
    for (a, b, start), margin, side in zip(
        image_from_crop.tolist(), margins, image_size, strict=True
    ):
        along, across = (-0.5 * a, (size - 0.5) * a), (-0.5 * b, (size - 0.5) * b)
        # Summed in the browser page's order, which decides how whole numbers round.
        first = math.floor(min(along) + min(across) + start - margin)
        last = math.ceil(max(along) + max(across) + start + margin)
        low = min(max(first, 0), side - 1)
        found.append((low, min(max(last, low + 1), side)))
    return found


def flips(b_from_a: Float[ndarray, "*n 2 3"]) -> Bool[ndarray, "*n"] | np.bool:
    """Whether the map flips left to right."""
    a, b, c, d = (b_from_a[..., row, column] for row in (0, 1) for column in (0, 1))
    return a * d < b * c
