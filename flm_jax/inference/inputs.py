"""Which pictures to look at, and the boxes that a file gives for them."""

import glob
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

# Fields of a WFLW list's line, whose rectangle begins at the 197th, and of a line of a box alone.
_LINE, _SHORT_LINE = 207, 5


class Picture(NamedTuple):
    """A picture file, and its name below the input, which the output repeats."""

    path: str
    name: str


class Box(NamedTuple):
    """A face of a picture, as a file gives it: the picture's name and f64[4], in its pixels."""

    name: str
    box: Float[ndarray, "4"]


def is_video(source: str) -> bool:
    """Whether the source is a camera's number or a file that is named as a video."""
    return _is_camera(source) or Path(source).suffix.lower() in VIDEOS


def _is_camera(source: str) -> bool:
    return source.isdecimal() and not os.path.exists(source)


def video_source(source: str) -> str | int:
    """What OpenCV opens: a camera's number or a path."""
    return int(source) if _is_camera(source) else source


def find_pictures(source: str, leave_out: Path) -> list[Picture]:
    """The pictures that a file, a folder (searched recursively) or a glob names, in order.

    Args:
        source: file, folder or glob, in which ** stands for any folders.
        leave_out: a folder whose files are none: what earlier runs have drawn.

    Raises:
        InputError: there is nothing of that name, or no picture in it.
    """
    if os.path.isfile(source):
        return [Picture(source, Path(source).name)]
    if os.path.isdir(source):
        root, files = source, [str(path) for path in Path(source).rglob("*")]
    else:
        files = glob.glob(source, recursive=True)
        if not files:
            raise InputError(
                f"--input={source}: no such file, and no picture fits it as a glob; expected a "
                "picture, a folder, a glob in quotes, a video or the number of a camera"
            )
        root = os.path.commonpath([os.path.dirname(file) or "." for file in files])
    own = leave_out.resolve()
    chosen = sorted(
        file
        for file in files
        if Path(file).suffix.lower() in PICTURES
        and os.path.isfile(file)
        and own not in Path(file).resolve().parents
    )
    if not chosen:
        raise InputError(f"--input={source}: holds no picture ({', '.join(PICTURES)})")
    return [Picture(file, os.path.relpath(file, root)) for file in chosen]


def named_picture(source: str, name: str) -> Picture:
    """The picture that a file of boxes names, below the input.

    What --mode predict writes has names that begin with the input, unlike all other files.
    """
    path = os.path.join(source, name)
    if Path(name).is_relative_to(source) and not os.path.exists(path):
        below = Path(name).relative_to(source)
        return Picture(name, str(below) if below.parts else Path(name).name)
    return Picture(path, name)


def read_boxes(path: str) -> list[Box]:
    """The boxes of a file, in its order.

    It is a list of WFLW, or lines `xmin ymin xmax ymax name`, or JSON: {name: [box, ...], ...}, or
    what `--mode predict` writes, [{"image": name, "faces": [{"box": box}, ...]}, ...].

    Raises:
        InputError: it can't be read, or a part of it is no box; names the place.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InputError(f"--boxes={path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--boxes={path}: not UTF-8 text ({error.reason})") from None
    is_json = text.lstrip()[:1] in ("[", "{")
    boxes = _boxes_of_json(path, text) if is_json else _boxes_of_lines(path, text)
    if not boxes:
        raise InputError(f"--boxes={path}: holds no box")
    return boxes


def _boxes_of_lines(path: str, text: str) -> list[Box]:
    boxes = []
    for line, content in enumerate(text.splitlines(), start=1):
        fields = content.split()
        if not fields:
            continue
        if len(fields) not in (_LINE, _SHORT_LINE):
            raise InputError(
                f"{path}:{line}: {len(fields)} fields; expected the {_LINE} of a WFLW list, or "
                "xmin ymin xmax ymax name"
            )
        corners = fields[196:200] if len(fields) == _LINE else fields[:4]
        boxes.append(Box(fields[-1], _box(f"{path}:{line}", corners)))
    return boxes


def _boxes_of_json(path: str, text: str) -> list[Box]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    try:
        if isinstance(content, dict):
            pairs = [(name, box) for name, boxes in content.items() for box in boxes]
        else:
            pairs = [(item["image"], face["box"]) for item in content for face in item["faces"]]
    except (KeyError, TypeError):
        raise InputError(
            f'{path}: expected {{"name": [[xmin, ymin, xmax, ymax], ...], ...}} or the '
            "landmarks.json of --mode predict"
        ) from None
    return [Box(str(name), _box(f"{path}: {name}", box)) for name, box in pairs]


def _box(place: str, corners: Any) -> Float[ndarray, "4"]:
    try:
        box = np.array([float(number) for number in corners])
    except (TypeError, ValueError):
        box = np.full(4, np.nan)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise InputError(f"{place}: {corners} is no box; expected xmin ymin xmax ymax in pixels")
    return box
