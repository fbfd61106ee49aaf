"""Faces cut out of an image for the network, and what turns them into landmarks. On the host."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import crop_image, crop_map, normalise
from flm_jax.errors import InputError

# Corners further out than this, in pixels, would leave the crop's map without digits.
_MAX_COORDINATE = 1e6


class Crops(NamedTuple):
    """Faces as the network sees them.

    Attributes:
        images: f32[n, s, s, 3], RGB, normalised.
        image_from_crop: f32[n, 2, 3].
    """

    images: Float[ndarray, "n s s 3"]
    image_from_crop: Float[ndarray, "n 2 3"]


@runtime_checkable
class Predictor(Protocol):
    """A trained network with the crop that it was trained with, in any runtime."""

    batch_size: int

    def cut(self, image: ndarray, boxes: ndarray, flip: bool = False) -> Crops:
        """The crops of the boxes f32[n, 4] of a BGR image u8[h, w, 3], flipped or not."""

    def predict(self, crops: Crops) -> Any:
        """`landmarks` f32[n, 98, 2] in image pixels, of faces flipped as their crops are, and
        `scale` f32[n, 98], the absolute error to expect, or None."""


def cut_faces(
    image: UInt8[ndarray, "h w 3"],
    boxes: Float[ndarray, "n 4"],
    *,
    size: int,
    crop: Mapping[str, Any],
    flip: bool = False,
) -> Crops:
    """The crops of the faces of a BGR image; `crop` has the keywords of `crop.crop_box`."""
    images = np.zeros((len(boxes), size, size, 3), np.float32)
    maps = np.zeros((len(boxes), 2, 3), np.float32)
    for i, box in enumerate(boxes.astype(np.float32)):
        maps[i] = image_from_crop = geometry.invert(crop_map(box, size, flip=flip, **crop))
        normalise(crop_image(image, image_from_crop, size), out=images[i])
    return Crops(images, maps)


def join_crops(crops: Sequence[Crops]) -> Crops:
    """All faces of several crops, in order."""
    return Crops(*(np.concatenate(arrays) for arrays in zip(*crops, strict=True)))


def check_box(box: Float[ndarray, "4"], image: UInt8[ndarray, "h w 3"]) -> None:
    """Raises InputError for a box without an area, or one that shows nothing of the image."""
    height, width = image.shape[:2]
    text = " ".join(f"{number:g}" for number in box)
    expected = "expected xmin ymin xmax ymax in pixels"
    if not (np.abs(box) <= _MAX_COORDINATE).all():
        raise InputError(f"the box {text} is beyond {_MAX_COORDINATE:g} pixels; {expected}")
    box = box.astype(np.float32)  # The precision of crops.
    if (box[2:] <= box[:2]).any():
        raise InputError(f"the box {text} has no area; {expected}")
    if (box[2:] <= -0.5).any() or (box[:2] >= (width - 0.5, height - 0.5)).any():
        raise InputError(
            f"the box {text} lies outside of the image of {width} x {height} px; {expected}"
        )
