"""The head's shape: where its 98 landmarks lie, its surface in space, and how a camera sees it.

The head's frame: x to the image's right, y down, z towards the viewer; the unit is half the head's
width and the eyes lie about y = 0. A point of the surface has a longitude (0 in front, positive to
the image's right) and a latitude (-90 degrees at the crown, 90 under the chin). Features are laid
out as the 98 landmarks in the frontal (x, y) plane, lifted onto the surface, and painted from those
very landmarks, so the labels are exact.
"""

import functools

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.drawing.parameters import HeadParameters, Number
from flm_jax.landmarks import MIRROR

# The share of the longitude that is linear in the column: columns are denser in front.
LINEAR_SHARE = 0.8
_CAMERA_DISTANCE = 12.0
# Exponent of the head's horizontal section: a face is flatter in front than an ellipse.
_SECTION = 2.5
# The landmarks at the image's right of the middle, but for the contour's.
_RIGHT = np.r_[42:51, 58:60, 68:76, 80:85, 91:94, 97]


def lay_out(p: HeadParameters) -> Float[ndarray, "98 2"]:
    """The landmarks in the frontal plane; the contour's (0 to 32) are left to `contour_angles`."""
    right, left = _lay_out_half(p, 1), _lay_out_half(p, -1)
    on_left = MIRROR[_RIGHT]
    right[on_left] = left[_RIGHT] * [-1, 1]
    right[96:] += np.array(p.gaze) * p.eye_width * [0.42, 0.2]
    return right


def _lay_out_half(p: HeadParameters, side: int) -> Float[ndarray, "98 2"]:
    points = np.zeros((98, 2))
    eye, brow, mouth, _ = (side * w for w in p.wobble)
    t = np.array([0, 0.25, 0.51, 0.77, 1])
    arch = 1 - ((t - 0.52) / 0.52) ** 2
    middle = p.brow_y - p.brow_raise * 0.1 + brow - p.brow_arch * arch + 0.05 * t**3
    middle = middle + p.frown * np.array([0.07, 0.035, 0, -0.01, -0.01])
    half = p.brow_thickness * np.array([0.4, 0.5, 0.52, 0.41, 0])
    x = p.eye_x + p.eye_width * (0.32 + 3.0 * p.brow_width * (t - 0.51)) - 0.03 * p.frown * (1 - t)
    upper = np.array([0.013, 0.004, -0.007, -0.015, -0.01])
    lower = np.array([0.013, 0.003, -0.008, -0.016, 0])
    points[42:47] = np.stack([x + upper, middle - half], 1)
    points[47:51] = np.stack([x + lower, middle + half], 1)[3::-1]

    t = np.array([-1, -0.5, 0.05, 0.55, 1, 0.57, 0.1, -0.43])
    lid = np.array([0, -0.8, -1, -0.69, 0, 0.46, 0.58, 0.39]) * p.eye_height
    opened = np.clip(p.eyes_open + eye * 3, 0.03, 1.6)
    # A closing upper lid comes down to the lower one, which a smile lifts a little.
    lid = np.where(lid < 0, lid * opened + (1 - np.minimum(opened, 1)) * 0.5 * -lid, lid)
    y = 0.018 + lid - p.eye_tilt * t * p.eye_width
    points[68:76] = np.stack([p.eye_x + p.eye_width * t, y], 1)
    points[97] = [p.eye_x + 0.005, points[[70, 74], 1].mean()]

    points[51:55, 1] = np.linspace(0.005, p.nose_length, 4)
    points[57:60, 0] = np.array([0, 0.53, 1.08]) * p.nose_width * (1 + 0.08 * max(p.smile, 0))
    points[57:60, 1] = p.nose_length + np.array([0.143, 0.121, 0.095]) - 0.03 * max(p.smile, 0)
    points[79:86], points[90:95] = _lay_out_lips(p)
    bent = np.r_[79:86, 90:95]
    points[bent, 1] += mouth * points[bent, 0] / p.mouth_width
    # The mouth moves aside with the jaw, the nose a little.
    points[bent, 0] += 0.7 * side * p.wobble[3]
    points[53:55, 0] += 0.2 * side * p.wobble[3]
    points[57:60, 0] += 0.25 * side * p.wobble[3]
    return points


def _lay_out_lips(p: HeadParameters) -> tuple[Float[ndarray, "7 2"], Float[ndarray, "5 2"]]:
    """The outer and the inner lip's right half, each from its upper to its lower middle."""
    width = p.mouth_width * (1 + 0.22 * p.smile - 0.35 * p.pucker - 0.05 * p.mouth_open)
    lip = p.lip * (1 + 0.5 * p.pucker - 0.1 * max(p.smile, 0))
    gape = 0.46 * p.mouth_open
    outer, inner = np.zeros((7, 2)), np.zeros((5, 2))
    outer[:, 0] = np.array([0, 0.185, 0.605, 1, 0.73, 0.395, 0]) * width
    outer[:, 1] = np.array([-0.58, -0.725, -0.49, -0.07, 0.6, 0.99, 1.08]) * lip
    outer[:, 1] += np.array([-0.12, -0.12, -0.05, 0.18, 0.66, 0.98, 1.02]) * gape
    inner[:, 0] = np.array([0, 0.475, 0.92, 0.495, 0]) * width
    inner[:, 1] = np.array([0.02, -0.04, -0.07, 0.02, 0.07]) * lip
    inner[:, 1] += np.array([-0.1, -0.06, 0.18, 0.84, 0.96]) * gape
    for lips in (outer, inner):
        # A smile lifts the corners and, less, the middle.
        lips[:, 1] += p.mouth_y - p.smile * (0.04 + 0.06 * (lips[:, 0] / width) ** 2)
    return outer, inner


class Surface:
    """The head's surface: maps angles, or a point of the frontal plane, to a point in space."""

    def __init__(self, p: HeadParameters):
        self.p = p
        self.landmarks = lay_out(p)
        self.bottom = p.chin + 0.3 * p.mouth_open

    @functools.cached_property
    def contour(self) -> tuple[ndarray, ndarray]:
        """Longitudes and sines of the contour's points."""
        return contour_angles(self)

    def _profile(self, sine: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """Half width, front and back at a latitude of the given sine."""
        lower, s = sine > 0, np.minimum(np.abs(sine), 1)
        jaw = np.where(lower, self.p.jaw, 2.2)
        width = 1.045 * self.p.breadth * (1 - s**jaw) ** (1 / jaw)
        pole = np.where(lower, 0.45, -0.1)
        front = pole + (0.82 - pole) * (1 - s ** np.where(lower, 1.2, 2.6)) ** (1 / 3)
        back = pole + (-1.62 - pole) * np.sqrt(1 - s * s)
        return width, front, back

    def base(self, longitude: ndarray, sine: ndarray) -> ndarray:
        """Points [..., 3] of the smooth head, without eyes, nose and mouth. Angles in radians."""
        width, front, back = self._profile(sine)
        y = np.where(sine > 0, self.bottom, self.p.crown) * sine
        along, across = np.cos(longitude), np.sin(longitude)
        radius = (np.abs(along) ** _SECTION + np.abs(across) ** _SECTION) ** (-1 / _SECTION)
        x = width * across * radius + self.p.wobble[3] * np.clip(sine, 0, 1) ** 2
        z = (front + back) / 2 + (front - back) / 2 * along * radius
        return np.stack(np.broadcast_arrays(x, y, z), -1)

    def angles(self, xy: Float[ndarray, "n 2"]) -> tuple[ndarray, ndarray]:
        """Longitude and sine of the latitude of points of the frontal plane."""
        sine = self.sine(xy[:, 1])
        x = xy[:, 0] - self.p.wobble[3] * np.clip(sine, 0, 1) ** 2
        return section_longitude(np.clip(x / self._profile(sine)[0], -1, 1)), sine

    def sine(self, y: ndarray) -> ndarray:
        """The sine of the latitude at a height."""
        return np.clip(y / np.where(y > 0, self.bottom, self.p.crown), -0.999, 0.999)

    def lift(self, xy: Float[ndarray, "n 2"]) -> Float[ndarray, "n 3"]:
        """The points of the surface that lie in front of points of the frontal plane."""
        longitude, sine = self.angles(xy)
        return self.raise_relief(self.base(longitude, sine), longitude)

    def raise_relief(self, points: ndarray, longitude: ndarray) -> ndarray:
        """The points of the smooth head with brows, sockets, nose, cheeks, lips and chin."""
        front = np.clip(np.cos(longitude) * 3, 0, 1)
        x, y = np.abs(points[..., 0]), points[..., 1]
        p, marks = self.p, self.landmarks

        def bump(height: Number, cx: Number, cy: Number, sx: Number, sy: Number) -> ndarray:
            return height * np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)

        tip = p.nose_length
        # The bridge rises towards the tip and falls off sharply below it.
        along = np.clip(y / tip, 0, 1)
        height = p.nose_height * (0.28 + 0.72 * along**0.86)
        height = height * np.exp(-((np.maximum(y - tip, 0) / 0.148) ** 2))
        height = height * np.exp(-((np.minimum(y, 0) / 0.2) ** 2))
        relief = height * np.exp(-((x / (0.13 + 0.08 * along)) ** p.ridge))
        relief += bump(0.04, p.nose_width * 0.8, tip + 0.06, 0.085, 0.085)  # wings
        relief += bump(0.1, p.eye_x, p.brow_y, 0.36, 0.13)  # brow ridge
        relief += bump(-0.123, p.eye_x * 0.95, 0.0, 0.27, 0.19)  # socket
        relief += bump(0.054, p.eye_x, 0.0, 0.17, 0.12)  # eyeball
        relief += bump(0.03 + 0.05 * max(p.smile, 0), 0.55, 0.5, 0.25, 0.25)  # cheek
        upper, lower = marks[79, 1] + 0.4 * p.lip, marks[85, 1] - 0.5 * p.lip
        relief += bump(0.135, 0.0, p.mouth_y, 0.2, 0.3)
        relief += bump(-0.04, p.mouth_width, p.mouth_y, 0.14, 0.14)  # corners
        relief += bump(0.045 + 0.1 * p.pucker, 0.0, upper, p.mouth_width * 0.85, p.lip * 0.8)
        relief += bump(0.06 + 0.1 * p.pucker, 0.0, lower, p.mouth_width * 0.7, p.lip * 0.8)
        relief += bump(0.22, 0.0, self.bottom - 0.13, 0.42, 0.17)  # chin
        return np.concatenate([points[..., :2], (points[..., 2] + relief * front)[..., None]], -1)


def section_longitude(share: ndarray) -> ndarray:
    """The longitude in front where a section is `share` of its half width beside its middle."""
    return np.arctan2(share, (1 - np.abs(share) ** _SECTION) ** (1 / _SECTION))


def jaw_plane(p: HeadParameters, across: ndarray) -> ndarray:
    """How far in front of the widest meridian the jaw's line runs, as a share of the radius.

    On the near side of a turned head it goes back towards the ear, as annotators follow it.
    `across` is -1 at the image's left of the head, 0 in the middle, 1 at its right.
    """
    return 0.26 - 0.34 * np.clip(-np.sin(np.radians(p.yaw)) * across, 0, None) ** 0.77


def contour_angles(surface: Surface) -> tuple[ndarray, ndarray]:
    """Longitudes and sines of the 33 contour points, as an annotator puts them.

    The near side follows the jaw to the ear. Where the jaw faces away, the contour is the visible
    outline of cheek and chin. Each half is spaced equally as seen in the image.
    """
    p = surface.p
    # Both ends lie higher on a turned head.
    end = np.radians(91.2 + 4.2 * abs(np.sin(np.radians(p.yaw))))
    around = np.linspace(-end, end, 65)
    plane = jaw_plane(p, np.sin(around))
    longitude = np.arctan2(np.sin(around), plane)
    sine = np.cos(around) / np.hypot(1, plane)
    # From its own longitude up to 8 degrees beside the front, whichever sticks out the most.
    share = np.linspace(0, 1, 17)[:, None]
    nearest = np.sign(longitude) * np.minimum(np.abs(longitude), np.radians(8))
    candidates = longitude + (nearest - longitude) * share
    shape = surface.base(candidates, np.broadcast_to(sine, candidates.shape))
    shape = surface.raise_relief(shape, candidates)
    unrolled = shape @ rotation(p.yaw, p.pitch, 0.0).T
    best = np.argmax(np.sign(longitude) * unrolled[..., 0] - 1e-3 * share, axis=0)
    longitude, place = candidates[best, range(65)], project(unrolled[best, range(65)])
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(place, axis=0).T))]
    even = np.r_[np.linspace(0, length[32], 17), np.linspace(length[32], length[-1], 17)[1:]]
    return np.interp(even, length, longitude), np.interp(even, length, sine)


def rotation(yaw: Number, pitch: Number, roll: Number) -> Float[ndarray, "3 3"]:
    """Turns points of the head into the viewer's frame: yaw first, then pitch, then roll."""
    (sy, sp, sr), (cy, cp, cr) = (f(np.radians([yaw, pitch, roll])) for f in (np.sin, np.cos))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def project(points: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n 2"]:
    """The viewer's frame to the picture's plane, in units, by a camera far away."""
    return points[..., :2] / (1 - points[..., 2:] / _CAMERA_DISTANCE)


def landmarks_in_space(surface: Surface, turn: Float[ndarray, "3 3"]) -> Float[ndarray, "98 3"]:
    """The landmarks in the viewer's frame."""
    points = surface.lift(surface.landmarks)
    longitude, sine = surface.contour
    # Annotators put their points on the outer side of the edge.
    points[:33] = surface.raise_relief(surface.base(longitude, sine), longitude) * [1.01, 1.01, 1]
    return points @ turn.T


def posed_landmarks(p: HeadParameters) -> Float[ndarray, "98 2"]:
    """The landmarks of a head in its pose as the camera sees them, in half head widths."""
    return project(landmarks_in_space(Surface(p), rotation(p.yaw, p.pitch, p.roll)))


def column_longitude(u: ndarray) -> ndarray:
    """The longitude of a column of a grid of the surface; u from -1 to 1, at the grid's edges."""
    return np.pi * (LINEAR_SHARE * u + (1 - LINEAR_SHARE) * u**3)


def grid_longitude(columns: int) -> ndarray:
    """Longitudes of the middles of a grid's columns."""
    return column_longitude((np.arange(columns) + 0.5) / columns * 2 - 1)


def grid_sine(rows: int) -> ndarray:
    """Sines of the latitudes of the middles of a grid's rows."""
    return np.sin(np.pi * ((np.arange(rows) + 0.5) / rows - 0.5))
