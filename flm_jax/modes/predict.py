"""--mode predict: landmarks of any pictures or of a video, as JSON, CSV and drawn pictures."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict
from numpy import ndarray
from tqdm import tqdm

from flm_jax import geometry
from flm_jax.config import schema
from flm_jax.config.weights import load_network
from flm_jax.data import wflw
from flm_jax.data.images import read_image
from flm_jax.data.loader import default_threads
from flm_jax.data.workers import start_reading
from flm_jax.errors import InputError
from flm_jax.inference import inputs, outputs, overlay, tta, video
from flm_jax.inference.detector import load_detector
from flm_jax.inference.head_pose import estimate_pose
from flm_jax.inference.outputs import Entry, Face
from flm_jax.inference.predictor import Crops, LandmarkPredictor, check_box
from flm_jax.landmarks import MIRROR
from flm_jax.runtime import work_folder
from flm_jax.runtime.signals import collect_signals

# Pictures that wait for their landmarks to be drawn hold at most so many pixels together.
_MOST_PIXELS = 2**27


class _Job(NamedTuple):
    """A picture to look at; with given boxes, their places in the file and themselves."""

    picture: inputs.Picture
    boxes: Sequence[tuple[int, ndarray]] | None


class _Seen(NamedTuple):
    """What a picture holds: of every face its place in the file (0 without one), box and score,
    and the crops. The picture itself is kept only if it is needed again."""

    job: _Job
    image: ndarray | None
    places: list[int]
    boxes: list[ndarray]
    scores: list[float | None]
    crops: Crops
    problems: list[str]


def run(
    config: ConfigDict, workdir: Path, *, input: str = "", output: str = "", boxes: str = ""
) -> None:
    """Writes landmarks.json, landmarks.csv and overlays/ of the faces of pictures or of a video.

    Args:
        config: of the trained weights, and what `config.predict` says.
        workdir: where they are.
        input: a picture, a folder, a glob, a video or the number of a camera.
        output: the folder to write into; <workdir>/predict by default.
        boxes: a file, or `image`: each picture is one face; by default a detector finds the faces.

    Raises:
        InputError: something can't be used; a picture that can't is told, and left out, before.
    """
    schema.check(config)
    if not input:
        raise InputError(
            "--mode predict needs --input: a picture, a folder, a glob in quotes, a video or the "
            "number of a camera"
        )
    is_video = inputs.is_video(input)
    if is_video and boxes:
        raise InputError(f"--boxes={boxes}: the faces of a video are found by the detector")
    folder = Path(output or workdir / "predict")
    jobs = [] if is_video else _find_jobs(input, boxes, folder)
    detect = None
    if not boxes:
        detect = load_detector(config.predict.detector, config.predict.threshold)
    network = load_network(workdir, str(config.evaluate.checkpoint), config)
    predictor = LandmarkPredictor(**network, detect=detect)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with collect_signals() as received:
            if detect and is_video:
                chosen = config.predict
                found = video.predict_video(
                    predictor,
                    detect,
                    input,
                    overlays=folder / "overlays" if chosen.overlays else None,
                    smoothing=chosen.smoothing.to_dict(),
                    received=received,
                )
            else:
                found = _predict_pictures(config, predictor, detect, jobs, folder, received)
            _write(folder, *found, received)
    except OSError as error:
        raise InputError(f"--output={folder}: can't be written: {error}") from None


def _find_jobs(source: str, boxes: str, folder: Path) -> list[_Job]:
    if boxes in ("", "image"):
        return [_Job(picture, None) for picture in inputs.find_pictures(source, folder)]
    by_name: dict[str, list[tuple[int, ndarray]]] = {}
    for place, (name, box) in enumerate(inputs.read_boxes(boxes)):
        by_name.setdefault(name, []).append((place, box))
    return [_Job(inputs.named_picture(source, name), given) for name, given in by_name.items()]


def _look(job: _Job, predictor, detect, keep: bool) -> _Seen:
    """Reads a picture and crops its faces; a problem is told, not raised."""
    path, nothing = job.picture.path, predictor.cut(np.zeros((1, 1, 3), np.uint8), np.zeros((0, 4)))
    try:
        # The lists' boxes are of the stored pixels.
        image = read_image(path, path, upright=job.boxes is None)
    except InputError as error:
        return _Seen(job, None, [], [], [], nothing, [str(error)])
    problems: list[str] = []
    places: list[int] = []
    boxes: list[ndarray] = []
    scores: list[float | None] = []
    if job.boxes is not None:
        for place, box in job.boxes:
            try:
                check_box(box, image)
            except InputError as error:
                problems.append(f"{path}: {error}")
                continue
            places.append(place)
            boxes.append(box)
            scores.append(None)
    elif detect is None:
        boxes, scores = [geometry.image_box(image)], [None]
    else:
        found = detect(image)
        boxes, scores = list(found.boxes), [*map(float, found.scores)]
        if not boxes:
            tqdm.write(
                f"{path}: no face found; --boxes image takes the whole picture as one, and "
                "--config.predict.threshold=0.3 looks less strictly"
            )
    crops = predictor.cut(image, np.array(boxes)) if boxes else nothing
    kept = image if keep else None
    return _Seen(job, kept, places or [0] * len(boxes), boxes, scores, crops, problems)


def _predict_pictures(config, predictor, detect, jobs, folder, received):
    """The entries, in the order of the jobs or of the file of boxes, and what went wrong."""
    chosen, looks = config.predict, config.predict.tta
    threads = config.data.num_threads or default_threads(0)
    keep = chosen.overlays or looks.two_pass or looks.flip or looks.extra_crops > 0
    # Read ahead a batch's worth; where the pictures stay, only what keeps the threads at work.
    ahead = 2 * threads if keep else max(2 * threads, predictor.batch_size)
    start_reading()
    entries: list[tuple[int, Entry]] = []
    problems: list[str] = []
    start, early = time.perf_counter(), None
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(jobs), unit="picture", disable=None) as bar,
    ):
        drawn: list[Future] = []
        seen = _map_ahead(pool, lambda job: _look(job, predictor, detect, keep), jobs, ahead)
        for chunk in _chunks(seen, predictor.batch_size):
            faces = _predict_chunk(predictor, pool, chunk, looks)
            for each, found in zip(chunk, faces, strict=True):
                for problem in each.problems:
                    tqdm.write(problem)
                problems += each.problems
                entries += _entries(each, found)
                if chosen.overlays and found and each.image is not None:
                    path = folder / "overlays" / _drawn_name(each.job.picture.name)
                    drawn.append(pool.submit(_draw, path, each.image, found))
            for future in drawn:
                future.result()
            drawn.clear()
            bar.update(len(chunk))
            if early is None:  # The network has compiled.
                start, early = time.perf_counter(), sum(map(len, faces))
            if received:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    elapsed = time.perf_counter() - start
    entries.sort(key=lambda pair: pair[0])  # Stable: without a file all places are 0.
    rest = sum(len(entry.faces) for _, entry in entries) - (early or 0)
    if rest > 0:
        print(f"{rest / elapsed:.1f} faces a second after the first {early}")
    return [entry for _, entry in entries], problems


def _map_ahead(
    pool: ThreadPoolExecutor, work: Callable[[_Job], _Seen], jobs: Iterable[_Job], ahead: int
) -> Iterator[_Seen]:
    """`work` of every job, in order, done in the pool's threads before it is asked for."""
    waiting: deque[Future[_Seen]] = deque()
    for job in jobs:
        waiting.append(pool.submit(work, job))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _chunks(seen: Iterable[_Seen], num_faces: int) -> Iterator[list[_Seen]]:
    """Pictures that together hold a batch of faces, or as many pixels as may wait."""
    chunk, faces, pixels = [], 0, 0
    for each in seen:
        chunk.append(each)
        faces += len(each.boxes)
        pixels += 0 if each.image is None else each.image.size // 3
        if faces >= num_faces or pixels >= _MOST_PIXELS or len(chunk) >= 4 * num_faces:
            yield chunk
            chunk, faces, pixels = [], 0, 0
    if chunk:
        yield chunk


def _predict_chunk(predictor, pool, chunk, looks) -> list[list[Face]]:
    """The faces of each picture."""
    boxes = np.array([box for each in chunk for box in each.boxes], np.float32).reshape(-1, 4)
    if not len(boxes):
        return [[] for _ in chunk]
    ends = np.cumsum([len(each.boxes) for each in chunk])[:-1]
    first = _join([each.crops for each in chunk])
    scales: list[ndarray] = []

    def predict(views: ndarray, flip: bool) -> ndarray:
        crops = first
        if flip or views is not boxes:
            parts = zip(chunk, np.split(views, ends), strict=True)
            cut = pool.map(lambda part: predictor.cut(part[0].image, part[1], flip), parts)
            crops = _join([part for part in cut if len(part.images)])
        found = predictor.predict(crops)
        if not np.isfinite(found.landmarks).all():
            raise InputError("the weights predict no finite numbers")
        if "scale" in found.outputs:
            scale = found.outputs["scale"]
            scales.append(scale[:, MIRROR] if flip else scale)
        return found.landmarks[:, MIRROR] if flip else found.landmarks

    margins = np.array(wflw.RECTANGLE_MARGINS)
    landmarks = tta.predict_with_tta(predict, boxes, margins, **looks)
    scale = np.mean(scales[looks.two_pass :], axis=0) if scales else None
    faces: list[list[Face]] = []
    i = 0
    for each in chunk:
        faces.append([])
        for box, score in zip(each.boxes, each.scores, strict=True):
            uncertainty = None if scale is None else scale[i]
            pose = estimate_pose(landmarks[i])
            faces[-1].append(Face(box, score, landmarks[i], uncertainty, pose))
            i += 1
    return faces


def _join(crops: Sequence[Crops]) -> Crops:
    return Crops(*(np.concatenate(arrays) for arrays in zip(*crops, strict=True)))


def _entries(seen: _Seen, faces: list[Face]) -> list[tuple[int, Entry]]:
    """Of a picture: one for each given box, or one for all its faces."""
    if seen.job.boxes is not None:
        path = seen.job.picture.path
        return [
            (place, Entry(path, [face])) for place, face in zip(seen.places, faces, strict=True)
        ]
    return [] if seen.problems else [(0, Entry(seen.job.picture.path, faces))]


def _drawn_name(name: str) -> Path:
    """The picture's name below the overlays, whatever it was relative to."""
    parts = [part for part in Path(name).parts if part not in ("..", Path(name).anchor)]
    path = Path(*parts)
    return path if path.suffix.lower() in inputs.PICTURES else path.with_name(path.name + ".png")


def _draw(path: Path, image: ndarray, faces: Sequence[Face]) -> None:
    for face in faces:
        overlay.draw_face(image, face)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def _write(folder: Path, entries: Sequence[Entry], problems: Sequence[str], received: Any) -> None:
    path = folder / "landmarks.json"
    work_folder.write_atomically(path, lambda new: outputs.write_json(new, entries))
    work_folder.write_atomically(
        folder / "landmarks.csv", lambda new: outputs.write_csv(new, entries)
    )
    print(f"{path}: {sum(len(entry.faces) for entry in entries)} faces")
    if received:
        sys.exit(128 + received[0])
    if problems:
        count = f"{len(problems)} pictures or boxes" if len(problems) > 1 else "one picture or box"
        raise InputError(f"{count} could not be used, the first: {problems[0]}")
