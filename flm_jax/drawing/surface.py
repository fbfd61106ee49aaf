"""The head's shape: where its 98 landmarks lie, its surface in space, and how a camera sees it.

The head's frame: x to the image's right, y down, z towards the viewer; the unit is half the head's
width and the eyes lie about y = 0. A point of the surface has a longitude (0 in front, positive to
the image's right) and a latitude (-90 degrees at the crown, 90 under the chin). Features are laid
out as the 98 landmarks in the frontal (x, y) plane, lifted onto the surface, and painted from those
very landmarks, so the labels are exact.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.drawing.parameters import HeadParameters, Number
from flm_jax.landmarks import MIRROR

# The share of the longitude that is linear in the column: columns are denser in front.
LINEAR_SHARE = 0.8
_CAMERA_DISTANCE = 12.0
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
    t = np.array([0, 0.25, 0.55, 0.8, 1])
    middle = p.brow_y - p.brow_raise * 0.14 + brow - p.brow_arch * (1 - ((t - 0.6) / 0.6) ** 2)
    middle = middle + p.frown * np.array([0.1, 0.05, 0, -0.02, -0.02])
    half = p.brow_thickness * np.array([0.42, 0.5, 0.42, 0.28, 0])
    x = p.eye_x + p.eye_width * (-1.25 + 2.75 * t) - 0.03 * p.frown * (1 - t)
    points[42:47] = np.stack([x, middle - half], 1)
    points[47:51] = np.stack([x, middle + half], 1)[3::-1]

    t = np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
    lid = np.array([0, -0.8, -1, -0.72, 0, 0.55, 0.68, 0.52]) * p.eye_height
    opened = np.clip(p.eyes_open + eye * 3, 0.03, 1.4)
    # A closing upper lid comes down to the lower one, which a smile lifts a little.
    lid = np.where(lid < 0, lid * opened + (1 - np.minimum(opened, 1)) * 0.6 * -lid, lid)
    points[68:76] = np.stack([p.eye_x + p.eye_width * t, lid - p.eye_tilt * t * p.eye_width], 1)
    points[97] = [p.eye_x, points[[70, 74], 1].mean() * 0.6 - 0.01]

    points[51:55, 1] = np.linspace(0.02, p.nose_length, 4)
    points[57:60, 0] = np.array([0, 0.52, 1]) * p.nose_width
    points[57:60, 1] = p.nose_length + np.array([0.11, 0.095, 0.04])

    width = p.mouth_width * (1 + 0.2 * p.smile - 0.35 * p.pucker - 0.12 * p.mouth_open)
    lip = p.lip * (1 + 0.5 * p.pucker - 0.2 * max(p.smile, 0))
    gape = 0.42 * p.mouth_open
    outer = np.array([0, 0.24, 0.62, 1, 0.66, 0.34, 0])  # 79 to 85
    points[79:86, 0] = outer * width
    points[79:86, 1] = np.array([-0.78, -1, -0.52, 0, 0.68, 1.12, 1.22]) * lip
    points[79:86, 1] += np.array([-0.1, -0.1, -0.07, 0.3, 0.82, 1, 1.05]) * gape
    inner = np.array([0, 0.5, 0.87, 0.5, 0])  # 90 to 94
    points[90:95, 0] = inner * width
    points[90:95, 1] = np.array([-0.05, -0.05, 0, 0.07, 0.1]) * lip
    points[90:95, 1] += np.array([-0.04, 0, 0.3, 0.85, 0.98]) * gape
    bent = np.r_[79:86, 90:95]
    curve = 0.06 - 0.19 * (points[bent, 0] / width) ** 2
    points[bent, 1] += p.mouth_y + (p.smile + 0.25) * curve + mouth * (points[bent, 0] / width)
    return points


class Surface:
    """The head's surface: maps angles, or a point of the frontal plane, to a point in space."""

    def __init__(self, p: HeadParameters):
        self.p = p
        self.landmarks = lay_out(p)
        self.bottom = p.chin + 0.3 * p.mouth_open

    def _profile(self, sine: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """Half width, front and back at a latitude of the given sine."""
        lower, s = sine > 0, np.minimum(np.abs(sine), 1)
        jaw = np.where(lower, self.p.jaw, 2.2)
        width = (1 - s**jaw) ** (1 / jaw)
        pole = np.where(lower, 0.42, -0.1)
        front = pole + (1.0 - pole) * (1 - s ** np.where(lower, 3.6, 2.6)) ** (1 / 3)
        back = pole + (-1.25 - pole) * np.sqrt(1 - s * s)
        return width, front, back

    def base(self, longitude: ndarray, sine: ndarray) -> ndarray:
        """Points [..., 3] of the smooth head, without eyes, nose and mouth. Angles in radians."""
        width, front, back = self._profile(sine)
        y = np.where(sine > 0, self.bottom, self.p.crown) * sine
        x = width * np.sin(longitude)
        x = x + self.p.wobble[3] * np.clip(sine, 0, 1) ** 2
        z = (front + back) / 2 + (front - back) / 2 * np.cos(longitude)
        return np.stack(np.broadcast_arrays(x, y, z), -1)

    def angles(self, xy: Float[ndarray, "n 2"]) -> tuple[ndarray, ndarray]:
        """Longitude and sine of the latitude of points of the frontal plane."""
        x, y = xy[:, 0], xy[:, 1]
        sine = np.clip(y / np.where(y > 0, self.bottom, self.p.crown), -0.999, 0.999)
        x = x - self.p.wobble[3] * np.clip(sine, 0, 1) ** 2
        return np.arcsin(np.clip(x / self._profile(sine)[0], -1, 1)), sine

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
        height = p.nose_height * (0.2 + 0.8 * along**1.5)
        height = height * np.exp(-((np.maximum(y - tip, 0) / 0.1) ** 2))
        height = height * np.exp(-((np.minimum(y, 0) / 0.2) ** 2))
        relief = height * np.exp(-((x / (0.11 + 0.08 * along)) ** 2))
        relief += bump(0.14, p.nose_width * 0.8, tip + 0.02, 0.075, 0.085)  # wings
        relief += bump(0.06, p.eye_x, p.brow_y, 0.36, 0.13)  # brow ridge
        relief += bump(-0.1, p.eye_x * 0.95, 0.0, 0.27, 0.19)  # socket
        relief += bump(0.08, p.eye_x, 0.0, 0.17, 0.12)  # eyeball
        relief += bump(0.06 + 0.05 * max(p.smile, 0), 0.55, 0.5, 0.25, 0.25)  # cheek
        upper, lower = marks[79, 1] + 0.4 * p.lip, marks[85, 1] - 0.5 * p.lip
        relief += bump(0.11 + 0.1 * p.pucker, 0.0, upper, p.mouth_width * 0.85, p.lip * 0.8)
        relief += bump(0.12 + 0.1 * p.pucker, 0.0, lower, p.mouth_width * 0.7, p.lip * 0.8)
        relief += bump(0.1, 0.0, self.bottom - 0.18, 0.3, 0.17)  # chin
        return np.concatenate([points[..., :2], (points[..., 2] + relief * front)[..., None]], -1)


def contour_angles(surface: Surface) -> tuple[ndarray, ndarray]:
    """Longitudes and sines of the 33 contour points, equally spaced as seen from the front."""
    tilt = 0.2  # the jaw's line runs a little in front of the widest meridian
    around = np.linspace(-93, 93, 187) * np.pi / 180
    sine = np.cos(around) / np.hypot(1, tilt)
    longitude = np.arctan2(np.sin(around), tilt)
    points = surface.base(longitude, sine)[:, :2]
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    around = np.interp(np.linspace(0, length[-1], 33), length, around)
    return np.arctan2(np.sin(around), tilt), np.cos(around) / np.hypot(1, tilt)


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
    """The landmarks in the viewer's frame.

    A contour point that faces away slides along its parallel to the visible outline, where an
    annotator puts it.
    """
    points = surface.lift(surface.landmarks)
    longitude, sine = contour_angles(surface)
    # From its own longitude up to 20 degrees beside the front, whichever sticks out the most.
    share = np.linspace(0, 1, 61)[:, None]
    nearest = np.sign(longitude) * np.minimum(np.abs(longitude), np.radians(20))
    candidates = longitude + (nearest - longitude) * share
    shape = surface.base(candidates, np.broadcast_to(sine, candidates.shape))
    unrolled = shape @ rotation(surface.p.yaw, surface.p.pitch, 0.0).T
    best = np.argmax(np.sign(longitude) * unrolled[..., 0] - 1e-3 * share, axis=0)
    longitude = np.take_along_axis(candidates, best[None], 0)[0]
    points[:33] = surface.raise_relief(surface.base(longitude, sine), longitude)
    return points @ turn.T


def column_longitude(u: ndarray) -> ndarray:
    """The longitude of a column of a grid of the surface; u from -1 to 1, at the grid's edges."""
    return np.pi * (LINEAR_SHARE * u + (1 - LINEAR_SHARE) * u**3)


def grid_longitude(columns: int) -> ndarray:
    """Longitudes of the middles of a grid's columns."""
    return column_longitude((np.arange(columns) + 0.5) / columns * 2 - 1)


def grid_sine(rows: int) -> ndarray:
    """Sines of the latitudes of the middles of a grid's rows."""
    return np.sin(np.pi * ((np.arange(rows) + 0.5) / rows - 0.5))
