"""Reads image files. NumPy and OpenCV, on the host."""

import os

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax.data.wflw import Record
from flm_jax.errors import InputError

# OpenCV 4 warps no larger picture.
_MAX_SIDE = 32_766


MAX_FILE_SIZE = 2**28


class ImageError(InputError):
    """A picture can't be read; the message starts with `<list>:<line>: <image>: `."""


def read_record_image(record: Record) -> UInt8[ndarray, "h w 3"]:
    """Reads the record's picture as BGR, in the stored orientation that the lists refer to.

    Raises:
        PictureError: as of `read_picture`.
    """
    return read_image(record.image_path, record.place)


def read_image(path: str, place: str, *, upright: bool = False) -> UInt8[ndarray, "h w 3"]:
    """Reads a picture as BGR. Grey, RGBA and CMYK pictures come as BGR too.

    Args:
        path: of the picture.
        place: what the messages start with.
        upright: whether it is turned as its EXIF orientation says.

    Raises:
        PictureError: it is missing, empty, truncated, of an absurd size, or no picture.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_FILE_SIZE:
                raise ImageError(f"{place}: {size} bytes are too many for a picture")
            content = file.read()
    except OSError as error:
        raise ImageError(f"{place}: can't be read: {error.strerror}") from None
    if not content:
        raise ImageError(f"{place}: the file is empty")
    # libjpeg fills what a truncated file lacks with grey. No scan may follow the last end mark.
    if content.startswith(b"\xff\xd8"):
        end = content.rfind(b"\xff\xd9")
        if content.find(b"\xff\xda", max(end, 0)) >= 0:
            raise ImageError(f"{place}: the JPEG is truncated ({len(content)} bytes)")
    try:
        orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | orientation)
    except cv2.error as error:
        raise ImageError(f"{place}: can't be decoded: {error.err}") from None
    if image is None:
        raise ImageError(f"{place}: not a picture, or a damaged one")
    height, width = image.shape[:2]
    if max(height, width) > _MAX_SIDE:
        raise ImageError(
            f"{place}: {width} x {height} px; reduce its longer side to {_MAX_SIDE} px"
        )
    return np.asarray(image)
