"""Which images, videos, cameras and streams to read."""

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
from numpy import ndarray

from flm_jax.data.files import check_utf8
from flm_jax.errors import InputError
from flm_jax.inference.boxes import read_boxes

# What overlays are written as, and what else OpenCV reads.
DRAWN = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
IMAGES = (*DRAWN, ".jpe", ".jfif", ".jp2", ".dib", ".gif", ".avif", ".pbm", ".pgm", ".ppm", ".pnm")
VIDEOS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".3gp", ".wmv", ".ts", ".mts", ".m2ts", ".flv", ".ogv"),
)

# In the output: what is found, twice, and the folder of the images with it.
RESULTS = JSON, CSV, OVERLAYS = "landmarks.json", "landmarks.csv", "overlays"

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
    GIF of several frames, or of a name that keeps OpenCV from counting them."""
    if not is_file(source):
        return True
    suffix = Path(source).suffix.lower()
    if suffix != ".gif" or not os.path.isfile(source):
        return suffix in VIDEOS
    count = count_images(source)
    return count is None or count > 1


def count_images(path: str) -> int | None:
    """How many images a file holds: several if it is animated or has pages; 0: it is no image;
    None: its name is not UTF-8, and OpenCV can't tell."""
    try:
        check_utf8(path, path)
    except InputError:
        return None
    return cv2.imcount(path)


def is_file(source: str) -> bool:
    """Whether the source is no camera's number and no stream."""
    return not (source.isdecimal() or _STREAM.match(source)) or os.path.exists(source)


def open_video(source: str) -> cv2.VideoCapture:
    """Opens a video, a camera or a stream; whoever calls has to look whether that worked.

    Raises:
        InputError: it is a pipe or a device, which OpenCV would wait for, or its name is not UTF-8.
    """
    if os.path.exists(source) and not os.path.isfile(source):
        raise InputError(f"--input={source}: not a regular file")
    if not is_file(source):
        # There is no camera of the largest number either.
        return cv2.VideoCapture(min(int(source), 2**31 - 1) if source.isdecimal() else source)
    path = os.path.abspath(source)  # FFmpeg takes what precedes a colon for a protocol.
    check_utf8(path, f"--input={source}")
    return cv2.VideoCapture(path)


def find_inputs(source: str, output: Path, *, videos: bool = True) -> list[Input]:
    """The images and videos of a file, a folder (searched recursively) or a glob, in order; or a
    camera or a stream. Says how many other files there are.

    Args:
        source: file, folder or glob, in which ** stands for any folders.
        output: the folder of the results, of which those of earlier runs are left out.
        videos: whether folders and globs are searched for videos too; else an animated GIF in
            them is an image.

    Raises:
        InputError: there is nothing of that name, or nothing to read in it.
    """
    if not is_file(source):
        name = source if source.isdecimal() else "stream"
        return [Input(source, name, is_video=True)]
    if os.path.isfile(source):
        return [Input(source, Path(source).name, is_video=is_video(source))]
    if os.path.isdir(source):
        root, files = source, [file for _, names in _walk(source) for file in names]
    else:
        files = _matches(source)
        if not files:
            raise InputError(
                f"--input={source}: no such file, and no image fits it as a glob; expected an "
                "image, a folder, a glob in quotes, a video, a stream or the number of a camera"
            )
        root = os.path.commonpath([os.path.dirname(file) or "." for file in files])
    own = {Path(os.path.realpath(output / name)) for name in RESULTS}
    found: list[Input] = []
    others: Counter[str] = Counter()
    for file in sorted(files):
        real = Path(os.path.realpath(file))
        if not own.isdisjoint([real, *real.parents]):
            continue
        is_moving, is_folder = is_video(file), os.path.isdir(file)
        if is_folder or not ((is_moving and videos) or Path(file).suffix.lower() in IMAGES):
            others["folder" if is_folder else Path(file).suffix.lower() or "without a suffix"] += 1
        else:
            found.append(Input(file, os.path.relpath(file, root), is_video=is_moving and videos))
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


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and every one below it, linked ones too, each once, with the files in it."""
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
        yield parent, [str(Path(parent, file)) for file in files]


def _matches(source: str) -> list[str]:
    """What fits a glob, in which the folders that there are stand for themselves, whatever their
    names, and ** for any folders but hidden ones."""
    path = Path(source)
    literal = next(parent for parent in [*path.parents, Path()] if os.path.isdir(parent))
    parts = path.relative_to(literal).parts
    found = [str(literal)]
    for part in [*parts, "*"] if parts[-1:] == ("**",) else parts:
        if part == "**":  # That of the library enters a link to where it is over and over.
            found = [
                folder
                for each in found
                if os.path.isdir(each)
                for folder, _ in _walk(each)
                if f"{os.sep}." not in folder[len(each) :]
            ]
        else:
            fitting = (glob.glob(os.path.join(glob.escape(each), part)) for each in found)
            found = [each for group in fitting for each in group]
    return list(dict.fromkeys(str(Path(each)) for each in found))


def find_boxed_images(source: str, boxes: str, upright: bool = False) -> list[Input]:
    """The images below `source` that a file of boxes names, with their boxes, which are of the
    upright images or, as in WFLW's lists, of the stored ones. A detector saw upright ones."""
    source = str(_in_form_of_files(Path(), Path(source)))
    if not os.path.exists(source):
        raise InputError(
            f"--input={source}: no such file or folder; --boxes={boxes} names images below a "
            "folder, not a glob"
        )
    found: dict[Input, list[tuple[int, ndarray]]] = {}
    images: dict[str, Input] = {}  # by the names in the file, of which two may mean one image
    for number, (name, box, is_detected) in enumerate(read_boxes(boxes)):
        if name not in images:
            images[name] = _named_image(source, name, boxes)
        image = images[name]._replace(upright=upright or is_detected)
        found.setdefault(image, []).append((number, box))
    return [image._replace(boxes=given) for image, given in found.items()]


def _named_image(source: str, name: str, boxes: str) -> Input:
    """The image of a name below the input, or, as landmarks.json has it, beginning with it."""
    if not name:
        if not os.path.isfile(source):
            raise InputError(
                f"--boxes={boxes}: names no image, so --input has to be one; or write lines xmin "
                "ymin xmax ymax name"
            )
        return Input(source, Path(source).name)
    path, whole = (_in_form_of_files(Path(start), Path(name)) for start in (source, ""))
    if whole.is_relative_to(source) and not os.path.exists(path):
        path = whole
    below = path.relative_to(source) if path.is_relative_to(source) else path
    if below.is_absolute() or ".." in below.parts:
        raise InputError(f"--boxes={boxes}: {name!a} lies outside of --input={source}")
    return Input(str(path), str(below) if below.parts else Path(name).name)


def _in_form_of_files(folder: Path, name: Path) -> Path:
    """The path that a name means below a folder: macOS writes an accent as a character of its own,
    and lists made elsewhere do not, so each part may stand there in the other form."""
    path = folder
    for part in name.parts:
        forms = [part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
        path /= next((form for form in forms if os.path.exists(path / form)), part)
    return path
