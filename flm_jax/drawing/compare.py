"""Compares the shapes of drawn faces with those of annotated faces, by group and by point.

    python -m flm_jax.drawing.compare --root FOLDER [--points]

Reads the labels of a folder in WFLW's layout and no image. Each annotated face is compared with the
drawn head of the nearest pose; both are mirrored such that they look to the image's right. Points
are in the face's own frame: the origin lies midway between the outer corners of the eyes, roll is
removed, and the unit is 1 % of the distance of the corners as seen from the front.
"""

import argparse
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.data import wflw
from flm_jax.drawing.parameters import HeadParameters
from flm_jax.drawing.sampling import sample_head
from flm_jax.drawing.surface import Surface, landmarks_in_space, posed_landmarks
from flm_jax.errors import InputError
from flm_jax.landmarks import GROUPS, MIRROR, OUTER_EYE_CORNERS

BINS = {"frontal": (0.0, 15.0), "medium": (15.0, 38.0), "large": (38.0, 90.0)}  # degrees of yaw
_RIGID = np.arange(33, 96)  # Neither the contour nor the pupils keep their place.


class Shapes(NamedTuple):
    """Faces in their own frame.

    Attributes:
        points: f[n, 98, 2], per cent of the distance of the outer eye corners.
        yaw: f[n], degrees, estimated from the points.
        pitch: f[n], degrees.
        roll: f[n], degrees.
    """

    points: Float[ndarray, "n 98 2"]
    yaw: Float[ndarray, " n"]
    pitch: Float[ndarray, " n"]
    roll: Float[ndarray, " n"]


def own_frame(landmarks: Float[ndarray, "n 98 2"]) -> Shapes:
    """The faces and their mirror images in their own frame; the pose is that of the neutral head
    which fits best, as a camera far away sees it."""
    landmarks = np.concatenate([landmarks, landmarks[:, MIRROR] * [-1, 1]]).astype(np.float64)
    head = landmarks_in_space(Surface(HeadParameters()), np.eye(3))  # As if seen from the front.
    left, right = OUTER_EYE_CORNERS
    head = (head - (head[left] + head[right]) / 2) / np.linalg.norm(head[left] - head[right])
    model = head[_RIGID] - head[_RIGID].mean(0)
    seen = landmarks[:, _RIGID]
    middle = seen.mean(1, keepdims=True)
    affine = (seen - middle).swapaxes(1, 2) @ model @ np.linalg.inv(model.T @ model)
    u, scales, vt = np.linalg.svd(affine, full_matrices=False)
    turn, scale = u @ vt, scales.mean(-1)[:, None, None]  # The nearest rotation's upper rows.
    back = np.cross(turn[:, 0], turn[:, 1])
    pitch = np.arcsin(np.clip(back[:, 1], -1, 1))
    yaw = np.arctan2(-back[:, 0], back[:, 2])
    roll = np.arctan2(-turn[:, 0, 1], turn[:, 1, 1])
    level = np.stack([np.cos(roll), np.sin(roll), -np.sin(roll), np.cos(roll)], -1)
    origin = middle - scale * (turn @ head[_RIGID].mean(0))[:, None]
    points = (landmarks - origin) / scale @ level.reshape(-1, 2, 2).swapaxes(1, 2)
    return Shapes(100 * points, *(np.degrees(angle) for angle in (yaw, pitch, roll)))


def drawn_landmarks(heads: int, seed: int) -> Float[ndarray, "n 98 2"]:
    """The landmarks of heads drawn at random, in half head widths."""
    return np.array(
        [posed_landmarks(sample_head(np.random.default_rng([seed, i]))) for i in range(heads)]
    )


def of_the_same_pose(real: Shapes, drawn: Shapes) -> ndarray:
    """For each real face the index of the drawn face with the nearest yaw and pitch."""
    ours, theirs = (np.stack([shapes.yaw, shapes.pitch], 1) for shapes in (real, drawn))
    return np.concatenate([
        np.argmin(((part[:, None] - theirs) ** 2).sum(-1), axis=1)
        for part in np.array_split(ours, max(1, len(ours) // 500))
    ])  # fmt: skip


def report(real: Shapes, drawn: Shapes, each_point: bool = False) -> str:
    """The table: drawn minus real means, and the standard deviations of both."""
    nearest = of_the_same_pose(real, drawn)
    lines = []
    for name, (low, high) in BINS.items():
        chosen = (real.yaw >= low) & (real.yaw < high) & (np.abs(real.pitch) < 25)
        ours, theirs = real.points[chosen], drawn.points[nearest[chosen]]
        if not len(ours):
            continue
        offset = theirs.mean(0) - ours.mean(0)
        spreads = ours.std(0), theirs.std(0)
        lines += [
            f"\n{name}: yaw {low:.0f} to {high:.0f} degrees, {len(ours)} annotated faces",
            f"{'':10}{'dx':>7}{'dy':>7}{'point':>8}{'sd real':>14}{'sd drawn':>15}",
        ]
        rows = list(GROUPS.items())
        if each_point:
            rows += [(str(i), (i,)) for i in range(98)]
        for label, indices in rows:
            at = list(indices)
            dx, dy = offset[at].mean(0)
            each = np.linalg.norm(offset[at], axis=1).mean()
            (ax, ay), (bx, by) = (spread[at].mean(0) for spread in spreads)
            lines.append(
                f"{label:10}{dx:7.2f}{dy:7.2f}{each:8.2f}{ax:8.2f}{ay:6.2f}{bx:9.2f}{by:6.2f}"
            )
    ours, theirs = (100 * (np.abs(shapes.yaw) > 38).mean() for shapes in (real, drawn))
    lines.append(f"\nyaw beyond 38 degrees: {ours:.1f} % annotated, {theirs:.1f} % drawn")
    return "\n".join(lines).lstrip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares drawn with annotated faces.")
    parser.add_argument("--root", required=True, help="annotated faces in WFLW's layout")
    parser.add_argument("--heads", type=int, default=4000, help="drawn heads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", action="store_true", help="a line for each point, too")
    arguments = parser.parse_args()
    try:
        records = wflw.read_list(arguments.root, wflw.TRAIN_LIST)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    real = own_frame(np.array([record.landmarks for record in records]))
    drawn = own_frame(drawn_landmarks(arguments.heads, arguments.seed))
    print(report(real, drawn, arguments.points))


if __name__ == "__main__":
    main()
