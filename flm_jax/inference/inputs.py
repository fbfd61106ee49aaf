"""Which images, videos, cameras and streams to read."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
from numpy import ndarray

from flm_jax.errors import InputError
from flm_jax.inference.boxes import read_boxes

# What overlays are written as, and what else OpenCV reads.
DRAWN = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
IMAGES = (*DRAWN, ".jpe", ".jfif", ".jp2", ".dib", ".gif", ".avif", ".pbm", ".pgm", ".ppm", ".pnm")
VIDEOS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".3gp", ".wmv", ".ts", ".mts", ".m2ts", ".flv", ".ogv"),
)

_STREAM = re.compile(r"(rtsps?|rtmps?|rtp|udp|tcp|srt|https?)://", re.IGNORECASE)


class Input(NamedTuple):
    """An image, a video, a camera or a stream.

    Attributes:
        path: of the file, the camera's number, or the stream's address.
        name: below the input that was asked for.
        boxes: of the image's faces, each f64[4] with its number in the file of boxes; None where
            no file gives them.
        overlay: the file to draw the faces into; None: none.
        upright: whether an image is turned as its EXIF orientation says.
        is_video: whether it is no image.
    """

    path: str
    name: str
    boxes: list[tuple[int, ndarray]] | None = None
    overlay: Path | None = None
    upright: bool = True
    is_video: bool = False


def is_video(source: str) -> bool:
    """Whether the source is a camera's number, a stream, a file whose name ends as a video's, or a
    GIF of several frames."""
    if not is_file(source):
        return True
    suffix = Path(source).suffix.lower()
    return suffix in VIDEOS or (
        suffix == ".gif" and os.path.isfile(source) and cv2.imcount(source) > 1
    )


def is_file(source: str) -> bool:
    """Whether the source is no camera's number and no stream."""
    return not (source.isdecimal() or _STREAM.match(source)) or os.path.exists(source)


def open_video(source: str) -> cv2.VideoCapture:
    """Opens a video, a camera or a stream; whoever calls has to look whether that worked.

    Raises:
        InputError: it is a pipe or a device, which OpenCV would wait for.
    """
    if os.path.exists(source) and not os.path.isfile(source):
        raise InputError(f"--input={source}: not a regular file")
    is_camera = source.isdecimal() and not is_file(source)
    return cv2.VideoCapture(int(source) if is_camera else source)


def find_inputs(source: str, output: Path, *, videos: bool = True) -> list[Input]:
    """The images and videos of a file, a folder (searched recursively) or a glob, in order; or a
    camera or a stream. Says how many other files there are.

    Args:
        source: file, folder or glob, in which ** stands for any folders.
        output: a folder to leave out, with the overlays of earlier runs.
        videos: whether folders and globs are searched for videos too.

    Raises:
        InputError: there is nothing of that name, or nothing to read in it.
    """
    if not is_file(source):
        name = source if source.isdecimal() else "stream"
        return [Input(source, name, is_video=True)]
    if os.path.isfile(source):
        return [Input(source, Path(source).name, is_video=is_video(source))]
    if os.path.isdir(source):
        root, files = source, list(_files_below(source))
    else:
        files = glob.glob(_pattern(source), recursive=True)
        if not files:
            raise InputError(
                f"--input={source}: no such file, and no image fits it as a glob; expected an "
                "image, a folder, a glob in quotes, a video, a stream or the number of a camera"
            )
        root = os.path.commonpath([os.path.dirname(file) or "." for file in files])
    own = output.resolve()
    found: list[Input] = []
    others: Counter[str] = Counter()
    for file in sorted(files):
        if own in Path(file).resolve().parents:
            continue
        is_moving, is_folder = is_video(file), os.path.isdir(file)
        if is_folder or not ((is_moving and videos) or Path(file).suffix.lower() in IMAGES):
            others["folder" if is_folder else Path(file).suffix.lower() or "without a suffix"] += 1
        else:
            found.append(Input(file, os.path.relpath(file, root), is_video=is_moving))
    left_out = ", ".join(f"{count} {ascii(kind)[1:-1]}" for kind, count in others.most_common())
    if not found:
        raise InputError(
            f"--input={source}: holds no image ({', '.join(IMAGES)})"
            + (" or video" if videos else "")
            + (f", but {left_out}" if left_out else "")
        )
    if left_out:
        print(f"{ascii(source)[1:-1]}: left out: {left_out}")
    return found


def _files_below(folder: str) -> Iterator[str]:
    """Every file below a folder, in linked folders too, each of which is entered once."""
    seen = set()

    def report(error: OSError) -> None:
        print(f"{ascii(error.filename)[1:-1]}: can't be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=report, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (str(Path(parent, file)) for file in files)


def _pattern(source: str) -> str:
    """The glob, in which the folders that there are stand for themselves, whatever their names."""
    path = Path(source)
    literal = next(parent for parent in [*path.parents, Path()] if parent.is_dir())
    return os.path.join(glob.escape(str(literal)), path.relative_to(literal))


def find_boxed_images(source: str, boxes: str, upright: bool = False) -> list[Input]:
    """The images below `source` that a file of boxes names, with their boxes, which are of the
    upright images or, as in WFLW's lists, of the stored ones."""
    found: dict[str, list[tuple[int, ndarray]]] = {}
    for number, (name, box) in enumerate(read_boxes(boxes)):
        found.setdefault(name, []).append((number, box))
    return [
        _named_image(source, name, boxes)._replace(boxes=given, upright=upright)
        for name, given in found.items()
    ]


def _named_image(source: str, name: str, boxes: str) -> Input:
    """The image of a name below the input, or, as landmarks.json has it, beginning with it."""
    if not name:
        if not os.path.isfile(source):
            raise InputError(
                f"--boxes={boxes}: names no image, so --input has to be one; or write lines xmin "
                "ymin xmax ymax name"
            )
        return Input(source, Path(source).name)
    path, below = os.path.join(source, name), Path(name)
    if below.is_relative_to(source) and not (os.path.exists(path) and not below.is_absolute()):
        path, below = name, below.relative_to(source)
    if below.is_absolute() or ".." in below.parts:
        raise InputError(f"--boxes={boxes}: {name!a} lies outside of --input={source}")
    return Input(path, str(below) if below.parts else Path(name).name)
