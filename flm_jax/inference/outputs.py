"""landmarks.json and landmarks.csv: the faces that were found, in image pixels and degrees."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from numpy import ndarray

from flm_jax.inference.head_pose import Pose
from flm_jax.landmarks import NUM_LANDMARKS


class Face(NamedTuple):
    """A face of a picture.

    Attributes:
        box: [4], xmin ymin xmax ymax, in pixels of the picture.
        score: the detector's; None where the box was given.
        landmarks: f32[98, 2], in pixels of the picture.
        uncertainty: f32[98], the absolute error of x and of y to expect, in pixels; None if the
            network predicts none.
        pose: of the head; None if the points coincide.
    """

    box: Float[ndarray, "4"]
    score: float | None
    landmarks: Float[ndarray, "98 2"]
    uncertainty: Float[ndarray, "98"] | None
    pose: Pose | None


class Entry(NamedTuple):
    """A picture's faces, or those of a video's frame, counted from 0, at so many seconds."""

    image: str
    faces: Sequence[Face]
    frame: int | None = None
    time: float | None = None


def write_json(path: Path, entries: Sequence[Entry]) -> None:
    """Writes [{"image", "faces": [{"box", "score", "landmarks", "pose"}]}], with "frame" and "time"
    for a video's, and "uncertainty" where there is one."""
    with open(path, "w") as file:
        file.write("[")
        for i, entry in enumerate(entries):
            file.write(",\n" if i else "\n")
            json.dump(_as_json(entry), file)
        file.write("\n]\n")


def _as_json(entry: Entry) -> dict[str, Any]:
    content: dict[str, Any] = {"image": entry.image}
    if entry.frame is not None:
        content |= {"frame": entry.frame, "time": round(entry.time or 0.0, 4)}
    content["faces"] = [
        {
            "box": [_short(number) for number in face.box],
            "score": None if face.score is None else _short(face.score),
            "landmarks": [[_short(x), _short(y)] for x, y in face.landmarks],
            **(
                {}
                if face.uncertainty is None
                else {"uncertainty": [_short(number) for number in face.uncertainty]}
            ),
            "pose": None
            if face.pose is None
            else {name: round(angle, 2) for name, angle in face.pose._asdict().items()},
        }
        for face in entry.faces
    ]
    return content


def write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """The same as a table with one row a face."""
    uncertain = any(face.uncertainty is not None for entry in entries for face in entry.faces)
    header = ["image", "frame", "face", "xmin", "ymin", "xmax", "ymax", "score", *Pose._fields]
    header += [f"{axis}{i}" for i in range(NUM_LANDMARKS) for axis in "xy"]
    header += [f"uncertainty{i}" for i in range(NUM_LANDMARKS) if uncertain]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for entry in entries:
            for number, face in enumerate(entry.faces):
                row = [entry.image, entry.frame, number, *map(_short, face.box)]
                row += [None if face.score is None else _short(face.score)]
                row += [round(angle, 2) for angle in face.pose] if face.pose else [None] * 3
                row += [_short(value) for value in face.landmarks.ravel()]
                row += [] if face.uncertainty is None else map(_short, face.uncertainty)
                writer.writerow(row)


def _short(number: Any) -> float:
    return round(float(number), 4)
