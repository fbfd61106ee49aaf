"""Follows the faces of a video or of a camera, frame by frame."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from tqdm import tqdm

from flm_jax.data import wflw
from flm_jax.errors import InputError
from flm_jax.inference import inputs
from flm_jax.inference.detector import Detect
from flm_jax.inference.images import say
from flm_jax.inference.inputs import Input
from flm_jax.inference.outputs import Entry
from flm_jax.inference.overlay import draw_face
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.inference.tracking import FaceTracker
from flm_jax.runtime.work_folder import write_atomically

# Frames a second of a file that does not say, or of a camera's recording.
_DEFAULT_RATE = 25.0

# By how many frames containers miscount without having lost anything.
_MISCOUNTED = 2


def predict_video(
    predictor: LandmarkPredictor,
    detect: Detect,
    source: Input,
    received: Sequence[int],
    *,
    smoothing: Mapping[str, Any],
) -> tuple[list[Entry], list[str]]:
    """Follows the faces of a video, and draws its overlay.

    Args:
        predictor: the network.
        detect: finds the faces of a BGR frame.
        source: the video or camera.
        received: signals; the first ends the video, which is how a camera's recording ends.
        smoothing: keywords of `OneEuroFilter`.

    Returns:
        An entry for every frame, and what went wrong.

    Raises:
        InputError: the video can't be opened, or has no frame.
    """
    capture, rate, expected = _open(source.path)
    is_file = inputs.is_file(source.path)

    def predict(image, boxes):
        return predictor.predict(predictor.cut(image, boxes))

    tracker = FaceTracker(detect, predict, np.array(wflw.RECTANGLE_MARGINS), smoothing)
    entries: list[Entry] = []
    start = time.perf_counter()

    def follow(overlay: Path | None) -> None:
        nonlocal start
        writer = None
        for image in _frames(capture, received, expected):
            now = len(entries) / rate if is_file else time.perf_counter() - start
            faces = tracker(image, now)
            entries.append(Entry(source.path, faces, len(entries), now))
            if overlay is not None:
                writer = writer or _open_writer(overlay, rate, image)
                for face in faces:
                    draw_face(image, face)
                writer.write(image)
            if len(entries) == 1:
                start = time.perf_counter()  # The network has compiled.
        if writer is not None:
            writer.release()
        if not entries:
            raise InputError(f"--input={source.path}: no frame of it can be read")

    if source.overlay is None:
        follow(None)
    else:
        source.overlay.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(source.overlay, follow)
    capture.release()
    count = len(entries)
    per_second = (count - 1) / max(time.perf_counter() - start, 1e-9)
    say(
        f"{source.path}: {count} frames, {per_second:.1f} a second; the detector ran on "
        f"{tracker.num_detections}"
    )
    if not any(entry.faces for entry in entries):
        say(f"{source.path}: no face found; --config.predict.threshold=0.3 accepts fainter ones")
    if not received and count < expected - _MISCOUNTED:
        problem = f"{source.path}: ends after {count} of {expected} frames; those are written"
        return entries, [problem]
    return entries, []


def _open(source: str) -> tuple[cv2.VideoCapture, float, int]:
    """A video or camera, its frames a second, and how many there are; 0: not known."""
    capture = cv2.VideoCapture(source if inputs.is_file(source) else int(source))
    if not capture.isOpened():
        raise InputError(
            f"--input={source}: can't be opened as a video; the file may be cut off or of a format "
            "that OpenCV does not know, or there is no such camera"
        )
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if np.isfinite(rate) and rate > 0 else _DEFAULT_RATE
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if inputs.is_file(source) else 0
    return capture, rate, max(0, count)


def _frames(
    capture: cv2.VideoCapture, received: Sequence[int], expected: int
) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """Reads BGR frames until there are no more, or a signal has come."""
    with tqdm(total=expected or None, unit="frame", disable=None) as bar:
        while not received:
            good, image = capture.read()
            if not good:
                return
            yield image
            bar.update()


def _open_writer(path: Path, rate: float, image: ndarray) -> cv2.VideoWriter:
    size = image.shape[1], image.shape[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise OSError(f"{path}: this OpenCV writes no mp4; --config.predict.overlays=False")
    return writer
