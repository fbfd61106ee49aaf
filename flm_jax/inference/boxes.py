"""The boxes of faces that a file gives, by the names of their images."""

import contextlib
import json
import os
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.data.files import open_text, read_lines
from flm_jax.data.wflw import count_fields
from flm_jax.errors import InputError


class Box(NamedTuple):
    """The name of an image, "" where the file names none; the box of a face, f64[4] in its pixels;
    and whether it is that of a detector in a landmarks.json."""

    name: str
    corners: Float[ndarray, "4"]
    is_detected: bool = False


# Fields of a WFLW list's line, whose rectangle begins at the 197th.
_LINE = 207

_MAX_JSON = 2**27  # characters, which take some ten bytes each once they are read
_EXPECTED = "the 207 of a WFLW list, or xmin ymin xmax ymax name"

# What a detector writes behind its box, and no file's name begins with.
_SCORE = re.compile(r"([01]?\.\d*|\d\.\d*e-\d+)(\s+|$)")
_NUMBERS = re.compile(r"(?:[-+.\de]+(?:\s+|$)){8}")


def read_boxes(path: str) -> list[Box]:
    """The boxes of a file, in its order.

    The file is a list of WFLW; or lines `xmin ymin xmax ymax name`, where a score may follow the
    box and the name may be missing; or JSON: {name: [box, ...]}, or a landmarks.json, [{"image":
    name, "faces": [{"box": box}, ...]}, ...].

    Raises:
        InputError: the file can't be read, or a part of it is no box; names the place.
    """
    try:
        with open_text(path) as text:
            start = text.read(1024).lstrip()[:1]
        boxes = _boxes_of_json(path) if start and start in "[{" else _boxes_of_lines(path)
    except OSError as error:
        raise InputError(f"--boxes={path}: can't be read: {error.strerror}") from None
    except UnicodeError:
        raise InputError(f"--boxes={path}: not UTF-8 or UTF-16 text") from None
    if not boxes:
        raise InputError(f"--boxes={path}: holds no box")
    return boxes


def _boxes_of_lines(path: str) -> list[Box]:
    with contextlib.closing(read_lines(path)) as lines:
        return [
            _box_of_line(f"{path}:{line}", content)
            for line, text in lines
            if (content := text.strip())
        ]


def _box_of_line(place: str, content: str) -> Box:
    fields = content.split(maxsplit=_LINE - 1)
    if len(fields) == _LINE and set(fields[200:206]) <= {"0", "1"}:
        return _box(place, fields[-1], fields[196:200])
    *corners, rest = content.split(maxsplit=4) if len(fields) > 4 else [*fields, ""]
    if len(corners) < 4 or (len(fields) == 4 and not _is_number(fields[3])):
        raise InputError(f"{place}: {len(fields)} fields; expected {_EXPECTED}")
    if _NUMBERS.match(rest):
        raise InputError(f"{place}: {count_fields(len(content.split()))}; expected {_EXPECTED}")
    return _box(place, _SCORE.sub("", rest, count=1) if _SCORE.match(rest) else rest, corners)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _boxes_of_json(path: str) -> list[Box]:
    with open_text(path) as file:
        text = file.read(_MAX_JSON + 1)
    if len(text) > _MAX_JSON:
        raise InputError(f"--boxes={path}: more than {_MAX_JSON} characters of JSON; split it")
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
        if isinstance(content, dict):
            found = [(name, box, False) for name, boxes in content.items() for box in boxes]
        else:
            found = [
                (item["image"], face["box"], face.get("score") is not None)
                for item in content
                for face in item["faces"]
            ]
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(
            f'{path}: expected {{"name": [[xmin, ymin, xmax, ymax], ...], ...}} or the '
            "landmarks.json of a prediction"
        ) from None
    # A fifth number is a detector's score.
    return [
        _box(path, str(name), box[:4] if isinstance(box, list) and len(box) == 5 else box, detected)
        for name, box, detected in found
    ]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InputError(f"{name!a} stands there twice; give its boxes in one list")
    return content


def _box(place: str, name: str, corners: Any, is_detected: bool = False) -> Box:
    try:
        if not isinstance(corners, list) or any(isinstance(number, bool) for number in corners):
            raise TypeError
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
    return Box(name, box, is_detected)
