"""The loader's limits: the same decoding and cropping in a plain loop of OpenCV, and no more.

Each process holds the bytes of some faces in memory and nothing else to wait for.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import MAX_SHRINK, crop_image, crop_map, face_box, normalise, part_under
from flm_jax.data.prepared_face import read_content
from flm_jax.data.wflw import Record
from flm_jax.data.workers import start_reading, start_worker

_READY_WITHIN = 60  # seconds, of the processes


class Sample(NamedTuple):
    """A face for the loop: its encoded picture, and the map from the crop to that picture."""

    content: bytes
    picture_from_crop: Float[ndarray, "2 3"]


class Rates(NamedTuple):
    """Images a second.

    Attributes:
        decode_limit: decoding alone.
        bare_loop: decoding, warping and normalising by OpenCV's functions, as one would write it.
        own_loop: the same by this project's functions, which warp faster.
    """

    decode_limit: float
    bare_loop: float
    own_loop: float


def samples(
    records: Sequence[Record], image_size: int, box: str, crop: Mapping[str, Any]
) -> list[Sample]:
    """The faces' plain crops, from prepared faces or from the pictures, as the records say."""
    found = []
    for record in records:
        crop_from_image = crop_map(face_box(record, box), image_size, **crop)
        content, image_from_picture = read_content(record)
        picture_from_image = geometry.invert(image_from_picture)
        found.append(
            Sample(content, geometry.compose(picture_from_image, geometry.invert(crop_from_image)))
        )
    return found


def measure(faces: Sequence[Sample], image_size: int, batch_size: int, seconds: float) -> Rates:
    """The rates of this process, with one thread: each is measured for `seconds`."""
    start_reading()
    decode_limit = _rate(lambda i: _decode(faces[i % len(faces)]), seconds)
    # One batch that is being written beside one in use, always in the same memory, which has been
    # written to before: new memory would cost the loop a tenth of its speed.
    images = np.full((2 * batch_size, image_size, image_size, 3), 0, np.float32)

    def loop(cut, i):
        face = faces[i % len(faces)]
        crop = cut(_decode(face), face.picture_from_crop, image_size)
        normalise(crop, out=images[i % len(images)])

    return Rates(
        decode_limit,
        _rate(functools.partial(loop, plain_crop), seconds),
        _rate(functools.partial(loop, crop_image), seconds),
    )


def plain_crop(
    image: UInt8[ndarray, "h w 3"], image_from_crop: Float[ndarray, "2 3"], size: int
) -> UInt8[ndarray, "size size 3"]:
    """The crop of `crop.crop_image` as one would write it."""
    if max(geometry.steps(image_from_crop)) > MAX_SHRINK:
        image, image_from_crop = part_under(image, image_from_crop, size)
    crop = cv2.warpAffine(
        image, image_from_crop, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def in_processes(count: int, faces: Sequence[Sample], image_size: int, batch_size: int) -> Iterator:
    """Gives a function of `seconds`: `measure` in `count` processes at a time, their sum."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with concurrent.futures.ProcessPoolExecutor(
        count, context, _start, (barrier, list(faces))
    ) as pool:

        def measured(seconds: float) -> Rates:
            job = functools.partial(_measure_together, image_size, batch_size)
            rates = list(pool.map(job, count * [seconds]))
            return Rates(*(sum(values) for values in zip(*rates, strict=True)))

        yield measured


def _rate(run, seconds) -> float:
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        run(count)
        count += 1
    return count / elapsed


def _decode(face):
    return cv2.imdecode(
        np.frombuffer(face.content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )


# Of a worker process, which `_start` fills.
_barrier: Any = None
_faces: list[Sample] = []


def _start(barrier, faces):
    global _barrier, _faces
    start_worker()
    _barrier, _faces = barrier, faces


def _measure_together(image_size, batch_size, seconds):
    _barrier.wait(_READY_WITHIN)
    return measure(_faces, image_size, batch_size, seconds)
