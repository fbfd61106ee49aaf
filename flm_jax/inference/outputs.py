"""landmarks.json and landmarks.csv: the faces that were found, in image pixels and degrees."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from numpy import ndarray

from flm_jax.inference.head_pose import Pose
from flm_jax.landmarks import NUM_LANDMARKS


class Face(NamedTuple):
    """A face of an image, whose pixels all lengths are in.

    Attributes:
        box: [4], xmin ymin xmax ymax.
        score: the detector's; None where the box was given.
        landmarks: f32[98, 2].
        pose: of the head; None if the points coincide.
        outputs: what the network predicts beside the landmarks, f32[98] by name.
    """

    box: Float[ndarray, "4"]
    score: float | None
    landmarks: Float[ndarray, "98 2"]
    pose: Pose | None
    outputs: Mapping[str, Float[ndarray, "98"]] = {}


class Entry(NamedTuple):
    """The faces of an image, or of a video's frame, counted from 0, at `time` seconds."""

    image: str
    faces: Sequence[Face]
    frame: int | None = None
    time: float | None = None


def write_json(path: Path, entries: Sequence[Entry]) -> None:
    """Writes [{"image", "faces": [{"box", "score", "landmarks", "pose"}]}], with "frame" and "time"
    for a video's, and each of `outputs` by its name."""
    with open(path, "w") as file:
        for i, entry in enumerate(entries):
            content: dict[str, Any] = {"image": entry.image}
            if entry.frame is not None:
                content |= {"frame": entry.frame, "time": round(entry.time or 0.0, 4)}
            content["faces"] = [_as_json(face) for face in entry.faces]
            file.write(",\n" if i else "[\n")
            json.dump(content, file)
        file.write("\n]\n" if entries else "[]\n")


def write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """Writes the same as a table with one row a face."""
    header = ["image", "frame", "face", "xmin", "ymin", "xmax", "ymax", "score", *Pose._fields]
    header += [f"{axis}{i}" for i in range(NUM_LANDMARKS) for axis in "xy"]
    names = dict.fromkeys(n for entry in entries for face in entry.faces for n in face.outputs)
    header += [f"{name}{i}" for name in names for i in range(NUM_LANDMARKS)]
    # File names need not be UTF-8: their bytes are written as they are.
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for entry in entries:
            for number, face in enumerate(map(_as_json, entry.faces)):
                pose = face["pose"] or dict.fromkeys(Pose._fields)
                row = [entry.image, entry.frame, number, *face["box"], face["score"]]
                row += [*pose.values(), *(value for point in face["landmarks"] for value in point)]
                writer.writerow(row + [value for name in names for value in face.get(name, [])])


def _as_json(face: Face) -> dict[str, Any]:
    content: dict[str, Any] = {
        "box": _rounded(face.box),
        "score": None if face.score is None else round(float(face.score), 4),
        "landmarks": [_rounded(point) for point in face.landmarks],
    }
    content |= {name: _rounded(values) for name, values in face.outputs.items()}
    content["pose"] = face.pose and {
        name: round(angle, 2) for name, angle in face.pose._asdict().items()
    }
    return content


def _rounded(values: ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
