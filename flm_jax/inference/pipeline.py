"""From an input to landmarks.json, landmarks.csv and overlays, with a network in any runtime."""

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flm_jax.errors import InputError
from flm_jax.inference import inputs, outputs
from flm_jax.inference.detector import Detect, framed
from flm_jax.inference.images import predict_images, printable, say
from flm_jax.inference.inputs import Input
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.inference.video import predict_video
from flm_jax.runtime.signals import collect_signals
from flm_jax.runtime.work_folder import write_atomically


class Job(NamedTuple):
    """What is read, and the folder that is written."""

    sources: list[Input]
    folder: Path


def plan(
    source: str,
    folder: Path,
    *,
    boxes: str = "",
    overlays: bool = True,
    upright: bool = False,
    networks: Sequence[str | Path] = (),
) -> Job:
    """Finds what an input names, before anything is computed.

    Args:
        source: an image, a folder, a glob, a video, a stream or the number of a camera.
        folder: to write into.
        boxes: a file of boxes; "image": each image is one face; "": a detector finds the faces.
        overlays: whether the faces are drawn, into `folder`/overlays.
        upright: whether the boxes of a file are of images turned as their EXIF orientation says.
        networks: files that are read as well.

    Raises:
        InputError: the input or the boxes can't be used, or would be overwritten.
    """
    if boxes and inputs.is_video(source):
        raise InputError(f"--boxes={boxes}: the faces of a video are found by the detector")
    if boxes in ("", "image"):
        sources = inputs.find_inputs(source, folder, videos=not boxes)
    else:
        sources = inputs.find_boxed_images(source, boxes, upright)
    if overlays:
        names = [f"{Path(s.name).with_suffix('.mp4')}" if s.is_video else s.name for s in sources]
        sources = [
            each._replace(overlay=folder / inputs.OVERLAYS / path)
            for each, path in zip(sources, _overlay_names(names), strict=True)
        ]
    paths = (boxes, *networks, *(each.path for each in sources))
    read = {os.path.realpath(path) for path in paths if path}
    overlay_paths = [each.overlay for each in sources if each.overlay]
    for path in (folder / inputs.JSON, folder / inputs.CSV, *overlay_paths):
        if os.path.realpath(path) in read:
            raise InputError(f"{path}: is read and would be overwritten; choose another --output")
        if os.path.isdir(path):
            raise InputError(f"{path}: is a folder and would be a file; choose another --output")
    return Job(sources, folder)


def run(
    job: Job,
    predictor: LandmarkPredictor,
    detect: Detect | None,
    *,
    tta: Mapping[str, Any],
    smoothing: Mapping[str, Any],
    num_threads: int = 0,
) -> None:
    """Predicts and writes the results; after a signal, those finished so far.

    Args:
        job: of `plan`.
        predictor: the network.
        detect: finds the faces of a BGR image; None: boxes are given, or each image is one face.
        tta: keywords of `tta.predict_with_tta`, for images.
        smoothing: keywords of `OneEuroFilter`, for a video.
        num_threads: that read and draw images; 0: one for each core.

    Raises:
        InputError: nothing can be written, or, once the rest is written, an image or a box could
            not be used.
    """
    detect = detect and framed(detect, predictor.box)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=job.folder):  # A disk that can't be written fails here.
            pass
        with collect_signals() as received:
            images = [source for source in job.sources if not source.is_video]
            entries, problems = predict_images(
                predictor, detect, images, received, tta=tta, num_threads=num_threads
            )
            if detect:
                found = _predict_videos(job, predictor, detect, received, smoothing)
                entries, problems = entries + found[0], problems + found[1]
            json, csv = job.folder / inputs.JSON, job.folder / inputs.CSV
            write_atomically(json, lambda path: outputs.write_json(path, entries))
            write_atomically(csv, lambda path: outputs.write_csv(path, entries))
            print(f"{json}: {sum(len(entry.faces) for entry in entries)} faces")
    except OSError as error:
        raise InputError(f"--output={job.folder}: can't be written: {error}") from None
    if received:
        sys.exit(128 + received[0])
    if problems:
        count = f"{len(problems)} images or boxes" if len(problems) > 1 else "one image or box"
        raise InputError(f"{count} could not be used, the first: {printable(problems[0])}")


def _predict_videos(
    job: Job,
    predictor: LandmarkPredictor,
    detect: Detect,
    received: Sequence[int],
    smoothing: Mapping[str, Any],
) -> tuple[list[outputs.Entry], list[str]]:
    """The entries of the job's videos, one after the other, and what went wrong."""
    entries: list[outputs.Entry] = []
    problems: list[str] = []
    for source in job.sources:
        if received or not source.is_video:
            continue
        try:
            found = predict_video(predictor, detect, source, received, smoothing=smoothing)
        except (InputError, OSError) as error:
            if len(job.sources) == 1:
                raise
            problem = str(error) if isinstance(error, InputError) else f"{source.path}: {error}"
            say(problem)
            found = [], [problem]
        entries, problems = entries + found[0], problems + found[1]
    return entries, problems


def _overlay_names(names: Iterable[str]) -> list[Path]:
    """A path below the overlays for each name, wherever that leads, and no path twice."""
    taken: set[str] = set()
    paths = []
    for name in names:
        parts = [part for part in Path(name).parts if part not in ("..", Path(name).anchor)]
        path = Path(*parts or ["image"])
        if path.suffix.lower() not in (*inputs.DRAWN, ".mp4"):
            path = path.with_name(f"{path.name}.png")
        stem, number = path.stem, 1
        while str(path).lower() in taken:  # Some file systems know no capitals.
            number += 1
            path = path.with_stem(f"{stem}_{number}")
        taken.add(str(path).lower())
        paths.append(path)
    return paths
