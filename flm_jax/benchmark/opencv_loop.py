"""The loader's limits: OpenCV's functions in a plain loop, in a process on each core.

A process holds the bytes of some faces in memory and has nothing else to wait for.
"""

import concurrent.futures
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import MAX_SHRINK, crop_map, face_box, normalise, part_under
from flm_jax.data.prepared_face import read_content
from flm_jax.data.wflw import Record
from flm_jax.data.workers import start_worker

_READY_WITHIN = 60  # seconds, of the processes


class Sample(NamedTuple):
    """A face for the loop: its encoded image, and the map from the crop to that image."""

    content: bytes
    image_from_crop: Float[ndarray, "2 3"]


def samples(
    records: Sequence[Record], image_size: int, box: str, crop: Mapping[str, Any]
) -> list[Sample]:
    """The faces' plain crops, from prepared faces or from the images, as the records say."""
    found = []
    for record in records:
        whole_from_crop = geometry.invert(crop_map(face_box(record, box), image_size, **crop))
        content, whole_from_image = read_content(record)
        image_from_whole = geometry.invert(whole_from_image)
        found.append(Sample(content, geometry.compose(image_from_whole, whole_from_crop)))
    return found


@contextlib.contextmanager
def on_all_cores(
    count: int, faces: Sequence[Sample], image_size: int, batch_size: int
) -> Iterator[Callable[[str, float], float]]:
    """Starts `count` processes with one thread each.

    Yields:
        A function of `decode_limit` (decoding alone) or `bare_loop` (decoding, warping and
        normalising) and of seconds: all processes' images a second.
    """
    context = multiprocessing.get_context("spawn")
    settings = (context.Barrier(count), list(faces), image_size, batch_size)
    with concurrent.futures.ProcessPoolExecutor(count, context, _start, settings) as pool:
        yield lambda name, seconds: sum(pool.map(_measure, count * [name], count * [seconds]))


def bare_crop(
    image: UInt8[ndarray, "h w 3"], image_from_crop: Float[ndarray, "2 3"], size: int
) -> UInt8[ndarray, "size size 3"]:
    """The crop of `crop.crop_image` as one would write it."""
    if max(geometry.steps(image_from_crop)) > MAX_SHRINK:
        image, image_from_crop = part_under(image, image_from_crop, size)
    crop = cv2.warpAffine(
        image, image_from_crop, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


_worker: Any = None  # of a process, which `_start` sets


def _start(barrier, faces, image_size, batch_size):
    global _worker
    start_worker()
    # One batch being written beside one in use, in memory that has been written to before: new
    # memory would cost the loop a tenth of its speed.
    images = np.full((2 * batch_size, image_size, image_size, 3), 0, np.float32)
    _worker = barrier, faces, image_size, images


def _measure(name, seconds):
    barrier, faces, image_size, images = _worker
    barrier.wait(_READY_WITHIN)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        face = faces[count % len(faces)]
        image: Any = cv2.imdecode(
            np.frombuffer(face.content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
        if name == "bare_loop":
            crop = bare_crop(image, face.image_from_crop, image_size)
            normalise(crop, out=images[count % len(images)])
        count += 1
    return count / elapsed
