"""The 98-point layout of WFLW: parts, mirror permutation, eye corners, colours.

"Left" and "right" are the image's, as seen by the viewer. docs/layout.png shows every index.
"""

from typing import NamedTuple

import numpy as np

NUM_LANDMARKS = 98

# The outer corners of the eyes; their distance normalises the error (Wu et al., CVPR 2018).
OUTER_EYE_CORNERS = (60, 72)


class Part(NamedTuple):
    """A line of points that belong together.

    Attributes:
        group: the part of the face that it belongs to.
        indices: its points, in drawing order.
        closed: whether the last point joins the first.
        colour: RGB, each in [0, 1].
    """

    group: str
    indices: tuple[int, ...]
    closed: bool
    colour: tuple[float, float, float]


_BLUE = (0.20, 0.60, 1.00)
_ORANGE = (1.00, 0.62, 0.10)
_GREEN = (0.25, 0.85, 0.40)
_CYAN = (0.10, 0.90, 0.95)
_RED = (1.00, 0.30, 0.35)
_YELLOW = (1.00, 0.95, 0.25)

PARTS = (
    Part("contour", tuple(range(0, 33)), False, _BLUE),
    Part("brows", tuple(range(33, 42)), True, _ORANGE),
    Part("brows", tuple(range(42, 51)), True, _ORANGE),
    Part("nose", tuple(range(51, 55)), False, _GREEN),
    Part("nose", tuple(range(55, 60)), False, _GREEN),
    Part("eyes", tuple(range(60, 68)), True, _CYAN),
    Part("eyes", tuple(range(68, 76)), True, _CYAN),
    Part("mouth", tuple(range(76, 88)), True, _RED),
    Part("mouth", tuple(range(88, 96)), True, _RED),
    Part("pupils", (96,), False, _YELLOW),
    Part("pupils", (97,), False, _YELLOW),
)

# The groups of parts and their points.
GROUPS = {
    group: tuple(i for part in PARTS if part.group == group for i in part.indices)
    for group in dict.fromkeys(part.group for part in PARTS)
}


def _mirror_permutation() -> np.ndarray:
    mirror = np.empty(NUM_LANDMARKS, np.int64)
    # Each run on the left-hand side is read backwards on the right-hand side.
    for first, mirrored in [
        (range(0, 33), range(32, -1, -1)),
        (range(33, 38), range(46, 41, -1)),  # brows: upper edges
        (range(38, 42), range(50, 46, -1)),  # brows: lower edges
        (range(42, 47), range(37, 32, -1)),
        (range(47, 51), range(41, 37, -1)),
        (range(51, 55), range(51, 55)),
        (range(55, 60), range(59, 54, -1)),
        (range(60, 65), range(72, 67, -1)),  # eyes: upper lids with both corners
        (range(65, 68), range(75, 72, -1)),  # eyes: lower lids
        (range(68, 73), range(64, 59, -1)),
        (range(73, 76), range(67, 64, -1)),
        (range(76, 83), range(82, 75, -1)),  # outer lip
        (range(83, 88), range(87, 82, -1)),
        (range(88, 93), range(92, 87, -1)),  # inner lip
        (range(93, 96), range(95, 92, -1)),
        (range(96, 98), range(97, 95, -1)),
    ]:
        mirror[list(first)] = list(mirrored)
    return mirror


# int[98]: landmark i of a mirrored picture is landmark MIRROR[i] of the original.
MIRROR = _mirror_permutation()
