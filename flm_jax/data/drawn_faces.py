"""Draws a data set of faces with known landmarks, in WFLW's layout, for the demo and the tests.

    python -m flm_jax.data.drawn_faces FOLDER --train 2000 --test 250 --seed 0

Nothing of it comes from a photograph. What the lists say is true of the pictures: the landmarks are
those that the features are painted from, and each attribute follows from how the face was drawn.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from tqdm import tqdm

from flm_jax.data import drawn_scene, wflw
from flm_jax.data.drawn_head import Head, HeadParameters, render_head, sample_head, sample_light
from flm_jax.errors import InputError

VERSION = 1  # of the drawing: a folder of another version is not reused
SETTINGS = "drawn_faces.json"

_SPLITS = ("train", "test")
_MAX_SIDE = 512
_MIN_OCCLUDED = 8


class DrawnFace(NamedTuple):
    """A face of a picture.

    Attributes:
        landmarks: f32[98, 2], pixels of the picture.
        box: f32[4], the rectangle (xmin, ymin, xmax, ymax), whole pixels.
        attributes: bool[6], in the order of `wflw.ATTRIBUTES`. Pose: |yaw| > 38, |pitch| > 26 or
            |roll| > 32 degrees. Occlusion: at least 8 landmarks are covered.
        yaw: degrees, > 0 where the nose points to the picture's right.
        pitch: degrees, > 0 where the nose points up.
        roll: degrees, > 0 clockwise.
    """

    landmarks: Float[ndarray, "98 2"]
    box: Float[ndarray, "4"]
    attributes: Bool[ndarray, "6"]
    yaw: float
    pitch: float
    roll: float


class DrawnPicture(NamedTuple):
    """A picture, u8[h, w, 3] RGB, and its faces."""

    image: UInt8[ndarray, "h w 3"]
    faces: tuple[DrawnFace, ...]


class _Frame(NamedTuple):
    """A rectangle's width in pixels, and its margins (left, top, right, bottom) around the
    landmarks, as shares of their width and height."""

    width: float
    margins: tuple[float, float, float, float]


# --- one picture -------------------------------------------------------------------------------


def draw_picture(rng: np.random.Generator, max_faces: int = 3) -> DrawnPicture:
    """A picture of one face, sometimes of up to `max_faces`, side by side."""
    count = min(_num_faces(rng), max_faces)
    light = sample_light(rng)
    parameters = [sample_head(rng, light) for _ in range(count)]
    frames = [_sample_frame(rng, limit=_MAX_SIDE / (1.75 * count)) for _ in range(count)]
    heads = [
        render_head(p, frame.width / (1 + frame.margins[0] + frame.margins[2]))
        for p, frame in zip(parameters, frames, strict=True)
    ]
    size, corners = _arrange(rng, heads)
    image = drawn_scene.background(rng, int(size[1]), int(size[0]))
    for p, head, corner in zip(parameters, heads, corners, strict=True):
        drawn_scene.draw_clothes(rng, image, head.neck + corner, head.unit, p.roll)
    for head, corner in zip(heads, corners, strict=True):
        drawn_scene.paste(image, head, *corner.tolist())
    landmarks = [head.landmarks + np.float32(c) for head, c in zip(heads, corners, strict=True)]
    covered = _draw_occluders(rng, image, parameters, heads, landmarks)
    image = drawn_scene.expose(image, light)
    blurred = rng.random() < 0.31
    if blurred:
        image = drawn_scene.blur(rng, image, max(frame.width for frame in frames))
    if rng.random() < 0.4:
        image = drawn_scene.add_noise(rng, image, rng.uniform(1, 7))
    faces = []
    for p, frame, points, hidden in zip(parameters, frames, landmarks, covered, strict=True):
        occluded = hidden.sum() >= _MIN_OCCLUDED
        flags = (p.large_pose, p.strong_expression, light.unusual, p.made_up, occluded, blurred)
        box = _box(points, frame)
        faces.append(DrawnFace(points, box, np.array(flags, bool), p.yaw, p.pitch, p.roll))
    return DrawnPicture(image, tuple(faces))


def _num_faces(rng: np.random.Generator) -> int:
    """How many faces the picture has that `rng` is about to draw; its first number says it."""
    return int(np.searchsorted([0.88, 0.96], rng.random(), side="right")) + 1


def _sample_frame(rng: np.random.Generator, limit: float) -> _Frame:
    width = np.clip(98 * np.exp(0.36 * rng.standard_normal()), 50, min(218, limit))
    left, right, bottom = np.clip(rng.normal(0.005, 0.06, 3), -0.16, 0.17)
    top = np.clip(rng.normal(0.29, 0.13), -0.05, 0.65)
    return _Frame(float(width), (left, top, right, bottom))


def _box(landmarks: Float[ndarray, "98 2"], frame: _Frame) -> Float[ndarray, "4"]:
    low, high = landmarks.min(0), landmarks.max(0)
    left, top, right, bottom = frame.margins
    width, height = high - low
    box = [low[0] - left * width, low[1] - top * height,
           high[0] + right * width, high[1] + bottom * height]  # fmt: skip
    return np.round(box).astype(np.float32)


def _arrange(rng: np.random.Generator, heads: list[Head]) -> tuple[ndarray, list[ndarray]]:
    """The picture's size (width, height) and where the tiles' top-left pixels lie in it."""
    low = [head.landmarks.min(0) for head in heads]
    sizes = np.array([np.ptp(head.landmarks, axis=0) for head in heads])
    # A head with its hair is up to 1.5 times as wide as its landmarks.
    slots = sizes[:, 0] * np.maximum(rng.uniform(1.5, 3.6 if len(heads) == 1 else 1.9), 1.5)
    height = sizes[:, 1].max() * rng.uniform(1.7, 3.2)
    total = np.minimum(np.ceil([slots.sum(), height]), _MAX_SIDE).astype(int)
    slots = slots * total[0] / slots.sum()
    left, corners = 0.0, []
    for size, slot, start in zip(sizes, slots, low, strict=True):
        room = np.array([slot, total[1]]) - size
        share = (
            rng.uniform([0.2, 0.35], 0.8)
            if len(heads) == 1
            else np.array([0.5, rng.uniform(0.4, 0.6)])
        )
        if len(heads) == 1 and rng.random() < 0.08:
            # Partly outside: up to a quarter of the face.
            side = rng.integers(4)
            beyond = rng.uniform(0.05, 0.25) * size[side % 2] / max(room[side % 2], 1)
            share[side % 2] = -beyond if side < 2 else 1 + beyond
        corners.append(np.round(room * share + [left, 0] - start).astype(int))
        left += slot
    return total, corners


def _draw_occluders(
    rng: np.random.Generator,
    image: UInt8[ndarray, "h w 3"],
    parameters: list[HeadParameters],
    heads: list[Head],
    landmarks: list[Float[ndarray, "98 2"]],
) -> list[Bool[ndarray, "98"]]:
    """Hides parts of some faces; returns which landmarks each face has hidden, by anything."""
    covered = [head.covered.copy() for head in heads]
    for p, points in zip(parameters, landmarks, strict=True):
        if rng.random() >= 0.14:
            continue
        skin = p.skin if rng.random() < 0.8 else (rng.uniform(40, 220),) * 3
        mask = drawn_scene.draw_occluder(rng, image, points, skin)
        for hidden, others in zip(covered, landmarks, strict=True):
            column, row = np.round(others).astype(int).T
            inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
            hidden[inside] |= mask[row[inside], column[inside]] > 127
    return covered


# --- a data set --------------------------------------------------------------------------------


def draw_dataset(
    root: str | Path, *, train: int, test: int, seed: int, workers: int | None = None
) -> None:
    """Draws `train` and `test` faces into `root`, or keeps a `root` that holds just those.

    The same counts and seed give the same bytes. The folder appears whole or not at all.

    Args:
        root: the folder that shall hold WFLW_images and WFLW_annotations.
        train: the number of training faces, and `test` of test faces; each at least 1.
        seed: of all that is drawn, at least 0.
        workers: processes that draw; as many as there are cores by default, 0 or 1: this one.

    Raises:
        InputError: a number is out of range, or `root` holds something else.
    """
    root = Path(root)
    settings = {"train": train, "test": test, "seed": seed, "version": VERSION}
    for name, least in (("train", 1), ("test", 1), ("seed", 0)):
        if settings[name] < least:
            raise InputError(f"drawn faces: {name}={settings[name]}, expected at least {least}")
    if _is_reusable(root, settings):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.parent / f".{root.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        _draw_into(partial, settings, workers if workers is not None else os.cpu_count() or 1)
        try:
            partial.rename(root)
        except OSError:
            # Another run may have put the same folder there meanwhile.
            if not _is_reusable(root, settings):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_reusable(root: Path, settings: dict[str, int]) -> bool:
    """Whether `root` holds the data set already; raises InputError if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / SETTINGS).read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{root}: the drawn faces {settings} go into a new or empty folder, but this one "
            "holds something else. Name another folder."
        ) from None
    if found != settings:
        raise InputError(
            f"{root}: holds drawn faces with the settings {found}, not {settings}. Name another "
            "folder, or remove this one."
        )
    return True


def _draw_into(folder: Path, settings: dict[str, int], workers: int) -> None:
    poses: dict[str, list] = {}
    with _mapping(workers) as mapped:
        for split, list_name in zip(_SPLITS, (wflw.TRAIN_LIST, wflw.TEST_LIST), strict=True):
            (folder / wflw.IMAGES / f"{split}--Drawn").mkdir(parents=True)
            plan = _plan(settings["seed"], split, settings[split])
            job = functools.partial(_draw_file, folder, settings["seed"], split)
            lines: list[str] = []
            subsets: dict[str, list[str]] = {subset: [] for subset in wflw.SUBSETS}
            poses[split] = []
            with tqdm(total=settings[split], desc=f"drawing {split} faces", unit="face") as bar:
                for name, faces in mapped(job, *zip(*plan, strict=True)):
                    for face in faces:
                        line = wflw.format_line(face.landmarks, face.box, face.attributes, name)
                        lines.append(line)
                        poses[split].append(
                            [round(a, 3) for a in (face.yaw, face.pitch, face.roll)]
                        )
                        coordinates = " ".join([*line.split()[:196], name])
                        for subset, flag in zip(wflw.SUBSETS, face.attributes, strict=True):
                            if flag:
                                subsets[subset].append(coordinates)
                    bar.update(len(faces))
            _write_lines(folder / list_name, lines)
    for subset, lines in subsets.items():
        _write_lines(folder / wflw.SUBSET_LIST.format(subset=subset), lines)
    content = {"settings": settings, "yaw_pitch_roll": poses}
    (folder / SETTINGS).write_text(json.dumps(content) + "\n")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _picture_rng(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, _SPLITS.index(split), index])


def _plan(seed: int, split: str, faces: int) -> list[tuple[int, int]]:
    """(picture, most faces it may have) such that the pictures have `faces` faces together."""
    plan: list[tuple[int, int]] = []
    while faces > 0:
        count = min(_num_faces(_picture_rng(seed, split, len(plan))), faces)
        plan.append((len(plan), count))
        faces -= count
    return plan


def _draw_file(
    folder: Path, seed: int, split: str, index: int, max_faces: int
) -> tuple[str, tuple[DrawnFace, ...]]:
    """Draws a picture and writes it; returns its name as the lists have it, and its faces."""
    picture = draw_picture(_picture_rng(seed, split, index), max_faces)
    name = f"{split}--Drawn/{split}_Drawn_{index:06d}.jpg"
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    _, data = cv2.imencode(".jpg", picture.image[..., ::-1], quality)
    (folder / wflw.IMAGES / name).write_bytes(data.tobytes())
    return name, picture.faces


@contextlib.contextmanager
def _mapping(workers: int) -> Iterator:
    """`map` in this process, or an ordered map over `workers` processes; OpenCV keeps to a core."""
    if workers < 2:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield map
        finally:
            cv2.setNumThreads(threads)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)
    )
    try:
        yield functools.partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws faces with 98 landmarks in WFLW's layout.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    arguments = parser.parse_args()
    try:
        draw_dataset(
            arguments.folder, train=arguments.train, test=arguments.test, seed=arguments.seed,
            workers=arguments.workers,
        )  # fmt: skip
    except InputError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
