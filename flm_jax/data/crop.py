"""Cuts the crop of a face out of its image: box -> map -> warp -> normalise.

A crop is one affine map, applied once. Margin, stretch and flip are values of the map, not branches
in the code that applies it.
"""

import math
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.wflw import RECTANGLE_MARGINS, Record

# How far a box of each kind reaches beyond its face's landmarks, as `geometry.add_margins` has it.
BOXES = {"rectangle": RECTANGLE_MARGINS, "landmarks": (0.0, 0.0, 0.0, 0.0)}

# Bilinear interpolation reads 2 x 2 pixels: shrinking by more than this would skip some and alias.
MAX_SHRINK = 1.5

_NORMALISED = np.arange(256, dtype=np.float32) * np.float32(2 / 255) - 1


def face_box(record: Record, box: str) -> Float[ndarray, "4"]:
    """The box of a face: its annotated `rectangle`, or the bounding box of its `landmarks`."""
    return record.box if box == "rectangle" else geometry.bounding_box(record.landmarks)


def crop_box(
    box: Float[ndarray, "*n 4"], *, margin: float, factor: float = 1.0, square: bool = False
) -> Float[ndarray, "*n 4"]:
    """The part of the image that a crop shows.

    Args:
        box: of the face.
        margin: pixels of the image that are added on each side of the box, first.
        factor: what its sides are then multiplied by.
        square: take the square with the longer side; otherwise the crop stretches the box.
    """
    box = geometry.scale_box(geometry.expand_box(box, margin), factor)
    return geometry.square_box(box) if square else box


def crop_map(
    box: Float[ndarray, "*n 4"], size: int, *, flip: bool = False, **crop: Any
) -> Float[ndarray, "*n 2 3"]:
    """The map from the image to the crop of `crop_box`, `size` x `size` pixels, flipped or not."""
    crop_from_image = geometry.crop_from_image(crop_box(box, **crop), size)
    return geometry.compose(geometry.flip(size), crop_from_image) if flip else crop_from_image


def crop_image(
    image: UInt8[ndarray, "h w 3"], image_from_crop: Float[ndarray, "2 3"], size: int
) -> UInt8[ndarray, "size size 3"]:
    """The crop of a BGR image, as RGB; outside the image it is black."""
    part, part_from_crop = part_under(image, image_from_crop, size)
    # OpenCV 5 warps four channels twice as fast as three, to the same values.
    crop = cv2.warpAffine(
        cv2.cvtColor(part, cv2.COLOR_BGR2RGBA),
        part_from_crop,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


def part_under(
    image: UInt8[ndarray, "h w 3"], image_from_crop: Float[ndarray, "2 3"], size: int
) -> tuple[UInt8[ndarray, "_ _ 3"], Float[ndarray, "2 3"]]:
    """The part of the image that the crop samples, and the map from the crop to it.

    Where the crop would shrink it by more than `MAX_SHRINK`, the part is first reduced by area.
    """
    height, width = image.shape[:2]
    shrinks = geometry.steps(image_from_crop)
    is_reduced = max(shrinks) > MAX_SHRINK
    # Two more reduced pixels on each side, so that interpolation at the edge finds its neighbours.
    margins = [2 * math.ceil(shrink) if is_reduced else shrink + 1 for shrink in shrinks]
    (left, right), (top, bottom) = geometry.pixels_under(
        image_from_crop, size, margins, (width, height)
    )
    part = image[top:bottom, left:right]
    if not is_reduced:
        return part, image_from_crop - np.array([[0, 0, left], [0, 0, top]])
    shrink, low, sides = np.array(shrinks), np.array([left, top]), np.array(part.shape[1::-1])
    reduced = np.where(shrink > 1, np.maximum(1, np.round(sides / shrink)), sides).astype(int)
    scale = sides / reduced
    # Pixel centres: u_image = low + (u_reduced + 0.5) * scale - 0.5
    image_from_reduced = np.column_stack([np.diag(scale), low + scale / 2 - 0.5])
    return (
        cv2.resize(part, reduced.tolist(), interpolation=cv2.INTER_AREA),
        geometry.compose(geometry.invert(image_from_reduced), image_from_crop),
    )


def normalise(crop: UInt8[ndarray, "h w 3"], out: Float[ndarray, "h w 3"]) -> None:
    """Writes (x - 0.5) / 0.5 to `out`, x being the crop in [0, 1]; by a table.

    `out` must be contiguous: OpenCV would otherwise write to a copy.
    """
    assert out.flags.c_contiguous
    cv2.LUT(crop, _NORMALISED, dst=out)
