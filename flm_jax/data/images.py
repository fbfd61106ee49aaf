"""Reads image files. NumPy and OpenCV, on the host."""

import os
import re

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax.data.files import open_regular
from flm_jax.data.wflw import Record
from flm_jax.errors import InputError

MAX_FILE_SIZE = 2**28  # bytes
_MAX_SIDE = 32_766  # pixels; OpenCV 4 warps nothing larger

# A JPEG's marker that begins a segment or ends the image. Not: stuffed zeros, fill bytes, restarts.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_END, _SCAN = 0xD9, 0xDA


class ImageError(InputError):
    """An image cannot be read; the message starts with `<list>:<line>: <image>: `."""


def read_record_image(record: Record) -> UInt8[ndarray, "h w 3"]:
    """Reads the record's image as BGR, in the orientation that its points refer to.

    Raises:
        ImageError: as `read_image`.
    """
    return read_image(record.image_path, record.place, upright=record.upright)


def read_image(path: str, place: str, *, upright: bool = False) -> UInt8[ndarray, "h w 3"]:
    """Reads an image as BGR; grey, RGBA and CMYK images are converted.

    Args:
        path: of the image.
        place: what error messages start with.
        upright: whether to turn it as its EXIF orientation says.

    Raises:
        ImageError: it is missing, empty, truncated, too large, or not an image.
    """
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_FILE_SIZE:
                raise ImageError(f"{place}: {size} bytes are too many for an image")
            content = file.read(size)
    except OSError as error:
        raise ImageError(f"{place}: can't be read: {error.strerror}") from None
    if not content:
        raise ImageError(f"{place}: the file is empty")
    if content.startswith(b"\xff\xd8") and _is_truncated(content):
        raise ImageError(f"{place}: the JPEG is truncated ({len(content)} bytes)")
    try:
        orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | orientation)
    except cv2.error as error:
        raise ImageError(f"{place}: can't be decoded: {error.err}") from None
    if image is None:
        raise ImageError(f"{place}: not an image, or a damaged one")
    height, width = image.shape[:2]
    if max(height, width) > _MAX_SIDE:
        raise ImageError(
            f"{place}: {width} x {height} px; reduce its longer side to {_MAX_SIDE} px"
        )
    return np.asarray(image)


def _is_truncated(jpeg: bytes) -> bool:
    """Whether the file ends within a scan of its first image, whose rest libjpeg fills with grey.

    Segments are skipped, as a thumbnail in one has markers of its own; what follows the image, such
    as the video of a motion photo, is not looked at.
    """
    position, scans = 2, False
    while marker := _MARKER.search(jpeg, position):
        code = marker[1][0]
        if code == _END:
            return False
        scans = scans or code == _SCAN
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        position = marker.end() + max(2, length)
    return scans
