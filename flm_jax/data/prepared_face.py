"""A prepared face: a window of its picture, as large as the loosest use needs, in a shard.

A face's window holds every pixel that its crops look at, with the strongest augmentation. It is
reduced only as far as every crop would reduce it anyway. A crop that looks beyond it, or closer (a
second pass, a wrong box), is cut from the picture itself, so no use is wrong.

A record of an ArrayRecord shard is `_FACE` and then the window as JPEG, or zeros where the
picture can't be read.
"""

import dataclasses
import functools
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import BOXES, MAX_SHRINK, crop_box, crop_image, face_box
from flm_jax.data.images import ImageError, read_record_image
from flm_jax.data.wflw import Record

FIX = "The same command with --mode prepare cuts the faces anew"

# Colours at full resolution: a quarter more bytes, and half the error.
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]

# How much a crop shrinks a reduced window, at least. Of less, the grid that the crop is reduced by
# lies visibly elsewhere than in the picture; only the largest faces are worth a reduction.
_LEFT_TO_SHRINK = 4 * MAX_SHRINK

# What interpolation and reduction look at beyond the crop's edge, in pixels of the crop; and more
# where the crop enlarges the picture, in pixels of that.
_EDGE = 3.0
_PICTURE_EDGE = 2.0

_FACE = np.dtype(
    [
        ("landmarks", "<f4", (98, 2)),
        ("box", "<f4", 4),
        ("attributes", "?", 6),
        ("image_from_window", "<f8", (2, 3)),
        ("window", "<i4", 4),
        ("image_size", "<i4", 2),
    ]
)
_PLACE = struct.Struct("<6d4i2i")  # of its last three


@dataclasses.dataclass(frozen=True)
class Uses:
    """What the windows are for.

    Attributes:
        image_size: the side of the crops.
        box: the box that is augmented, one of `crop.BOXES`; the others' plain crops fit too.
        crop: keywords of `crop.crop_box`.
        reach: of `augmentation.largest_reach`.
        zoom: of `augmentation.largest_zoom`.
    """

    image_size: int
    box: str
    crop: Mapping[str, Any]
    reach: float
    zoom: float


class Place(NamedTuple):
    """Where a window lies in its picture.

    Attributes:
        scale: how many pixels of the picture one of the window spans, in x and in y.
        start: the place of the window's pixel (0, 0) in the picture, x and y.
        window: its xmin, ymin, xmax, ymax in whole pixels of the picture, the last two exclusive.
        image_size: the picture's width and height.
    """

    scale: tuple[float, float]
    start: tuple[float, float]
    window: tuple[int, int, int, int]
    image_size: tuple[int, int]


class Face(NamedTuple):
    """A face as it was cut.

    Attributes:
        image: u8[h, w, 3], the window as BGR.
        place: where that lies in the picture.
        landmarks, box, attributes: as of `wflw.Record`, bit for bit.
    """

    image: UInt8[ndarray, "h w 3"]
    place: Place
    landmarks: Float[ndarray, "98 2"]
    box: Float[ndarray, "4"]
    attributes: Bool[ndarray, "6"]


def face_window(
    record: Record, uses: Uses, image_size: tuple[int, int]
) -> tuple[Int[ndarray, "4"], int]:
    """The window of a face in a picture of the given width and height, and its reduction."""
    low, high, least_shrink = np.full(2, np.inf), np.full(2, -np.inf), np.inf
    for name in BOXES:
        reach, zoom = (uses.reach, uses.zoom) if name == uses.box else (1.0, 1.0)
        box = face_box(record, name).astype(np.float64)
        crop = crop_box(box, **uses.crop)
        sides = crop[2:] - crop[:2]
        # The reach counts from a crop that is no smaller than its box.
        longest = max(sides.max(), (box[2:] - box[:2]).max())
        middle = (crop[:2] + crop[2:]) / 2
        half = longest * reach * (0.5 + _EDGE / uses.image_size) + _PICTURE_EDGE
        low, high = np.minimum(low, middle - half), np.maximum(high, middle + half)
        least_shrink = min(least_shrink, sides.min() / uses.image_size / zoom)
    size = np.array(image_size)
    low = np.clip(np.floor(low), 0, size - 1)
    high = np.clip(np.ceil(high) + 1, low + 1, size)
    reduction = max(1, int(least_shrink / _LEFT_TO_SHRINK))
    return np.concatenate([low, high]).astype(np.int32), reduction


# What stands for a face whose picture can't be read.
UNREADABLE = bytes(_FACE.itemsize)


def encode_face(record: Record, uses: Uses) -> bytes:
    """The shard's record of a face; PictureError where its picture can't be read."""
    image = read_record_image(record)
    window, reduction = face_window(record, uses, (image.shape[1], image.shape[0]))
    left, top, right, bottom = window
    piece = image[top:bottom, left:right]
    part = window[2:] - window[:2]
    reduced = np.maximum(1, np.round(part / reduction)).astype(int)
    if reduction > 1:
        piece = cv2.resize(piece, reduced.tolist(), interpolation=cv2.INTER_AREA)
    scale = part / reduced
    _, jpeg = cv2.imencode(".jpg", piece, _JPEG)
    header = np.zeros((), _FACE)
    for name in ("landmarks", "box", "attributes"):
        header[name] = getattr(record, name)
    # Pixel centres, as `crop.crop_image` has them.
    header["image_from_window"] = np.column_stack([np.diag(scale), window[:2] + scale / 2 - 0.5])
    header["window"], header["image_size"] = window, (image.shape[1], image.shape[0])
    return header.tobytes() + jpeg.tobytes()


def read_face(record: Record) -> Face:
    """Reads a face from the shard that the record names.

    Raises:
        PictureError: its picture could not be read when it was cut, or the shard is damaged.
    """
    content = _read(record)
    header = np.frombuffer(content, _FACE, 1)[0]
    known = (header[name] for name in ("landmarks", "box", "attributes"))
    return Face(_decode(record, content), _place(content), *known)


def read_content(record: Record) -> tuple[bytes, Float[ndarray, "2 3"]]:
    """The encoded picture that `cut_face` decodes, and the map from it to the picture's pixels."""
    if not record.shard:
        with open(record.image_path, "rb") as file:
            return file.read(), np.eye(2, 3)
    content = _read(record)
    return content[_FACE.itemsize :], np.frombuffer(content, _FACE, 1)[0]["image_from_window"]


def cut_face(
    record: Record, image_from_crop: Float[ndarray, "2 3"], size: int
) -> UInt8[ndarray, "size size 3"]:
    """The crop of a face as RGB: of its window where that serves, else of the picture itself.

    Raises:
        PictureError: it can't be read.
    """
    # What stands here in numbers of Python would take several times as long in small arrays, and
    # the loader's other threads wait for it.
    if record.shard:
        content = _read(record)
        place = _place(content)
        if _serves(place, image_from_crop, size):
            window_from_crop = np.array(
                [
                    [a / scale, b / scale, (middle - start) / scale]
                    for (a, b, middle), scale, start in zip(
                        image_from_crop.tolist(), place.scale, place.start, strict=True
                    )
                ]
            )
            return crop_image(_decode(record, content), window_from_crop, size)
    return crop_image(read_record_image(record), image_from_crop, size)


def _read(record) -> bytes:
    """The shard's record of the face that the record names."""
    try:
        content = _reader(record.shard).read(record.shard_row, record.shard_row + 1)[0]
    except (OSError, RuntimeError, IndexError) as error:
        reason = str(error).split(";")[0]
        raise ImageError(f"{record.place}: {record.shard} is damaged: {reason}. {FIX}") from None
    if len(content) <= _FACE.itemsize:
        raise ImageError(f"{record.place}: could not be read when {record.shard} was cut")
    if not content.startswith(record.landmarks.tobytes()):
        raise ImageError(f"{record.place}: {record.shard} holds another face. {FIX}")
    return content


def _decode(record, content) -> UInt8[ndarray, "h w 3"]:
    image = cv2.imdecode(np.frombuffer(content, np.uint8, offset=_FACE.itemsize), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{record.place}: {record.shard} holds no picture of it. {FIX}")
    return np.asarray(image)


def _place(content) -> Place:
    a, _, x, _, d, y, *sides = _PLACE.unpack_from(content, _FACE.itemsize - _PLACE.size)
    return Place((a, d), (x, y), tuple(sides[:4]), tuple(sides[4:]))


def _serves(place, image_from_crop, size) -> bool:
    """Whether the window holds all that the crop looks at, and in the detail that it shows."""
    shrinks = geometry.steps(image_from_crop)
    if any(
        reduction > 1 and shrink < _LEFT_TO_SHRINK / 2 * reduction
        for shrink, reduction in zip(shrinks, place.scale, strict=True)
    ):
        return False
    margins = [shrink + 1 for shrink in shrinks]
    (left, right), (top, bottom) = geometry.pixels_under(
        image_from_crop, size, margins, place.image_size
    )
    xmin, ymin, xmax, ymax = place.window
    return xmin <= left and ymin <= top and right <= xmax and bottom <= ymax


# The name of a shard is that of one build, so what is open under it stays what it is.
@functools.cache
def _reader(path: str):
    from array_record.python import array_record_module

    # For random access: no reading ahead, no threads, and a buffer for one face.
    options = "readahead_buffer_size:0,max_parallelism:0"
    reader = array_record_module.ArrayRecordReader(path, options, file_reader_buffer_size=32768)
    if not reader.ok():
        raise OSError("it can't be opened")
    return reader
