"""Draws a data set of faces with known landmarks, in WFLW's layout, for the demo and the tests.

    python -m flm_jax.drawing.dataset FOLDER --train 2000 --test 250 --seed 0

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
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from flm_jax.data import wflw
from flm_jax.data.workers import num_cores, start_worker
from flm_jax.drawing.picture import DrawnFace, DrawnPicture, draw_picture, num_faces
from flm_jax.errors import InputError
from flm_jax.runtime.partial_folder import landing, partial_folder

__all__ = ["SETTINGS", "VERSION", "DrawnFace", "DrawnPicture", "draw_dataset", "draw_picture"]

VERSION = 8  # of the drawing: a folder of another version is not reused
SETTINGS = "drawn_faces.json"

_SPLITS = {"train": wflw.TRAIN_LIST, "test": wflw.TEST_LIST}
_CHUNKS = "chunks"
_CHUNK = 16  # Pictures that are drawn together; those of a killed chunk are drawn again.


def draw_dataset(
    root: str | Path, *, train: int, test: int, seed: int, workers: int | None = None
) -> None:
    """Draws `train` and `test` faces into `root`, or keeps a `root` that holds just those.

    The same counts and seed give the same bytes. The folder appears whole or not at all; a drawing
    that was stopped or killed goes on where it was.

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
    place = landing(root)
    with partial_folder(place, "-".join(str(value) for value in settings.values())) as partial:
        _draw_into(partial, settings, num_cores() if workers is None else workers)
        try:
            partial.rename(place)
        except OSError:
            # Another run may have put the same folder there meanwhile.
            if not _is_reusable(root, settings):
                raise


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
            f"{root}: holds drawn faces with the settings {found}, not {settings}. Give "
            "these (--config.data.drawn.train and so on), or name another folder."
        )
    return True


def _draw_into(folder: Path, settings: dict[str, int], workers: int) -> None:
    (folder / _CHUNKS).mkdir(exist_ok=True)
    chunks: dict[str, list[Path]] = {}
    with _mapping(workers) as mapped:
        for split in _SPLITS:
            (folder / wflw.IMAGES / f"{split}--Drawn").mkdir(parents=True, exist_ok=True)
            plan = _plan(settings["seed"], split, settings[split])
            parts = [plan[i : i + _CHUNK] for i in range(0, len(plan), _CHUNK)]
            chunks[split] = [folder / _CHUNKS / f"{split}_{part[0][0]:07d}.json" for part in parts]
            missing = [
                (path, part)
                for path, part in zip(chunks[split], parts, strict=True)
                if not path.exists()
            ]
            left = sum(count for _, part in missing for _, count in part)
            with tqdm(
                total=settings[split], initial=settings[split] - left, unit="face", disable=None,
                desc=f"drawing {split} faces",
            ) as bar:  # fmt: skip
                job = functools.partial(_draw_chunk, folder, settings["seed"], split)
                for faces in mapped(job, *zip(*missing, strict=True)) if missing else ():
                    bar.update(faces)
    poses = {split: _write_lists(folder, split, paths) for split, paths in chunks.items()}
    shutil.rmtree(folder / _CHUNKS)
    content = {"settings": settings, "yaw_pitch_roll": poses}
    (folder / SETTINGS).write_text(json.dumps(content) + "\n")


def _write_lists(folder: Path, split: str, chunks: list[Path]) -> list[list[float]]:
    """Puts the chunks' faces into the split's lists; returns their yaw, pitch and roll."""
    faces = [face for chunk in chunks for face in json.loads(chunk.read_text())]
    lines = [face["line"] for face in faces]
    _write_lines(folder / _SPLITS[split], lines)
    _write_lines(
        folder / wflw.VISIBILITY / Path(_SPLITS[split]).name, [face["visible"] for face in faces]
    )
    if split == "test":
        fields = [line.split(" ") for line in lines]
        for i, subset in enumerate(wflw.SUBSETS):
            chosen = [" ".join([*f[:196], f[-1]]) for f in fields if f[200 + i] == "1"]
            _write_lines(folder / wflw.SUBSET_LIST.format(subset=subset), chosen)
    return [face["pose"] for face in faces]


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _picture_rng(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(_SPLITS).index(split), index])


def _plan(seed: int, split: str, faces: int) -> list[tuple[int, int]]:
    """(picture, most faces it may have) such that the pictures have `faces` faces together."""
    plan: list[tuple[int, int]] = []
    while faces > 0:
        count = min(num_faces(_picture_rng(seed, split, len(plan))), faces)
        plan.append((len(plan), count))
        faces -= count
    return plan


def _draw_chunk(
    folder: Path, seed: int, split: str, path: Path, pictures: list[tuple[int, int]]
) -> int:
    """Draws pictures and writes them, then `path` with their faces; returns how many these are."""
    faces = []
    for index, max_faces in pictures:
        picture = draw_picture(_picture_rng(seed, split, index), max_faces)
        name = f"{split}--Drawn/{split}_Drawn_{index:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        _, data = cv2.imencode(".jpg", picture.image[..., ::-1], quality)
        (folder / wflw.IMAGES / name).write_bytes(data.tobytes())
        for face in picture.faces:
            faces.append({
                "line": wflw.format_line(face.landmarks, face.box, face.attributes, name),
                "visible": " ".join(str(int(seen)) for seen in face.visible),
                "pose": [round(angle, 3) for angle in (face.yaw, face.pitch, face.roll)],
            })  # fmt: skip
    # Complete or absent, whenever this process is killed.
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")  # A killed run's workers may live.
    unfinished.write_text(json.dumps(faces))
    unfinished.replace(path)
    return len(faces)


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
        workers, multiprocessing.get_context("spawn"), start_worker
    )
    try:
        yield pool.map
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
