"""A video's or a camera's faces, frame by frame: what `--mode predict` does with one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray
from tqdm import tqdm

from flm_jax.data import wflw
from flm_jax.errors import InputError
from flm_jax.inference import inputs, overlay
from flm_jax.inference.detector import Detect
from flm_jax.inference.head_pose import estimate_pose
from flm_jax.inference.outputs import Entry, Face
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.inference.tracking import FaceTracker, TrackedFace

# Of a file that does not tell, or of a camera's recording.
_USUAL_RATE = 25.0

# What containers count too much or too little without having lost anything.
_MISCOUNTED = 2


class _Motion:
    """How far the points of a face move from frame to frame, in pixels: the mean, so far."""

    def __init__(self):
        self._before: dict[int, ndarray] = {}
        self._sum, self._count = np.zeros(2), 0

    def add(self, faces: Sequence[TrackedFace]) -> None:
        points = {face.track: np.stack([face.raw, face.landmarks]) for face in faces}
        for track in points.keys() & self._before.keys():
            steps = np.linalg.norm(points[track] - self._before[track], axis=-1)
            self._sum += steps.mean(axis=-1)
            self._count += 1
        self._before = points

    def __str__(self) -> str:
        raw, steady = self._sum / max(self._count, 1)
        return f"points move by {raw:.2f} px a frame as predicted, {steady:.2f} px as written"


def predict_video(
    predictor: LandmarkPredictor,
    detect: Detect,
    source: str,
    *,
    overlays: Path | None,
    smoothing: Mapping[str, Any],
    received: Sequence[int],
) -> tuple[list[Entry], list[str]]:
    """Follows the faces of a video.

    Args:
        predictor: of the landmarks.
        detect: of the faces.
        source: the file or the camera's number.
        overlays: the folder that the video goes to with points, boxes and axes drawn; None: none.
        smoothing: keywords of `OneEuroFilter`.
        received: signals; the first ends the video, which is how a camera's recording ends.

    Returns:
        An entry for every frame, and what went wrong.

    Raises:
        InputError: the video can't be opened, or has no frame.
    """
    capture = cv2.VideoCapture(inputs.video_source(source))
    if not capture.isOpened():
        raise InputError(
            f"--input={source}: can't be opened as a video; the file may be cut off or of a format "
            "that OpenCV does not know, or there is no such camera"
        )
    is_file = isinstance(inputs.video_source(source), str)
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if np.isfinite(rate) and rate > 0 else _USUAL_RATE
    expected = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if is_file else 0

    def predict(image, boxes):
        found = predictor.predict(predictor.cut(image, boxes))
        return found.landmarks, found.outputs.get("scale")

    margins = np.array(wflw.RECTANGLE_MARGINS)
    tracker = FaceTracker(detect, predict, margins, smoothing)
    motion, writer = _Motion(), None
    entries: list[Entry] = []
    start = time.perf_counter()
    with tqdm(total=expected or None, unit="frame", disable=None) as bar:
        while not received:
            good, image = capture.read()
            if not good:
                break
            now = len(entries) / rate if is_file else time.perf_counter() - start
            tracked = tracker(image, now)
            motion.add(tracked)
            faces = [_face(each) for each in tracked]
            entries.append(Entry(source, faces, len(entries), now))
            if overlays is not None:
                writer = writer or _open_writer(overlays / f"{Path(source).stem}.mp4", rate, image)
                for face in faces:
                    overlay.draw_face(image, face)
                writer.write(image)
            bar.update()
            if len(entries) == 1:
                start = time.perf_counter()  # The network has compiled.
    elapsed = time.perf_counter() - start
    capture.release()
    if writer is not None:
        writer.release()
    return entries, _report(source, entries, expected, elapsed, tracker, motion, bool(received))


def _face(each: TrackedFace) -> Face:
    pose = estimate_pose(each.landmarks)
    return Face(each.box, each.score, each.landmarks, each.uncertainty, pose)


def _open_writer(path: Path, rate: float, image: ndarray) -> cv2.VideoWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = image.shape[1], image.shape[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise OSError(f"{path}: this OpenCV writes no mp4; --config.predict.overlays=False")
    return writer


def _report(source, entries, expected, elapsed, tracker, motion, stopped) -> list[str]:
    count = len(entries)
    if count == 0:
        raise InputError(f"--input={source}: no frame of it can be read")
    rate = (count - 1) / max(elapsed, 1e-9)
    print(
        f"{source}: {count} frames, {rate:.1f} a second; the detector looked at "
        f"{tracker.num_detections}; {motion}"
    )
    if not any(entry.faces for entry in entries):
        print(f"{source}: no face found; --config.predict.threshold=0.3 looks less strictly")
    if not stopped and count < expected - _MISCOUNTED:
        return [f"{source}: ends after {count} of {expected} frames; those are written"]
    return []
