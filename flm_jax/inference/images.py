"""Predicts the faces of many images: threads read and draw them, the network takes batches."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from tqdm import tqdm

from flm_jax import geometry
from flm_jax.data.images import read_image
from flm_jax.data.loader import default_threads
from flm_jax.data.orientation import is_turned
from flm_jax.data.workers import start_reading
from flm_jax.errors import InputError
from flm_jax.inference.detector import HOW_TO_FIND_MORE, Detect
from flm_jax.inference.head_pose import estimate_pose
from flm_jax.inference.inputs import Input, count_images
from flm_jax.inference.outputs import Entry, Face
from flm_jax.inference.overlay import draw_face
from flm_jax.inference.predictor import Crops, LandmarkPredictor, check_box
from flm_jax.inference.tta import predict_with_tta
from flm_jax.landmarks import MIRROR
from flm_jax.runtime.work_folder import write_atomically

# Images that wait for their landmarks to be drawn hold at most so many pixels together.
_MAX_PIXELS = 2**27


# A face before prediction: its number in the file of boxes (0 without one), box and score.
_Found = tuple[int, ndarray, float | None]


class _Read(NamedTuple):
    """An image, kept only where it is needed again, its faces, what went wrong, and the detector's
    side that would find smaller faces."""

    source: Input
    image: ndarray | None
    faces: list[_Found]
    crops: Crops | None
    problems: list[str]
    finer: int = 0


def predict_images(
    predictor: LandmarkPredictor,
    detect: Detect | None,
    sources: Sequence[Input],
    received: Sequence[int],
    *,
    tta: Mapping[str, Any],
    num_threads: int = 0,
) -> tuple[list[Entry], list[str]]:
    """Finds the faces of images, predicts their landmarks, and draws the overlays.

    Args:
        predictor: the network.
        detect: finds the faces of images without given boxes; None: each image is one face.
        sources: the images.
        received: signals; the first ends the prediction.
        tta: keywords of `tta.predict_with_tta`.
        num_threads: that read and draw; 0: one for each core.

    Returns:
        An entry for each image in order, or for each given box in the order of its file, and a
        message for each image or box that could not be used.
    """
    if not sources:
        return [], []
    threads = num_threads or default_threads(0)
    keep = tta["two_pass"] or tta["flip"] or tta["extra_crops"] > 0
    keep = keep or any(source.overlay for source in sources)
    # Read a batch ahead; where images are kept, only what keeps the threads busy.
    ahead = 2 * threads if keep else max(2 * threads, predictor.batch_size)
    read = partial(_read, predictor=predictor, detect=detect, keep=keep)
    entries: list[tuple[int, Entry]] = []
    problems: list[str] = []
    finer: list[int] = []
    start, rest = 0.0, 0
    start_reading()
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(sources), unit="image", disable=None) as bar,
    ):
        for chunk in _chunks(_map_ahead(pool, read, sources, ahead), predictor.batch_size):
            faces = _predict_chunk(predictor, pool, chunk, tta)
            found = [*(each.problems for each in chunk), *pool.map(_draw, chunk, faces)]
            for problem in itertools.chain(*found):
                say(problem)
                problems.append(problem)
            entries += itertools.chain(*map(_entries, chunk, faces))
            finer += [each.finer for each in chunk if each.finer]
            bar.update(len(chunk))
            rest += sum(map(len, faces)) if start else 0
            start = start or time.perf_counter()  # The network has compiled.
            if received:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    if rest:
        print(f"{rest / (time.perf_counter() - start):.1f} faces a second after the first batch")
    if finer:
        print(
            f"{len(finer)} of {len(sources)} images have faces so small that others may be missed; "
            f"a side of {max(finer)} (--side, or the key predict.side) finds smaller ones"
        )
    entries.sort(key=lambda pair: pair[0])  # Stable: all are 0 without a file of boxes.
    return [entry for _, entry in entries], problems


def say(text: str) -> None:
    """Prints a line above the progress bar."""
    tqdm.write(printable(text))


def printable(text: str) -> str:
    """The text in one line: file names need not be UTF-8, and may tell a terminal what to do."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _read(source: Input, predictor: LandmarkPredictor, detect: Detect | None, keep: bool) -> _Read:
    """Reads an image and crops its faces; problems are collected, not raised."""
    problems: list[str] = []
    try:
        image = read_image(source.path, source.path, upright=source.upright)
    except InputError as error:
        return _Read(source, None, [], None, [str(error)])
    if (count := count_images(source.path) or 1) > 1:
        say(f"{source.path}: holds {count} images; only the first is used")
    faces: list[_Found] = []
    finer = 0
    if source.boxes is not None:
        if not source.upright and is_turned(source.path):
            say(
                f"{source.path}: is not turned as its EXIF orientation says; if its boxes mean the "
                "upright image, set --upright (or the key data.exif_upright)"
            )
        for number, box in source.boxes:
            try:
                check_box(box, image)
                faces.append((number, box, None))
            except InputError as error:
                problems.append(f"{source.path}: {error}")
    elif detect is None:
        faces.append((0, geometry.image_box(image), None))
    else:
        found = detect(image)
        finer = found.finer
        faces += [(0, *pair) for pair in zip(found.boxes, found.scores.tolist(), strict=True)]
        if not faces:
            say(
                f"{source.path}: no face found; --boxes image takes the whole image as one, and "
                f"{HOW_TO_FIND_MORE}"
            )
    crops = predictor.cut(image, np.stack([box for _, box, _ in faces])) if faces else None
    return _Read(source, image if keep else None, faces, crops, problems, finer)


def _map_ahead(
    pool: ThreadPoolExecutor, work: Callable[[Input], _Read], sources: Iterable[Input], ahead: int
) -> Iterator[_Read]:
    """`work` of every source, in order, done in the pool's threads before it is asked for."""
    waiting: deque[Future[_Read]] = deque()
    for source in sources:
        waiting.append(pool.submit(work, source))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _chunks(read: Iterable[_Read], num_faces: int) -> Iterator[list[_Read]]:
    """Images that together hold a batch of faces, or as many pixels as may wait."""
    chunk, faces, pixels = [], 0, 0
    for each in read:
        chunk.append(each)
        faces += len(each.faces)
        pixels += 0 if each.image is None else each.image.size // 3
        if faces >= num_faces or pixels >= _MAX_PIXELS or len(chunk) >= 4 * num_faces:
            yield chunk
            chunk, faces, pixels = [], 0, 0
    if chunk:
        yield chunk


def _predict_chunk(predictor, pool, chunk, tta) -> list[list[Face]]:
    """The faces of each image."""
    found = [face for each in chunk for face in each.faces]
    if not found:
        return [[] for _ in chunk]
    boxes = np.stack([box for _, box, _ in found]).astype(np.float32)
    ends = np.cumsum([len(each.faces) for each in chunk])
    plain = _join([each.crops for each in chunk if each.crops])
    outputs: list[dict[str, ndarray]] = []  # of each prediction

    def predict(views: ndarray, flip: bool) -> ndarray:
        crops = plain
        if flip or views is not boxes:
            parts = zip(chunk, np.split(views, ends[:-1]), strict=True)
            cut = [(each.image, part, flip) for each, part in parts if len(part)]
            crops = _join(pool.map(lambda arguments: predictor.cut(*arguments), cut))
        predicted = predictor.predict(crops)
        if not np.isfinite(predicted.landmarks).all():
            raise InputError("the weights predict no finite numbers")
        order = MIRROR if flip else slice(None)
        outputs.append({name: values[:, order] for name, values in predicted.outputs.items()})
        return predicted.landmarks[:, order]

    landmarks = predict_with_tta(predict, boxes, predictor.margins, **tta)
    # The first pass of two only says where to crop.
    last = outputs[tta["two_pass"] :]
    mean = {name: np.mean([each[name] for each in last], axis=0) for name in last[0]}
    faces = [
        Face(box, score, points, estimate_pose(points), {n: mean[n][i] for n in mean})
        for i, ((_, box, score), points) in enumerate(zip(found, landmarks, strict=True))
    ]
    return [faces[end - len(each.faces) : end] for each, end in zip(chunk, ends, strict=True)]


def _join(crops: Iterable[Crops]) -> Crops:
    return Crops(*(np.concatenate(arrays) for arrays in zip(*crops, strict=True)))


def _entries(read: _Read, faces: list[Face]) -> list[tuple[int, Entry]]:
    """One for each given box, or one for all faces of the image; and where they belong."""
    path = read.source.path
    if read.source.boxes is None:
        return [] if read.problems else [(0, Entry(path, faces))]
    pairs = zip(read.faces, faces, strict=True)
    return [(number, Entry(path, [face])) for (number, _, _), face in pairs]


def _draw(read: _Read, faces: Sequence[Face]) -> list[str]:
    """Writes the overlay; returns what went wrong."""
    path = read.source.overlay
    if path is None or read.image is None or not faces:
        return []
    for face in faces:
        draw_face(read.image, face)
    try:
        good, content = cv2.imencode(path.suffix, read.image)
    except cv2.error:
        good = False
    if not good:
        return [f"{read.source.path}: too large to be drawn as {path.suffix}"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda new: new.write_bytes(content.tobytes()))
    except OSError as error:
        return [f"{read.source.path}: {path} can't be written: {error.strerror}"]
    return []
