"""WFLW's annotation lists (Wu et al., "Look at Boundary", CVPR 2018): lines to records and back.

A line of a main list has 207 fields: x0 y0 ... x97 y97, the rectangle xmin ymin xmax ymax, six
attributes (0 or 1) and the image name. A line of a subset list has the coordinates and the name.
"""

import collections
import contextlib
import dataclasses
import os
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from flm_jax.data.files import read_lines
from flm_jax.errors import InputError
from flm_jax.landmarks import NUM_LANDMARKS, OUTER_EYE_CORNERS

ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")

IMAGES = "WFLW_images"
TRAIN_LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
TEST_LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
# Ours, beside WFLW's lists, where it is known: a line of 98 times 0 or 1 for each of their lines.
VISIBILITY = "WFLW_annotations/visibility"
SUBSET_LIST = "WFLW_annotations/list_98pt_test/list_98pt_test_{subset}.txt"

# How far the rectangle extends beyond the landmarks' box on the left, top, right and bottom, in
# widths and heights of that box: the mean over WFLW's 2,500 test faces (top: std 0.13).
RECTANGLE_MARGINS = (0.005, 0.29, 0.005, 0.005)

_COORDINATES = 2 * NUM_LANDMARKS
_FIELDS = _COORDINATES + 4 + len(ATTRIBUTES) + 1

_WHERE_FROM = f"""\
WFLW (for non-commercial research) is published at https://wywu.github.io/projects/LAB/WFLW.html
as two archives, the images and the annotations. Unpack both into one folder, so that it holds
  {IMAGES}/<event>/<name>.jpg
  {TRAIN_LIST}
  {TEST_LIST}
and name that folder with --config.data.root=FOLDER. configs/demo.py needs no data: it draws faces.\
"""


class ListError(InputError):
    """A line of an annotation list is invalid; the message starts with `<path>:<line>: `."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One annotated face.

    Attributes:
        list_path: the annotation list.
        line: in the list, from 1.
        image_name: as in the list, relative to the image folder.
        image_path: the image file.
        landmarks: f32[98, 2], pixels of the image.
        box: f32[4], the annotated rectangle (xmin, ymin, xmax, ymax), pixels of the image.
        attributes: bool[6], in the order of `ATTRIBUTES`.
        visible: bool[98], whether each point can be seen in the image; None: unknown.
        shard: the shard of prepared faces to read it from; '': read the image.
        shard_row: its row there.
        upright: whether the image is turned as its EXIF orientation says before these hold.
    """

    list_path: str
    line: int
    image_name: str
    image_path: str
    landmarks: Float[ndarray, "98 2"]
    box: Float[ndarray, "4"]
    attributes: Bool[ndarray, "6"]
    visible: Bool[ndarray, "98"] | None = None
    shard: str = ""
    shard_row: int = 0
    upright: bool = False

    @property
    def place(self) -> str:
        """`<list>:<line>: <image>`, the start of every message about this face."""
        return f"{self.list_path}:{self.line}: {self.image_name}"


def format_line(
    landmarks: Float[ndarray, "98 2"],
    box: Float[ndarray, "4"],
    attributes: Bool[ndarray, "6"],
    image_name: str,
) -> str:
    """The line of a main list, without newline; `read_list` reads it back to 1e-6 px."""
    coordinates = [f"{value:.6f}" for value in landmarks.ravel()]
    corners = [f"{value:.0f}" for value in box]
    flags = [str(int(flag)) for flag in attributes]
    return " ".join([*coordinates, *corners, *flags, image_name])


def read_list(root: str | Path, list_name: str, *, upright: bool = False) -> list[Record]:
    """Reads a main list, and the visibility beside it; checks that every image exists.

    Args:
        root: the folder that holds WFLW_images and WFLW_annotations.
        list_name: relative to `root`: `TRAIN_LIST` or `TEST_LIST`.
        upright: of `Record`.

    Raises:
        InputError: the folder or the list is missing.
        ListError: a line is invalid, its image is missing, or the list is empty.
    """
    path = _existing_list(Path(root), list_name)
    images = Path(root) / IMAGES
    with contextlib.closing(_lines(path, _FIELDS)) as lines:
        records = [_parse_line(fields, str(path), line, images, upright) for line, fields in lines]
    if not records:
        raise ListError(f"{path}:1: the list is empty")
    records = _with_visibility(records, Path(root) / VISIBILITY / path.name)
    missing = [record for record in records if not os.path.isfile(record.image_path)]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ListError(f"{missing[0].place}: no such image under {images}{others}")
    return records


def _with_visibility(records: list[Record], path: Path) -> list[Record]:
    """The records with the visibility of `path`, if that is there."""
    if not path.is_file():
        return records
    lines = list(_lines(path, NUM_LANDMARKS))
    if len(lines) != len(records):
        raise ListError(f"{path}:{len(lines)}: {len(lines)} lines, expected {len(records)}")
    for line, flags in lines:
        if not set(flags) <= {"0", "1"}:
            raise ListError(f"{path}:{line}: expected {NUM_LANDMARKS} times 0 or 1")
    seen = np.array([flags for _, flags in lines]) == "1"
    return [
        dataclasses.replace(record, visible=row) for record, row in zip(records, seen, strict=True)
    ]


def read_subset(root: str | Path, subset: str, test: Sequence[Record]) -> list[Record]:
    """Reads a subset list as records of the test list, which has rectangles and attributes too.

    Args:
        root: as for `read_list`.
        subset: one of `SUBSETS`.
        test: the records of the test list.

    Raises:
        InputError: the list is missing.
        ListError: a line is not a face of the test list.
    """
    path = _existing_list(Path(root), SUBSET_LIST.format(subset=subset))
    by_name = collections.defaultdict(list)
    for record in test:
        by_name[record.image_name].append(record)
    records = []
    for line, fields in list(_lines(path, _COORDINATES + 1)):
        place = f"{path}:{line}: "
        landmarks = _floats(fields[:_COORDINATES], place).reshape(NUM_LANDMARKS, 2)
        # An image may hold several faces, so the name alone does not identify one.
        same = [
            record
            for record in by_name[fields[-1]]
            if np.abs(record.landmarks - landmarks).max() < 1e-2
        ]
        if not same:
            raise ListError(f"{place}{fields[-1]}: this face is not in the test list")
        records.append(same[0])
    if not records:
        raise ListError(f"{path}:1: the list is empty")
    return records


def split_by_image(
    records: Sequence[Record], fraction: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Training and validation records, in list order; no image has faces in both.

    Args:
        records: the training list.
        fraction: share of the images that go to validation, in (0, 1).
        seed: decides which.

    Raises:
        InputError: one side would be empty.
    """
    names = sorted({record.image_name for record in records})
    chosen = np.random.default_rng(seed).permutation(len(names))[: round(fraction * len(names))]
    held_out = {names[i] for i in chosen}
    training = [record for record in records if record.image_name not in held_out]
    validation = [record for record in records if record.image_name in held_out]
    if not training or not validation:
        raise InputError(
            f"data.validation_fraction={fraction} of {len(names)} images leaves "
            f"{len(training)} training and {len(validation)} validation faces: both need some"
        )
    return training, validation


def drop_lines(records: Sequence[Record], lines: Sequence[int]) -> list[Record]:
    """The records without the given lines; warns once about labels far outside their rectangle.

    WFLW's training lines 1035 and 2748 are such labels; they stay unless they are dropped here.
    """
    unknown = sorted(set(lines) - {record.line for record in records})
    if unknown:
        raise InputError(f"data.drop_lines={tuple(lines)}: the training list has no line {unknown}")
    kept = [record for record in records if record.line not in set(lines)]
    suspect = [record.line for record in kept if _far_outside(record)]
    if suspect:
        warnings.warn(
            f"{kept[0].list_path}: landmarks lie more than a rectangle's size outside it on "
            f"lines {suspect}; --config.data.drop_lines='{tuple(suspect)}' leaves them out",
            stacklevel=2,
        )
    return kept


def _far_outside(record: Record) -> bool:
    size = record.box[2:] - record.box[:2]
    outside = np.maximum(record.box[:2] - record.landmarks, record.landmarks - record.box[2:])
    return bool((outside > size).any())


def _existing_list(root: Path, list_name: str) -> Path:
    if not root.is_dir():
        raise InputError(f"data.root={root}: no such folder.\n{_WHERE_FROM}")
    if not (root / list_name).is_file():
        raise InputError(f"{root / list_name}: no such list.\n{_WHERE_FROM}")
    return root / list_name


def _lines(path: Path, num_fields: int) -> Generator[tuple[int, list[str]]]:
    """The number (from 1) and the fields of every line, of which the last, the image's name, may
    hold spaces; trailing empty lines are ignored. Close it: it holds the file."""
    empty = 0
    try:
        with contextlib.closing(read_lines(path)) as lines:
            for line, content in lines:
                fields = content.strip().split(maxsplit=num_fields - 1)
                if not fields:
                    empty = empty or line
                    continue
                if empty or len(fields) != num_fields:
                    number = 0 if empty else len(fields)
                    is_of_points = num_fields > NUM_LANDMARKS
                    count = count_fields(number) if is_of_points else f"{number} fields"
                    raise ListError(f"{path}:{empty or line}: {count}, expected {num_fields}")
                yield line, fields
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except ListError:
        raise
    except InputError as error:
        raise ListError(str(error)) from None


def count_fields(num_fields: int) -> str:
    """The number of a line's fields, and of the points that these would be in such a list."""
    alone, with_others = (num_fields - 1) / 2, (num_fields - _FIELDS + _COORDINATES) / 2
    if num_fields % 2 == 0 or with_others < 3:
        return f"{num_fields} fields"
    return (
        f"{num_fields} fields ({alone:.0f} points, or {with_others:.0f} with a rectangle and "
        f"attributes; the layout here has {NUM_LANDMARKS})"
    )


def _parse_line(
    fields: list[str], list_path: str, line: int, images: Path, upright: bool
) -> Record:
    place = f"{list_path}:{line}: "
    flags, name = fields[_COORDINATES + 4 : -1], fields[-1]
    if not set(flags) <= {"0", "1"}:
        more = len(name.split()) - 1
        count = f"; the line has {count_fields(_FIELDS + more)}, expected {_FIELDS}" if more else ""
        raise ListError(f"{place}attributes are {' '.join(flags)}, expected six of 0 or 1{count}")
    numbers = _floats(fields[: _COORDINATES + 4], place)
    box = numbers[_COORDINATES:]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ListError(
            f"{place}degenerate rectangle: xmin ymin xmax ymax = {' '.join(fields[196:200])}, "
            "but xmax must exceed xmin, and ymax ymin"
        )
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise ListError(f"{place}{name}: an image's name must stay inside {images}")
    landmarks = numbers[:_COORDINATES].reshape(NUM_LANDMARKS, 2)
    unlabelled = np.flatnonzero((landmarks == -1).all(axis=1))
    if len(unlabelled):
        raise ListError(
            f"{place}point {unlabelled[0]} is -1 -1, which marks a point without a label; all "
            f"{NUM_LANDMARKS} are needed, so label it or remove the line"
        )
    left, right = OUTER_EYE_CORNERS
    if (landmarks[left] == landmarks[right]).all():
        raise ListError(f"{place}points {left} and {right} coincide: the NME is undefined")
    return Record(
        list_path=list_path,
        line=line,
        image_name=name,
        image_path=str(images / name),
        landmarks=landmarks,
        box=box,
        attributes=np.array([flag == "1" for flag in flags]),
        upright=upright,
    )


def _floats(fields: list[str], place: str) -> Float[ndarray, " n"]:
    try:
        values = np.array([float(field) for field in fields], np.float64)
    except ValueError:
        values = np.array([_float_or_nan(field) for field in fields])
    # Coordinates are float32: a number that only float64 can hold is refused too.
    invalid = ~(np.abs(values) < np.finfo(np.float32).max)
    if invalid.any():
        index = int(invalid.argmax())
        raise ListError(f"{place}field {index + 1} is '{fields[index]}', expected a finite number")
    return values.astype(np.float32)


def _float_or_nan(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return float("nan")
