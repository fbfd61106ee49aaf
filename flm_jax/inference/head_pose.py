"""Yaw, pitch and roll of a head, from its 98 points. NumPy and OpenCV, on the host."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax import geometry
from flm_jax.landmarks import MIRROR

# An adult's face, in millimetres: x to the image's right, y down, z away from the viewer; the
# origin lies between the inner corners of the eyes. The numbers are our own, rounded: across and
# down an average adult's (outer corners of the eyes 90 apart, inner ones 35, the base of the nose
# 46 below the eyes and 32 wide, the mouth 52 wide and 20 below it; L. G. Farkas, Anthropometry of
# the Head and Face, 1994); in depth the tip of the nose 18 in front of its base, the eyes' outer
# corners 9 behind the inner ones. Points that slide along the outline or move with the jaw, lids
# and brows are left out.
_RIGHT_HALF = {
    72: (45.0, -1.5, 14.0),  # outer corner of the eye
    68: (17.5, 0.0, 5.0),  # its inner corner
    59: (16.0, 41.5, -4.0),  # the nose's wing, where it meets the cheek
    58: (8.0, 44.0, -9.0),  # between the wing and the middle
    82: (26.0, 66.0, 1.0),  # corner of the mouth
    51: (0.0, -2.0, -6.0),  # root of the nose
    52: (0.0, 10.5, -12.0),
    53: (0.0, 23.0, -21.0),
    54: (0.0, 36.0, -30.0),  # tip of the nose
    57: (0.0, 46.0, -12.0),  # base of the nose
}
_REFERENCE = {int(MIRROR[i]): (-x, y, z) for i, (x, y, z) in _RIGHT_HALF.items()} | _RIGHT_HALF

POSE_POINTS = tuple(sorted(_REFERENCE))
_POINTS = np.array([_REFERENCE[index] for index in POSE_POINTS])

# The assumed distance of the camera, in sides of the landmarks' box: about a metre.
_DISTANCE = 8.0

_AXIS = 60.0  # Length of the drawn axes, in mm.


class Pose(NamedTuple):
    """Degrees, as seen along the line from the camera to the face. Yaw > 0: the nose points to the
    image's right; pitch > 0: up; roll > 0: the head leans clockwise. The head turns by yaw first,
    then by pitch, then by roll."""

    yaw: float
    pitch: float
    roll: float


def estimate_pose(landmarks: Float[ndarray, "98 2"]) -> Pose | None:
    """The pose of a head from its landmarks, in pixels of any image; None if they coincide.

    The camera is assumed to look straight at the face from about a metre, wherever the face lies in
    the image.
    """
    solution = _solve(landmarks)
    if solution is None:
        return None
    rotation = solution[0]
    # OpenCV's z points away from the viewer; with z towards them, R = Rz(roll) Rx(pitch) Ry(yaw).
    flip = np.diag([1.0, 1.0, -1.0])
    turn = flip @ rotation @ flip
    yaw = np.arctan2(-turn[2, 0], turn[2, 2])
    pitch = np.arcsin(np.clip(turn[2, 1], -1, 1))
    roll = np.arctan2(-turn[0, 1], turn[1, 1])
    return Pose(*(float(np.degrees(angle)) for angle in (yaw, pitch, roll)))


def pose_axes(landmarks: Float[ndarray, "98 2"]) -> Float[ndarray, "4 2"] | None:
    """The head's axes in the image: the tip of the nose, and the ends of the axes to the right,
    down, and out of the face; None where there is no pose."""
    solution = _solve(landmarks)
    if solution is None:
        return None
    rotation, translation, camera = solution
    origin = np.array(_REFERENCE[54])
    ends = origin + _AXIS * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, -1]])
    projected, _ = cv2.projectPoints(ends, cv2.Rodrigues(rotation)[0], translation, camera, None)
    return projected[:, 0]


def _solve(landmarks):
    """Rotation [3, 3] and translation of the reference, and the camera's matrix; or None."""
    box = geometry.bounding_box(landmarks.astype(np.float64))
    middle, side = (box[:2] + box[2:]) / 2, np.sqrt(np.prod(np.maximum(box[2:] - box[:2], 1e-6)))
    focal = _DISTANCE * side
    camera = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1.0]])
    points = landmarks[list(POSE_POINTS)].astype(np.float64)
    try:
        # SQPnP (Terzakis & Lourakis, ECCV 2020) needs no start; least squares of the pixels follow.
        _, rotation, translation = cv2.solvePnP(
            _POINTS, points, camera, None, flags=cv2.SOLVEPNP_SQPNP
        )
        rotation, translation = cv2.solvePnPRefineLM(
            _POINTS, points, camera, None, rotation, translation
        )
    except cv2.error:
        return None
    if not np.isfinite(rotation).all():
        return None
    return cv2.Rodrigues(rotation)[0], translation, camera
