"""Compares what is seen across the points of annotated and of drawn faces that look at the camera.

    python -m flm_jax.drawing.compare_edges --root FOLDER --drawn FOLDER [--names PATTERN]

Both folders are in WFLW's layout. Across each point runs a line: outwards from the contour, else
down. Along it the faces' mean brightness is compared, and where it changes the most.
An edge that lies elsewhere on drawn faces teaches a network to put that point beside where
annotators put it.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data import wflw
from flm_jax.data.crop import crop_image
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.landmarks import OUTER_EYE_CORNERS

# Faces are compared at this size, the root of their points' width times height, in pixels; smaller
# ones than a quarter of it show no edges.
_SIZE = 240
# Places on the lines, in per cent of the size: outwards and down are positive.
OFFSETS = np.arange(-12, 12.5, 0.5)
PARTS = {
    "contour's sides": (2, 3, 4, 5, 27, 28, 29, 30),
    "jaw": (9, 10, 11, 21, 22, 23),
    "chin": (15, 16, 17),
    "brows, above": (34, 35, 36, 43, 44, 45),
    "brows, below": (39, 40, 47, 48),
    "upper lids": (61, 62, 63, 69, 70, 71),
    "lower lids": (65, 66, 67, 73, 74, 75),
    "pupils": (96, 97),
    "nose's tip": (54,),
    "nose's base": (56, 57, 58),
    "upper lip": (77, 78, 79, 80, 81),
    "between the lips": (89, 90, 91),
    "lower lip": (84, 85, 86),
}


def upright(
    image: UInt8[ndarray, "h w 3"], landmarks: Float[ndarray, "98 2"]
) -> tuple[Float[ndarray, "s s"], Float[ndarray, "98 2"]]:
    """The face of a BGR image without roll in grey, of mean 0 and deviation 1 within its points'
    box, and its points in pixels of that."""
    points = landmarks.astype(np.float64)
    left, right = points[list(OUTER_EYE_CORNERS)]
    along = (right - left) / np.linalg.norm(right - left)
    turn = np.array([along, [-along[1], along[0]]])
    scale = _SIZE / np.sqrt(np.prod(np.ptp(points @ turn.T, axis=0)))
    turn *= scale
    side = int(1.25 * _SIZE)
    shift = side / 2 - turn @ points.mean(0)
    crop_from_image = np.column_stack([turn, shift])
    crop = crop_image(image, geometry.invert(crop_from_image), side)
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    points = geometry.apply(crop_from_image, points)
    low, high = np.clip([points.min(0), points.max(0)], 0, side).astype(int)
    face = grey[low[1] : high[1], low[0] : high[0]]
    return (grey - face.mean()) / (face.std() + 1e-3), points


def profiles(grey: Float[ndarray, "s s"], points: Float[ndarray, "98 2"]) -> Float[ndarray, "98 n"]:
    """The brightness at `OFFSETS` across each point."""
    across = np.tile([0.0, 1.0], (98, 1))
    along = np.gradient(points[:33], axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    outwards = np.sign(((points[:33] - points[51:].mean(0)) * normal).sum(1, keepdims=True))
    across[:33] = normal * outwards
    place = points[:, None] + across[:, None] * OFFSETS[:, None] * (_SIZE / 100)
    x, y = np.moveaxis(place.astype(np.float32), -1, 0)
    return cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def edge(steepness: Float[ndarray, " n"]) -> float:
    """Where brightness along `OFFSETS` changes the most within 5 per cent of the point."""
    near = steepness * (np.abs(OFFSETS) <= 5)
    around = np.abs(OFFSETS - OFFSETS[near.argmax()]) <= 1
    return float((OFFSETS * near)[around].sum() / (near[around].sum() + 1e-9))


def looks_at_the_camera(landmarks: Float[ndarray, "98 2"]) -> bool:
    """Whether the nose's ridge lies midway between the outer corners of the eyes."""
    left, right = landmarks[list(OUTER_EYE_CORNERS)].astype(np.float64)
    along = right - left
    aside = (landmarks[51:55].mean(0) - (left + right) / 2) @ along
    return bool(abs(aside) < 0.06 * along @ along)


class Means(NamedTuple):
    """Means over faces.

    Attributes:
        faces: how many were large enough and look at the camera.
        brightness: at `OFFSETS` across each point.
        steepness: how much it changes there, whether up or down.
    """

    faces: int
    brightness: Float[ndarray, "98 n"]
    steepness: Float[ndarray, "98 n"]


def mean_profiles(records: Iterable[wflw.Record]) -> Means:
    """Of the faces of a list.

    Raises:
        InputError: none of them is large enough and looks at the camera, or an image can't be read.
    """
    found = [profiles(*upright(*face)) for face in _faces(records)]
    if not found:
        raise InputError("no face is large enough and looks at the camera: nothing to compare")
    steepness = np.abs(np.gradient(found, axis=2)).mean(0)
    return Means(len(found), np.mean(found, axis=0), steepness)


def _faces(records: Iterable[wflw.Record]) -> Iterator[tuple[ndarray, ndarray]]:
    for record in records:
        large = np.sqrt(np.prod(np.ptp(record.landmarks, axis=0))) >= _SIZE / 4
        if large and looks_at_the_camera(record.landmarks):
            yield read_record_image(record), record.landmarks


def report(real: Means, drawn: Means) -> str:
    """The table, in per cent of a face's size and in deviations of its brightness."""
    shown = [int(np.argmin(np.abs(OFFSETS - at))) for at in (-10, -5, -2, 0, 2, 5, 10)]
    places = "".join(f"{OFFSETS[i]:6.0f}" for i in shown)
    lines = [f"{'':24}{'edge':>6}   brightness at{places[3:]}"]
    for part, indices in PARTS.items():
        for name, means in (("annotated", real), ("drawn", drawn)):
            at = list(indices)
            values = "".join(f"{means.brightness[at, i].mean():6.1f}" for i in shown)
            label = f"{part:18}" if name == "annotated" else f"{'':18}"
            lines.append(
                f"{label}{name:>10}{edge(means.steepness[at].mean(0)):6.1f}{'':12}{values}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares what is seen across points.")
    parser.add_argument("--root", required=True, help="annotated faces in WFLW's layout")
    parser.add_argument("--drawn", required=True, help="drawn faces")
    parser.add_argument("--names", default="", help="a pattern of the annotated images' names")
    parser.add_argument("--faces", type=int, default=1500, help="of each list, from its start")
    arguments = parser.parse_args()
    try:
        real, drawn = (
            mean_profiles(_records(root, names)[: arguments.faces])
            for root, names in ((arguments.root, arguments.names), (arguments.drawn, ""))
        )
    except (InputError, re.error) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{real.faces} annotated and {drawn.faces} drawn faces look at the camera")
    print(report(real, drawn))


def _records(root, names):
    return [
        record
        for record in wflw.read_list(root, wflw.TRAIN_LIST)
        if re.search(names, record.image_name)
    ]


if __name__ == "__main__":
    main()
