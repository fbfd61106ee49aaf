"""Follows the faces of a video or of a camera, frame by frame."""

import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from tqdm import tqdm

from flm_jax.data.files import check_utf8
from flm_jax.errors import InputError
from flm_jax.inference import inputs
from flm_jax.inference.detector import HOW_TO_FIND_MORE, Detect
from flm_jax.inference.images import say
from flm_jax.inference.inputs import Input
from flm_jax.inference.outputs import Entry
from flm_jax.inference.overlay import draw_face
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.inference.tracking import FaceTracker
from flm_jax.runtime.quiet import quiet_standard_error
from flm_jax.runtime.work_folder import write_atomically

# Frames a second of a file that does not say, or of a camera's recording.
_DEFAULT_RATE = 25.0

# A rate beyond it is the unit of a container's times, not how often there is a frame.
_MAX_RATE = 1000.0

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

    tracker = FaceTracker(detect, predict, predictor.margins, smoothing)
    entries: list[Entry] = []
    name = _without_password(source.path)
    start = time.perf_counter()

    def follow(overlay: Path | None) -> None:
        nonlocal start
        writer = None
        for image in _frames(capture, received, expected):
            if is_file:
                told = capture.get(cv2.CAP_PROP_POS_MSEC)
                now = frame_time(told, rate, entries[-1].time if entries else None)
            else:
                now = time.perf_counter() - start
            faces = tracker(image, now)
            entries.append(Entry(name, faces, len(entries), now))
            if overlay is not None:
                writer = writer or _open_writer(source, overlay, rate, image)
                for face in faces:
                    draw_face(image, face)
                writer.write(image)
            if len(entries) == 1:
                start = time.perf_counter()  # The network has compiled.
        if writer is not None:
            writer.release()
        if not entries:
            raise InputError(f"--input={name}: no frame of it can be read")

    if source.overlay is None:
        follow(None)
    else:
        source.overlay.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(source.overlay, follow)
    capture.release()
    count = len(entries)
    per_second = (count - 1) / max(time.perf_counter() - start, 1e-9)
    say(
        f"{name}: {count} frames, {per_second:.1f} a second; the detector ran on "
        f"{tracker.num_detections}"
    )
    if is_file and source.overlay is not None and _is_varying(entries, rate):
        say(
            f"{source.path}: its frames come at a varying rate; landmarks.json has their times, "
            f"and the overlay shows {rate:g} a second"
        )
    if not any(entry.faces for entry in entries):
        say(f"{name}: no face found; {HOW_TO_FIND_MORE}")
    if not received and count < expected - _MISCOUNTED:
        problem = f"{name}: ends after {count} of {expected} frames; those are written"
        return entries, [problem]
    return entries, []


def _without_password(stream: str) -> str:
    return re.sub("(?<=://)[^/@]*@", "", stream)


def _open(source: str) -> tuple[cv2.VideoCapture, float, int]:
    """A video or camera, its frames a second, and how many there are; 0: not known."""
    capture = inputs.open_video(source)
    if not capture.isOpened():
        raise InputError(
            f"--input={_without_password(source)}: can't be opened as a video; the file may be cut "
            "off or of a format that OpenCV does not know, or there is no such camera or stream"
        )
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= _MAX_RATE else _DEFAULT_RATE
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


def frame_time(told: float, rate: float, last: float | None) -> float:
    """The time of a frame in seconds: what its container tells, in milliseconds.

    Where that is no number, or not later than the frame before at `last`, it follows by the rate.
    """
    now = told / 1000
    if math.isfinite(now) and (now >= 0 if last is None else now > last):
        return now
    return 0.0 if last is None else last + 1 / rate


def _is_varying(entries: Sequence[Entry], rate: float) -> bool:
    """Whether a frame's time is off by more than a frame from that of a constant rate."""
    times = np.array([entry.time for entry in entries])
    return bool((np.abs(times - times[0] - np.arange(len(times)) / rate) > 1 / rate).any())


def _open_writer(source: Input, path: Path, rate: float, image: ndarray) -> cv2.VideoWriter:
    """An mp4 in H.264, which browsers play, or else in MPEG-4."""
    size = image.shape[1], image.shape[0]
    target = os.path.abspath(path)
    check_utf8(target, f"{source.overlay}")
    for codec in ("avc1", "mp4v"):
        with quiet_standard_error():  # FFmpeg tells at length that it lacks an encoder.
            writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*codec), rate, size)
        if writer.isOpened():
            if codec == "mp4v":
                say(
                    f"{source.overlay}: in MPEG-4, which browsers do not play; this OpenCV has no "
                    "encoder for H.264"
                )
            return writer
    raise InputError(
        f"{_without_password(source.path)}: OpenCV writes no mp4 with frames of {size[0]} x "
        f"{size[1]} px; --no-overlays (or the key predict.overlays) does without"
    )
