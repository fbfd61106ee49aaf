"""Draws landmarks, box and axes of a face on its image. OpenCV, on the host."""

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax.inference import head_pose
from flm_jax.inference.outputs import Face
from flm_jax.landmarks import PARTS

_SHIFT = 4  # OpenCV draws at sixteenths of a pixel.
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
# BGR of the axes to the image's right, down, and out of the face.
_AXES = ((60, 60, 255), (80, 220, 80), (255, 160, 60))


def draw_face(image: UInt8[ndarray, "h w 3"], face: Face) -> None:
    """Draws a face's box, points coloured by face part, and axes on a BGR image, in place.

    A point that is hidden, as far as the network tells, is hollow.
    """
    side = np.sqrt(np.prod(np.ptp(face.landmarks, axis=0)))
    radius, width = max(1.0, side / 110), max(1, round(side / 150))
    visibility = face.outputs.get("visibility")
    low, high = _fixed(face.box[:2]), _fixed(face.box[2:])
    cv2.rectangle(image, low, high, _WHITE, width, cv2.LINE_AA, _SHIFT)
    for part in PARTS:
        red, green, blue = (255 * value for value in part.colour)
        for i in part.indices:
            centre, colour = _fixed(face.landmarks[i]), (blue, green, red)
            if visibility is not None and visibility[i] < 0.5:
                fixed = round(1.2 * radius * 2**_SHIFT)
                cv2.circle(image, centre, fixed, colour, width, cv2.LINE_AA, _SHIFT)
                continue
            for size, filling in ((1.35 * radius, _BLACK), (radius, colour)):
                fixed = round(size * 2**_SHIFT)
                cv2.circle(image, centre, fixed, filling, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    axes = head_pose.pose_axes(face.landmarks)
    if axes is None:
        return
    origin, *ends = axes
    for end, colour in zip(ends, _AXES, strict=True):
        cv2.line(image, _fixed(origin), _fixed(end), colour, 2 * width, cv2.LINE_AA, _SHIFT)


def _fixed(point):
    # OpenCV's integers would overflow far outside of any image.
    x, y = np.round(np.clip(point, -1e5, 1e5) * 2**_SHIFT).astype(int).tolist()
    return x, y
