"""The 98-point layout of WFLW: parts, colours, eye corners, mirror permutation.

Left and right are the viewer's. docs/layout.png shows every index.
"""

from typing import NamedTuple

import numpy as np

NUM_LANDMARKS = 98

# The outer corners of the eyes; their distance normalises the error (Wu et al., CVPR 2018).
OUTER_EYE_CORNERS = (60, 72)


class Part(NamedTuple):
    """A line through some of the points.

    Attributes:
        group: the part of the face.
        indices: its points, in drawing order.
        closed: whether the last point joins the first.
        colour: RGB in [0, 1].
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

# Each part of the face and its points.
GROUPS = {
    group: tuple(i for part in PARTS if part.group == group for i in part.indices)
    for group in dict.fromkeys(part.group for part in PARTS)
}


# int[98]: landmark i of a flipped image is landmark MIRROR[i] of the original.
MIRROR = np.array(
    [
        *range(32, -1, -1),  # contour
        *(46, 45, 44, 43, 42, 50, 49, 48, 47, 37, 36, 35, 34, 33, 41, 40, 39, 38),  # brows
        *(51, 52, 53, 54, 59, 58, 57, 56, 55),  # nose
        *(72, 71, 70, 69, 68, 75, 74, 73, 64, 63, 62, 61, 60, 67, 66, 65),  # eyes
        *(82, 81, 80, 79, 78, 77, 76, 87, 86, 85, 84, 83),  # outer lip
        *(92, 91, 90, 89, 88, 95, 94, 93),  # inner lip
        *(97, 96),  # pupils
    ]
)
