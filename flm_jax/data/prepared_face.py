"""A prepared face: a window of its original image, stored in a shard as the loosest use needs it.

The window holds every pixel that the face's crops sample, under the strongest augmentation, and is
reduced only as far as every crop would reduce it anyway. A crop that looks beyond the window or
closer (a second pass, a wrong box) is cut from the original, so every use is right.

A record of an ArrayRecord shard is a `_HEADER` and the stored image as JPEG; all zeros if the
original was unreadable.
"""

import dataclasses
import functools
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import BOXES, MAX_SHRINK, crop_box, crop_image, face_box
from flm_jax.data.images import ImageError, read_record_image
from flm_jax.data.wflw import Record

FIX = "Run the same command with --mode prepare to cut the faces again"

# Colours at full resolution: 25 % more bytes, half the error.
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]

# How much every crop must still shrink a reduced window. With less, the grid of the reduction is
# visibly another than the original's; so only the largest faces are reduced.
_MIN_SHRINK_LEFT = 4 * MAX_SHRINK

# What interpolation and reduction sample beyond the crop's edge: pixels of the crop, plus pixels of
# the original for crops that enlarge it.
_EDGE = 3.0
_ORIGINAL_EDGE = 2.0

_HEADER = np.dtype(
    [
        ("landmarks", "<f4", (98, 2)),
        ("box", "<f4", 4),
        ("attributes", "?", 6),
        ("original_from_stored", "<f8", (2, 3)),
        ("window", "<i4", 4),
        ("original_size", "<i4", 2),
    ]
)
_WINDOW = struct.Struct("<6d4i2i")  # the last three fields

# The record of a face whose original could not be read.
UNREADABLE = bytes(_HEADER.itemsize)


@dataclasses.dataclass(frozen=True)
class Uses:
    """What prepared faces must be good for.

    Attributes:
        image_size: side of the crops in pixels.
        box: the box that is augmented, one of `crop.BOXES`; plain crops of the others fit too.
        crop: keywords of `crop.crop_box`.
        reach: from `augmentation.largest_reach`.
        zoom: from `augmentation.largest_zoom`.
        exif_upright: whether the images are turned as their EXIF orientation says.
    """

    image_size: int
    box: str
    crop: Mapping[str, Any]
    reach: float
    zoom: float
    exif_upright: bool = False


class Window(NamedTuple):
    """Where a stored image lies in its original.

    Attributes:
        scale: pixels of the original per stored pixel, in x and in y.
        start: position of the stored pixel (0, 0) in the original, x and y.
        bounds: xmin, ymin, xmax, ymax in whole pixels of the original, the last two exclusive.
        original_size: width and height of the original.
    """

    scale: tuple[float, float]
    start: tuple[float, float]
    bounds: tuple[int, int, int, int]
    original_size: tuple[int, int]

    # Plain Python numbers below: small arrays take several times as long, and hold the GIL.

    def serves(self, original_from_crop: Float[ndarray, "2 3"], size: int) -> bool:
        """Whether it holds all that the crop of `size` pixels samples, in the detail it shows."""
        shrinks = geometry.steps(original_from_crop)
        if any(
            scale > 1 and shrink < _MIN_SHRINK_LEFT / 2 * scale
            for shrink, scale in zip(shrinks, self.scale, strict=True)
        ):
            return False
        margins = [shrink + 1 for shrink in shrinks]
        (left, right), (top, bottom) = geometry.pixels_under(
            original_from_crop, size, margins, self.original_size
        )
        xmin, ymin, xmax, ymax = self.bounds
        return xmin <= left and ymin <= top and right <= xmax and bottom <= ymax

    def stored_from(self, original_from_crop: Float[ndarray, "2 3"]) -> Float[ndarray, "2 3"]:
        """The map from the crop to the stored image."""
        rows = zip(original_from_crop.tolist(), self.scale, self.start, strict=True)
        return np.array(
            [[a / scale, b / scale, (c - start) / scale] for (a, b, c), scale, start in rows]
        )


def face_window(
    record: Record, uses: Uses, original_size: tuple[int, int]
) -> tuple[Int[ndarray, "4"], int]:
    """The bounds of a face's window in an original of that width and height, and its reduction."""
    low, high, min_shrink = np.full(2, np.inf), np.full(2, -np.inf), np.inf
    for name in BOXES:
        reach, zoom = (uses.reach, uses.zoom) if name == uses.box else (1.0, 1.0)
        box = face_box(record, name).astype(np.float64)
        crop = crop_box(box, **uses.crop)
        sides = crop[2:] - crop[:2]
        # The reach is relative to a crop no smaller than its box.
        longest = max(sides.max(), (box[2:] - box[:2]).max())
        middle = (crop[:2] + crop[2:]) / 2
        half = longest * reach * (0.5 + _EDGE / uses.image_size) + _ORIGINAL_EDGE
        low, high = np.minimum(low, middle - half), np.maximum(high, middle + half)
        min_shrink = min(min_shrink, sides.min() / uses.image_size / zoom)
    size = np.array(original_size)
    low = np.clip(np.floor(low), 0, size - 1)
    high = np.clip(np.ceil(high) + 1, low + 1, size)
    reduction = max(1, int(min_shrink / _MIN_SHRINK_LEFT))
    return np.concatenate([low, high]).astype(np.int32), reduction


def encode_face(record: Record, uses: Uses) -> bytes:
    """The shard's record of a face. Raises ImageError if its original cannot be read."""
    original = read_record_image(record)
    original_size = original.shape[1], original.shape[0]
    bounds, reduction = face_window(record, uses, original_size)
    left, top, right, bottom = bounds
    stored = original[top:bottom, left:right]
    sides = bounds[2:] - bounds[:2]
    reduced = np.maximum(1, np.round(sides / reduction)).astype(int)
    if reduction > 1:
        stored = cv2.resize(stored, reduced.tolist(), interpolation=cv2.INTER_AREA)
    scale = sides / reduced
    _, jpeg = cv2.imencode(".jpg", stored, _JPEG)
    header = np.zeros((), _HEADER)
    for name in ("landmarks", "box", "attributes"):
        header[name] = getattr(record, name)
    # Pixel centres, as in `crop.part_under`.
    start = bounds[:2] + scale / 2 - 0.5
    header["original_from_stored"] = np.column_stack([np.diag(scale), start])
    header["window"], header["original_size"] = bounds, original_size
    return header.tobytes() + jpeg.tobytes()


def cut_face(
    record: Record, original_from_crop: Float[ndarray, "2 3"], size: int
) -> UInt8[ndarray, "size size 3"]:
    """The crop of a face as RGB: of its stored image where that serves, else of its original.

    Raises:
        ImageError: the face cannot be read.
    """
    if record.shard:
        content = _read(record)
        window = _window(content)
        if window.serves(original_from_crop, size):
            stored = _decode(record, content)
            return crop_image(stored, window.stored_from(original_from_crop), size)
    return crop_image(read_record_image(record), original_from_crop, size)


def read_face(record: Record) -> tuple[UInt8[ndarray, "h w 3"], Window]:
    """The stored image as BGR, and its window.

    Raises:
        ImageError: the original was unreadable when the face was cut, or the shard is damaged.
    """
    content = _read(record)
    return _decode(record, content), _window(content)


def read_content(record: Record) -> tuple[bytes, Float[ndarray, "2 3"]]:
    """The encoded image that `cut_face` decodes, and the map from it to the original."""
    if not record.shard:
        with open(record.image_path, "rb") as file:
            return file.read(), np.eye(2, 3)
    content = _read(record)
    header = np.frombuffer(content, _HEADER, 1)[0]
    return content[_HEADER.itemsize :], header["original_from_stored"]


def _read(record) -> bytes:
    """The shard's record of the face."""
    try:
        content = _reader(record.shard).read(record.shard_row, record.shard_row + 1)[0]
    except (OSError, RuntimeError, IndexError) as error:
        reason = str(error).split(";")[0]
        raise ImageError(f"{record.place}: {record.shard} is damaged: {reason}. {FIX}") from None
    if len(content) <= _HEADER.itemsize:
        raise ImageError(f"{record.place}: could not be read when {record.shard} was cut")
    if not content.startswith(record.landmarks.tobytes()):
        raise ImageError(f"{record.place}: {record.shard} holds another face. {FIX}")
    return content


def _window(content) -> Window:
    a, _, x, _, d, y, *sides = _WINDOW.unpack_from(content, _HEADER.itemsize - _WINDOW.size)
    return Window((a, d), (x, y), tuple(sides[:4]), tuple(sides[4:]))


def _decode(record, content) -> UInt8[ndarray, "h w 3"]:
    jpeg = np.frombuffer(content, np.uint8, offset=_HEADER.itemsize)
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{record.place}: {record.shard} holds no image of it. {FIX}")
    return np.asarray(image)


# A shard's name belongs to one build, so the file behind an open reader never changes.
@functools.cache
def _reader(path: str):
    from array_record.python import array_record_module

    # Random access: no read-ahead, no threads, and a buffer for one face.
    options = "readahead_buffer_size:0,max_parallelism:0"
    reader = array_record_module.ArrayRecordReader(path, options, file_reader_buffer_size=32768)
    if not reader.ok():
        raise OSError("it can't be opened")
    return reader
