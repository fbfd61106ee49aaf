"""Which images to read, and the boxes that a file gives for their faces."""

import glob
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.errors import InputError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

# Fields of a WFLW list's line, whose rectangle begins at the 197th, and of a line of a box alone.
_LINE, _SHORT_LINE = 207, 5

# The name of an image and the box of a face, f64[4] in its pixels.
Box = tuple[str, Float[ndarray, "4"]]


class Input(NamedTuple):
    """An image, a video or a camera.

    Attributes:
        path: of the file, or the camera's number.
        name: below the input that was asked for.
        boxes: of the image's faces, each f64[4] with its number in the file of boxes; None where
            no file gives them.
        overlay: the file to draw the faces into; None: none.
    """

    path: str
    name: str
    boxes: list[tuple[int, ndarray]] | None = None
    overlay: Path | None = None


def is_video(source: str) -> bool:
    """Whether the source is a camera's number, or a file whose name ends as a video's."""
    return not is_file(source) or Path(source).suffix.lower() in VIDEOS


def is_file(source: str) -> bool:
    """Whether the source is no camera's number."""
    return not source.isdecimal() or os.path.exists(source)


def find_images(source: str, output: Path) -> list[Input]:
    """The images of a file, a folder (searched recursively) or a glob, in order.

    Args:
        source: file, folder or glob, in which ** stands for any folders.
        output: a folder to leave out, with the overlays of earlier runs.

    Raises:
        InputError: there is nothing of that name, or no image in it.
    """
    if os.path.isfile(source):
        return [Input(source, Path(source).name)]
    if os.path.isdir(source):
        root, files = source, [str(path) for path in Path(source).rglob("*")]
    else:
        files = glob.glob(source, recursive=True)
        if not files:
            raise InputError(
                f"--input={source}: no such file, and no image fits it as a glob; expected an "
                "image, a folder, a glob in quotes, a video or the number of a camera"
            )
        root = os.path.commonpath([os.path.dirname(file) or "." for file in files])
    own = output.resolve()
    found = sorted(
        file
        for file in files
        if Path(file).suffix.lower() in IMAGES
        and os.path.isfile(file)
        and own not in Path(file).resolve().parents
    )
    if not found:
        raise InputError(f"--input={source}: holds no image ({', '.join(IMAGES)})")
    return [Input(file, os.path.relpath(file, root)) for file in found]


def find_boxed_images(source: str, boxes: str) -> list[Input]:
    """The images below `source` that a file of boxes names, with their boxes."""
    found: dict[str, list[tuple[int, ndarray]]] = {}
    for number, (name, box) in enumerate(read_boxes(boxes)):
        found.setdefault(name, []).append((number, box))
    return [_named_image(source, name)._replace(boxes=given) for name, given in found.items()]


def _named_image(source: str, name: str) -> Input:
    """The image of a name below the input, or, as landmarks.json has it, beginning with it."""
    path = os.path.join(source, name)
    if Path(name).is_relative_to(source) and not os.path.exists(path):
        below = Path(name).relative_to(source)
        return Input(name, str(below) if below.parts else Path(name).name)
    return Input(path, name)


def read_boxes(path: str) -> list[Box]:
    """The boxes of a file, in its order.

    The file is a list of WFLW, or lines `xmin ymin xmax ymax name`, or JSON: {name: [box, ...]}, or
    a landmarks.json, [{"image": name, "faces": [{"box": box}, ...]}, ...].

    Raises:
        InputError: the file can't be read, or a part of it is no box; names the place.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
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
        boxes.append(_box(f"{path}:{line}", fields[-1], corners))
    return boxes


def _boxes_of_json(path: str, text: str) -> list[Box]:
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            pairs = [(name, box) for name, boxes in content.items() for box in boxes]
        else:
            pairs = [(item["image"], face["box"]) for item in content for face in item["faces"]]
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(
            f'{path}: expected {{"name": [[xmin, ymin, xmax, ymax], ...], ...}} or the '
            "landmarks.json of a prediction"
        ) from None
    return [_box(path, str(name), box) for name, box in pairs]


def _box(place: str, name: str, corners: Any) -> Box:
    try:
        box = np.array([float(number) for number in corners])
    except (TypeError, ValueError, OverflowError):
        box = np.full(4, np.nan)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise InputError(
            f"{place}: {name!a}: {str(corners)[:80]} is no box; expected xmin ymin xmax ymax in "
            "pixels"
        )
    try:
        is_name = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise InputError(f"{place}: {name!a} can't be the name of a file")
    return name, box
