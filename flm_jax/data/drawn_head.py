"""Draws a head whose 98 landmarks are known: a deformed ellipsoid, painted, lit and splatted.

The head's frame: x to the image's right, y down, z towards the viewer; the unit is half the head's
width and the eyes lie about y = 0. A point of the surface has a longitude (0 in front, positive to
the image's right) and a latitude (-90 degrees at the crown, 90 under the chin). Features are laid
out as the 98 landmarks in the frontal (x, y) plane, lifted onto the surface, and painted from those
very landmarks, so the labels are exact. `drawn_scene` paints; this file shapes and projects.
"""

import dataclasses
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt16
from numpy import ndarray

from flm_jax.landmarks import MIRROR

Number = float | int
Colour = tuple[Number, Number, Number]  # RGB in [0, 255]

# The share of the longitude that is linear in the column: columns are denser in front.
_LINEAR_SHARE = 0.8
_COARSE_SHAPE = (104, 128)  # rows (latitudes), columns (longitudes) of the shaped grid
_CAMERA_DISTANCE = 12.0


@dataclasses.dataclass(frozen=True)
class Light:
    """A lamp far away and light from everywhere. The direction points to the lamp."""

    direction: tuple[Number, Number, Number] = (0.0, -0.45, 1.0)
    ambient: Number = 0.5
    diffuse: Number = 0.62
    colour: Colour = (255.0, 255.0, 255.0)
    exposure: Number = 1.0

    @property
    def unusual(self) -> bool:
        """Too dark, too bright, hard from the side, or coloured."""
        hard = self.ambient < 0.3 and abs(self.direction[0]) > abs(self.direction[2])
        coloured = max(self.colour) - min(self.colour) > 50
        return bool(hard or coloured or not 0.6 <= self.exposure <= 1.4)


@dataclasses.dataclass(frozen=True)
class HeadParameters:
    """Everything that a head is drawn from. The default is neutral, frontal and symmetric.

    Angles are degrees. Yaw > 0 turns the nose to the image's right, pitch > 0 lifts the nose, and
    roll > 0 turns the head clockwise. Lengths are half head widths. Expressions are 0 at rest.
    """

    yaw: Number = 0.0
    pitch: Number = 0.0
    roll: Number = 0.0

    crown: Number = 1.5
    chin: Number = 1.48
    jaw: Number = 2.1  # exponent of the outline below the eyes: 2 is an ellipse, more is squarer
    eye_x: Number = 0.42
    eye_width: Number = 0.225
    eye_height: Number = 0.105
    eye_tilt: Number = 0.0
    brow_y: Number = -0.3
    brow_arch: Number = 0.07
    brow_thickness: Number = 0.09
    nose_length: Number = 0.6
    nose_width: Number = 0.2
    nose_height: Number = 0.36
    mouth_y: Number = 0.98
    mouth_width: Number = 0.36
    lip: Number = 0.1
    wobble: tuple[Number, ...] = (0.0, 0.0, 0.0, 0.0)  # eye, brow, mouth and jaw asymmetry

    mouth_open: Number = 0.0
    smile: Number = 0.0  # negative: corners down
    pucker: Number = 0.0
    eyes_open: Number = 1.0
    brow_raise: Number = 0.0
    frown: Number = 0.0
    gaze: tuple[Number, Number] = (0.0, 0.0)  # right and down, -1 to 1

    skin: Colour = (226.0, 178.0, 150.0)
    lip_colour: Colour = (190.0, 100.0, 95.0)
    iris: Colour = (96.0, 66.0, 40.0)
    hair_colour: Colour = (70.0, 48.0, 34.0)
    brow_strength: Number = 0.85
    hair: str = "short"  # bald, ring, short, fringe, long
    hairline: Number = -0.85
    part: Number = 0.0  # the hair is swept: lower on the right where positive
    hair_thickness: Number = 0.14
    hair_length: Number = 1.9
    beard: Number = 0.0  # 0 none, about 0.3 a shadow, 0.9 full
    blush: Number = 0.0
    eye_shadow: Number = 0.0
    shadow_colour: Colour = (90.0, 60.0, 130.0)
    lipstick: bool = False
    glasses: str = "none"  # none, frame, dark
    scarf: Number = 0.0  # 1 covers everything below the nose's tip
    scarf_colour: Colour = (90.0, 120.0, 160.0)
    texture: Number = 0.0  # strength of skin and hair noise
    freckles: int = 0
    seed: int = 0  # of the noise

    light: Light = Light()

    @property
    def large_pose(self) -> bool:
        return bool(abs(self.yaw) > 38 or abs(self.pitch) > 26 or abs(self.roll) > 32)

    @property
    def strong_expression(self) -> bool:
        return bool(
            self.mouth_open > 0.4
            or abs(self.smile) > 0.8
            or self.eyes_open < 0.3
            or self.pucker > 0.7
        )

    @property
    def made_up(self) -> bool:
        return bool(self.lipstick or self.eye_shadow > 0.3)


class Head(NamedTuple):
    """A drawn head.

    Attributes:
        tile: u8[h, w, 4], RGB premultiplied by the alpha that follows it.
        landmarks: f32[98, 2], pixels of the tile; (0, 0) is the centre of its top-left pixel.
        covered: bool[98], landmarks under glasses, a scarf or hair.
        unit: pixels in half a head's width.
        neck: f32[2], where the neck enters the clothes, pixels of the tile.
    """

    tile: UInt8[ndarray, "h w 4"]
    landmarks: Float[ndarray, "98 2"]
    covered: Bool[ndarray, "98"]
    unit: float
    neck: Float[ndarray, "2"]


class Layer(NamedTuple):
    """A surface to splat.

    Attributes:
        points: f32[r, c, 3], a coarse grid of the surface in the viewer's frame.
        colour: u8[h, w, 3], the paint on a dense grid of the same surface.
        mask: bool[h, w], where the surface exists.
        two_sided: whether its back is seen.
        shine: strength of the highlight.
    """

    points: Float[ndarray, "r c 3"]
    colour: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"] | None = None
    two_sided: bool = False
    shine: float = 0.12


def lay_out(p: HeadParameters) -> Float[ndarray, "98 2"]:
    """The landmarks in the frontal plane; the contour's (0 to 32) are left to `contour_angles`."""
    right, left = _lay_out_half(p, 1), _lay_out_half(p, -1)
    on_left = MIRROR[_RIGHT]
    right[on_left] = left[_RIGHT] * [-1, 1]
    right[96:] += np.array(p.gaze) * p.eye_width * [0.42, 0.2]
    return right


_RIGHT = np.r_[42:51, 58:60, 68:76, 80:85, 91:94, 97]


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


# --- paint -----------------------------------------------------------------------------------


def _grid_longitude(columns: int) -> ndarray:
    u = (np.arange(columns) + 0.5) / columns * 2 - 1
    return np.pi * (_LINEAR_SHARE * u + (1 - _LINEAR_SHARE) * u**3)


def _grid_sine(rows: int) -> ndarray:
    return np.sin(np.pi * ((np.arange(rows) + 0.5) / rows - 0.5))


def spline(points: Float[ndarray, "n 2"], steps: int = 6) -> Float[ndarray, "m 2"]:
    """A Catmull-Rom curve through the points, ends included."""
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = (np.arange(steps) / steps)[:, None, None]
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    curve = b + t * (
        (c - a) / 2 + t * (a - 2.5 * b + 2 * c - d / 2 + t * (1.5 * (b - c) + (d - a) / 2))
    )
    return np.vstack([curve.swapaxes(0, 1).reshape(-1, 2), points[-1:]])


def outline(points: Float[ndarray, "98 2"], *chains: list[int]) -> Float[ndarray, "m 2"]:
    """The closed curve of several splines, one after the other."""
    return np.vstack([spline(points[chain]) for chain in chains])


class Painter:
    """Paints shapes, given in the frontal plane, on the dense grid of the head's surface."""

    def __init__(self, surface: Surface, shape: tuple[int, int], rng: np.random.Generator):
        self.surface, self.shape, self.rng = surface, shape, rng
        self.colour = np.empty((*shape, 3), np.uint8)
        self.cover = np.zeros(shape, np.uint8)
        self.unit = shape[0] / np.pi / 1.5  # grid rows in a unit, about the eyes
        u = np.linspace(-1, 1, 2001)
        self._table = np.pi * (_LINEAR_SHARE * u + (1 - _LINEAR_SHARE) * u**3), u

    def grid(self, xy: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Columns and rows of points of the frontal plane."""
        return self.cells(*self.surface.angles(xy))

    def cells(self, longitude: ndarray, sine: ndarray) -> Float[ndarray, "n 2"]:
        column = (np.interp(longitude, *self._table) + 1) / 2 * self.shape[1] - 0.5
        row = (np.arcsin(sine) / np.pi + 0.5) * self.shape[0] - 0.5
        return np.stack([column, row], -1)

    def fixed(self, xy: ndarray) -> ndarray:
        """Columns and rows as OpenCV draws them, with 4 fractional bits."""
        return np.round(self.grid(xy) * 16).astype(np.int32)

    def fill(self, xy: ndarray, colour: Colour, opacity: Number = 1.0, soft: Number = 0.0) -> None:
        """Fills a polygon; `soft` is the blur of its edge, in units."""
        points = self.fixed(xy)
        if opacity == 1 and not soft:
            cv2.fillPoly(self.colour, [points], colour, cv2.LINE_AA, 4)
        else:
            self._blend(
                lambda mask, at: cv2.fillPoly(mask, [points - at], 255, cv2.LINE_AA, 4),
                points,
                colour,
                opacity,
                soft,
            )

    def line(self, xy: ndarray, colour: Colour, width: float, opacity=1.0, soft=0.0) -> None:
        """Draws a curve of a width in units."""
        points, thickness = self.fixed(xy), max(1, round(width * self.unit))
        self._blend(
            lambda mask, at: cv2.polylines(
                mask, [points - at], False, 255, thickness, cv2.LINE_AA, 4
            ),
            points,
            colour,
            opacity * min(1, width * self.unit),
            soft,
            width,
        )

    def _blend(self, draw, points, colour, opacity, soft, margin=0.0) -> None:
        pad = int((3 * soft + margin) * self.unit) + 3
        low = np.maximum(points.min(0) // 16 - pad, 0)
        high = np.minimum(points.max(0) // 16 + pad + 1, self.shape[::-1])
        if (high <= low).any():
            return
        mask = np.zeros((high - low)[::-1], np.uint8)
        draw(mask, low * 16)
        if soft:
            mask = cv2.GaussianBlur(mask, (0, 0), soft * self.unit)
        region = self.colour[low[1] : high[1], low[0] : high[0]]
        alpha = mask[..., None].astype(np.float32) * np.float32(opacity / 255)
        region[:] = region + alpha * (np.array(colour, np.float32) - region)

    def strokes(self, starts: ndarray, ends: ndarray, colour: Colour, width: float) -> None:
        """Draws straight lines, f[n, 2] to f[n, 2]."""
        if len(starts):
            points = self.fixed(np.stack([starts, ends], 1).reshape(-1, 2)).reshape(-1, 2, 2)
            thickness = max(1, round(width * self.unit))
            cv2.polylines(self.colour, list(points), False, colour, thickness, cv2.LINE_AA, 4)

    def noise(self, bumps: tuple[int, int], size: tuple[int, int]) -> Float[ndarray, "h w"]:
        """Smooth noise with that many bumps (down, across), on a grid of a size (w, h)."""
        values = self.rng.standard_normal(bumps, np.float32)
        return cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)


_UPPER_LIDS = (list(range(60, 65)), list(range(68, 73)))
_LOWER_LIDS = ([64, 65, 66, 67, 60], [72, 73, 74, 75, 68])
_BROWS = (
    ([33, 34, 35, 36, 37], [38, 39, 40, 41, 33]),
    ([42, 43, 44, 45, 46], [46, 47, 48, 49, 50]),
)
_OUTER_LIP = (list(range(76, 83)), [82, 83, 84, 85, 86, 87, 76])
_INNER_LIP = (list(range(88, 93)), [92, 93, 94, 95, 88])


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255.0, c * factor) for c in colour)
    return red, green, blue


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * x + share * y for x, y in zip(a, b, strict=True))
    return red, green, blue


def paint(surface: Surface, shape: tuple[int, int], rng: np.random.Generator) -> Painter:
    """Paints the whole head."""
    painter = Painter(surface, shape, rng)
    _paint_skin(painter)
    _paint_nose(painter)
    for side in (0, 1):
        _paint_eye(painter, side)
        _paint_brow(painter, side)
    _paint_mouth(painter)
    _paint_hair(painter)
    _paint_scarf(painter)
    return painter


def _paint_skin(painter: Painter) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    rows, columns = 52, 64
    longitude, sine = _grid_longitude(columns)[None], _grid_sine(rows)[:, None]
    points = painter.surface.base(longitude, sine)
    x, y, front = np.abs(points[..., 0]), points[..., 1], np.cos(longitude) > 0
    skin = np.broadcast_to(np.array(p.skin, np.float32), (rows, columns, 3)).copy()

    def tint(colour: Colour, opacity: float, cx, cy, sx, sy) -> None:
        alpha = opacity * np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2) * front
        skin[:] += alpha[..., None] * (np.array(colour, np.float32) - skin)

    flush = _mix(p.skin, (200, 70, 60), 0.5)
    tint(flush, 0.35 + 0.2 * p.blush, 0.55, 0.45, 0.22, 0.22)
    tint(flush, 0.3, 0, p.nose_length, 0.2, 0.13)
    tint((205, 60, 80), 0.6 * p.blush, 0.62, 0.4, 0.2, 0.14)
    tint(_shade(p.skin, 0.62), 0.35, p.eye_x * 0.85, 0.0, 0.3, 0.16)
    tint(_shade(p.skin, 0.55), 0.4, 0, marks[85, 1] + 0.12, 0.2, 0.06)
    if p.eye_shadow:
        tint(p.shadow_colour, p.eye_shadow, p.eye_x + 0.04, -0.1, 0.25, 0.11)
    if p.beard:
        level = marks[76, 1] - 0.26 + 0.55 * np.clip(0.5 - x, 0, 0.1)
        level = np.where(x > 0.55, level - (x - 0.55) * 1.5, level)
        area = np.clip((y - level) * 9, 0, 1) * np.clip(np.cos(longitude) * 4 + 0.9, 0, 1)
        hair = _mix(p.skin, p.hair_colour, 0.95 if p.beard > 0.5 else 0.75)
        skin += (area * p.beard)[..., None] * (np.array(hair, np.float32) - skin)
    skin *= 1 - 0.35 * np.clip(1 + (hairline(p, longitude) - y) / 0.12, 0, 1)[..., None]
    # Skin is smooth: half of the grid's resolution is enough.
    half = painter.shape[1] // 2, painter.shape[0] // 2
    skin = cv2.resize(skin.astype(np.float32), half, interpolation=cv2.INTER_CUBIC)
    if p.texture:
        mottle = painter.noise((20, 26), half) * 0.03
        mottle += painter.noise((half[1] // 2, half[0] // 2), half) * 0.025
        skin *= 1 + p.texture * mottle[..., None]
    skin = np.clip(skin, 0, 255).astype(np.uint8)
    cv2.resize(skin, painter.shape[::-1], dst=painter.colour)
    spots = painter.rng.uniform([-0.75, 0.1], [0.75, 0.75], (p.freckles, 2))
    painter.strokes(spots, spots + 0.01, _shade(p.skin, 0.75), 0.022)


def _paint_nose(painter: Painter) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    dark = _shade(p.skin, 0.55)
    painter.fill(_disc((0, p.nose_length + 0.13), p.nose_width * 0.9, 0.05), dark, 0.35, 0.03)
    painter.line(spline(marks[55:60]), dark, 0.025, 0.55, 0.008)
    for side in (-1, 1):
        nostril = _disc((side * p.nose_width * 0.5, p.nose_length + 0.075), 0.06, 0.028)
        painter.fill(nostril, _shade(p.skin, 0.28), 0.95, 0.006)
        wing = np.array([[0.9, -0.1], [1.12, -0.04], [1.15, 0.03], [1.0, 0.07]])
        wing = wing * [side * p.nose_width, 1] + [0, p.nose_length]
        painter.line(spline(wing), dark, 0.025, 0.6, 0.01)
        corner = marks[82 if side > 0 else 76]
        fold = [[side * (p.nose_width + 0.05), p.nose_length], corner * [1.15, 1] - [0, 0.06]]
        middle = (np.sum(fold, 0) / 2) * [1.12, 1]
        strength = 0.1 + 0.45 * np.clip(p.smile, 0, 1)
        painter.line(spline(np.array([fold[0], middle, fold[1]])), dark, 0.04, strength, 0.02)


def _disc(centre, rx: float, ry: float) -> Float[ndarray, "24 2"]:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([centre[0] + rx * np.cos(angle), centre[1] + ry * np.sin(angle)], 1)


def _paint_eye(painter: Painter, side: int) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    upper, lower = spline(marks[_UPPER_LIDS[side]]), spline(marks[_LOWER_LIDS[side]])
    eye, pupil = np.vstack([upper, lower]), marks[96 + side]
    dark = _mix(_shade(p.skin, 0.3), (25, 18, 16), 0.6)
    skin = painter.colour.copy()
    painter.fill(eye, (242, 238, 234))
    radius = 0.47 * p.eye_width
    painter.fill(_disc(pupil, radius, radius), _shade(p.iris, 0.55))
    painter.fill(_disc(pupil, radius * 0.84, radius * 0.84), p.iris)
    painter.fill(
        _disc(pupil + np.array([0, 0.012]), radius * 0.6, radius * 0.6), _shade(p.iris, 1.35), 0.6
    )
    painter.fill(_disc(pupil, radius * 0.44, radius * 0.44), (10, 8, 8))
    painter.line(upper + np.array([0, 0.02]), (60, 45, 45), 0.05, 0.45, 0.015)
    # What the lids hide is skin again.
    mask = np.zeros(painter.shape, np.uint8)
    cv2.fillPoly(mask, [painter.fixed(eye)], 255, cv2.LINE_AA, 4)
    low, high = painter.grid(pupil[None] - 0.3)[0], painter.grid(pupil[None] + 0.3)[0]
    (left, top), (right, bottom) = low.astype(int), high.astype(int)
    box = np.s_[top:bottom, left:right]
    alpha = mask[box][..., None].astype(np.float32) / 255
    painter.colour[box] = skin[box] + alpha * (painter.colour[box] - skin[box].astype(np.float32))
    lash = 0.045 if p.made_up else 0.032
    painter.line(upper, dark, lash, 0.95)
    painter.line(lower, dark, 0.014, 0.5 if p.made_up else 0.35)
    crease = upper * [1, 0.8] - [0, 0.055 + 0.02 * p.eyes_open]
    painter.line(crease, _shade(p.skin, 0.55), 0.02, 0.55, 0.006)
    glint = pupil - 0.03
    if p.eyes_open > 0.6:
        painter.fill(_disc(glint, 0.018, 0.018), (255, 255, 255), 0.9)


def _paint_brow(painter: Painter, side: int) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    curve = outline(marks, *_BROWS[side])
    colour = _mix(p.hair_colour, (30, 22, 18), 0.35)
    painter.fill(curve, colour, p.brow_strength, 0.008)
    if p.texture:
        upper, lower = (marks[chain] for chain in _BROWS[side])
        share = painter.rng.uniform(0, 1, (14, 1))
        start = spline(upper)[painter.rng.integers(0, 20, 14)]
        end = start + [0.05 * (2 * side - 1), 0.0] + share * (lower.mean(0) - upper.mean(0))
        painter.strokes(start, end, _mix(_shade(colour, 0.7), p.skin, 0.2), 0.012)


def _paint_mouth(painter: Painter) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    lips, inner = outline(marks, *_OUTER_LIP), outline(marks, *_INNER_LIP)
    painter.fill(lips, p.lip_colour, 1.0 if p.lipstick else 0.85, 0.004)
    upper = np.vstack([spline(marks[76:83]), spline(marks[[92, 91, 90, 89, 88]])])
    painter.fill(upper, _shade(p.lip_colour, 0.75), 0.6)
    shine = marks[85] * [1, 0.5] + marks[94] * [0, 0.5]
    painter.fill(
        _disc(shine, p.mouth_width * 0.3, 0.02), _mix(p.lip_colour, (255,) * 3, 0.5), 0.5, 0.02
    )
    gap = marks[94, 1] - marks[90, 1]
    if gap > 0.03:
        painter.fill(inner, (52, 18, 20))
        if gap > 0.16:
            tongue = _disc(marks[94] - [0, 0.12 * gap], p.mouth_width * 0.5, gap * 0.32)
            painter.fill(tongue, (175, 75, 80), 0.9, 0.01)
        # Upper teeth follow the upper lip.
        edge = spline(marks[88:93]) * [0.86, 1]
        depth = min(0.6 * gap, 0.11) * (1 - (np.linspace(-1, 1, len(edge)) ** 2) ** 2)
        teeth = np.vstack([edge, (edge + np.stack([0 * depth, depth], 1))[::-1]])
        painter.fill(teeth, (236, 230, 220))
        painter.line(spline(marks[[92, 93, 94, 95, 88]]), _shade(p.lip_colour, 0.8), 0.02)
    middle = (marks[[88, 89, 90, 91, 92]] + marks[[88, 95, 94, 93, 92]]) / 2
    if gap <= 0.03:
        painter.line(spline(middle), _shade(p.lip_colour, 0.3), 0.022, 0.9)
    for corner in (76, 82):
        painter.fill(_disc(marks[corner], 0.03, 0.03), _shade(p.skin, 0.5), 0.5, 0.02)


# Heights of the hairline at these longitudes, in degrees, relative to the hairline in front.
_HAIR_ANGLES = [0, 18, 38, 54, 68, 84, 105, 180]
_HAIRLINES: dict[str, list] = {
    "ring": [-0.9, -0.9, -0.9, -0.9, -0.3, 0.15, 0.42, 0.9],
    "short": [0.0, 0.0, -0.06, 0.12, None, 0.12, 0.42, 0.9],
    "fringe": [0.0, 0.0, 0.0, 0.05, 0.2, 0.4, 0.5, 0.9],
    "long": [-0.08, 0.0, 0.16, 0.38, None, 0.3, 0.5, 0.9],
}


def hairline(p: HeadParameters, longitude: ndarray) -> ndarray:
    """The height y, in units, above which (smaller y) the head is covered with hair."""
    if p.hair == "bald":
        return np.full(longitude.shape, -9.0)
    line = _HAIRLINES[p.hair]
    front = -0.37 if p.hair == "fringe" else p.hairline
    # In front they hang together with the hairline, at the sides with the ears.
    heights = [front + h for h in line[:4]] + [-0.34 if line[4] is None else line[4], *line[5:]]
    swept = p.part * np.sin(longitude) * (np.abs(longitude) < np.pi / 2) * np.cos(longitude) * 2
    return np.interp(np.degrees(np.abs(longitude)), _HAIR_ANGLES, heights) + swept


def _hair_amount(p: HeadParameters, longitude: ndarray, sine: ndarray, ramp: float) -> ndarray:
    """How far a point is inside the hair: 0 outside to 1 at `ramp` units above the hairline."""
    bottom = p.chin + 0.3 * p.mouth_open
    y = np.where(sine > 0, bottom, p.crown) * sine
    return np.clip((hairline(p, longitude) - y) / ramp, 0, 1)


def hair_paint(
    p: HeadParameters, shape: tuple[int, int], rng: np.random.Generator
) -> UInt8[ndarray, "h w 3"]:
    """Strands: noise that is long along the columns and short across them."""
    if not p.texture:
        return np.broadcast_to(np.array(p.hair_colour, np.uint8), (*shape, 3))
    wide = rng.standard_normal((4, shape[1] // 9), np.float32)
    fine = rng.standard_normal((10, shape[1] // 3), np.float32)
    strands = 0.17 * cv2.resize(wide, shape[::-1]) + 0.11 * cv2.resize(fine, shape[::-1])
    levels = np.clip(strands * 100 + 128, 0, 255).astype(np.uint8)
    shade = np.maximum(1 + (np.arange(256)[:, None] - 128) / 100, 0.3)
    table = np.clip(shade * p.hair_colour, 0, 255).astype(np.uint8)
    return cv2.merge([cv2.LUT(levels, table[:, c].copy()) for c in range(3)])


def _paint_hair(painter: Painter) -> None:
    p, (h, w) = painter.surface.p, painter.shape
    if p.hair == "bald":
        return
    ragged = np.zeros(w)
    if p.texture:
        for knots, size in ((24, 0.04), (w // 3, 0.035)):
            values = painter.rng.standard_normal(knots)
            ragged += size * np.interp(np.arange(w), np.linspace(0, w, knots), values)
    sine = _grid_sine(h)
    y = np.where(sine > 0, painter.surface.bottom, p.crown) * sine
    line = hairline(p, _grid_longitude(w)) + ragged
    rows = slice(0, int(np.searchsorted(y, line.max())))
    inside = y[rows, None] < line
    painter.cover[rows] = inside
    hair = hair_paint(p, inside.shape, painter.rng)
    cv2.copyTo(np.ascontiguousarray(hair), painter.cover[rows], painter.colour[rows])


def _paint_scarf(painter: Painter) -> None:
    p, (h, w) = painter.surface.p, painter.shape
    if not p.scarf:
        return
    y = np.where(_grid_sine(h) > 0, painter.surface.bottom, p.crown) * _grid_sine(h)
    sag = 0.1 * np.sin(_grid_longitude(w)) ** 2 - 0.12 * np.exp(-((_grid_longitude(w) / 0.3) ** 2))
    inside = y[:, None] > (1.0 - p.scarf) + 0.42 + sag[None]
    cloth = np.array(p.scarf_colour, np.float32) * np.ones((h, w, 1), np.float32)
    cloth *= (1 + 0.12 * np.sin(y * 34) * (p.texture > 0))[:, None, None].astype(np.float32)
    painter.colour[inside] = np.clip(cloth[inside], 0, 255)
    painter.cover[inside] = 1


# --- layers and splatting ----------------------------------------------------------------------


def _head_layer(painter: Painter, turn: ndarray) -> Layer:
    surface, p = painter.surface, painter.surface.p
    rows, columns = _COARSE_SHAPE
    longitude, sine = _grid_longitude(columns)[None], _grid_sine(rows)[:, None]
    points = surface.base(longitude, sine)
    outwards = points * [1, 0.9, 0.8]
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    lifted = surface.raise_relief(points, np.broadcast_to(longitude, points.shape[:2]))
    thickness = p.hair_thickness * _hair_amount(p, longitude, sine, 0.3)
    # Samples would spread too far apart on a steep step.
    thickness = cv2.GaussianBlur(thickness, (0, 0), 3.0)
    if p.scarf:
        y = points[..., 1]
        thickness = thickness + 0.09 * np.clip((y - (1.4 - p.scarf)) / 0.12, 0, 1)
    return Layer((lifted + outwards * thickness[..., None]) @ turn.T, painter.colour)


def _ear_layers(p: HeadParameters, turn: ndarray, unit: float) -> list[Layer]:
    n = max(24, int(unit * 0.75))
    a, b = np.meshgrid(np.linspace(0, np.pi, 24), np.linspace(-np.pi, np.pi, 32), indexing="ij")
    local = np.stack([0.08 * np.sin(a) * np.cos(b), -np.cos(a), np.sin(a) * np.sin(b)], -1)
    a = np.linspace(0, np.pi, n)[:, None]
    b = np.linspace(-np.pi, np.pi, int(1.4 * n))[None]
    y, z = -np.cos(a), np.sin(a) * np.sin(b)
    hollow = np.exp(-(((z - 0.15) / 0.45) ** 2) - ((y - 0.02) / 0.6) ** 2) > 0.6
    layers = []
    for side in (-1, 1):
        placed = local * [1, 0.3, 0.19]
        placed[..., 1] -= 0.25 * placed[..., 2]
        placed = placed @ rotation(-24.0 * side, 0.0, 6.0 * side).T
        placed += [side * 1.03, 0.2, -0.2]
        colour = np.where(hollow[..., None], 0.62, 0.95) * _mix(p.skin, (200, 80, 70), 0.15)
        layers.append(Layer(placed @ turn.T, colour.astype(np.uint8)))
    return layers


def _neck_layer(p: HeadParameters, turn: ndarray, body: ndarray, shape, beard: Colour) -> Layer:
    t = np.linspace(0, 1, 24)[:, None]
    around = np.linspace(-2, 2, 40)[None]
    radius = 0.55 + 0.24 * t**3
    x, z = radius * np.sin(around), radius * np.cos(around) - 0.3
    y = 0.55 + t * (1.45 + 0.2 * np.cos(around))
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    blend = np.clip(t * 1.3, 0, 1)[..., None]
    points = (points @ turn.T) * (1 - blend) + (points @ body.T) * blend
    down = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    # The chin keeps the light off the neck.
    shade = 0.45 + 0.5 * np.clip((down - 0.45) / 0.5, 0, 1)
    colour = shade * np.array(p.skin, np.float32) * np.ones((1, shape[1], 1), np.float32)
    return Layer(points, colour.astype(np.uint8), shine=0.0)


def _long_hair_layer(p: HeadParameters, turn, body, shape, rng: np.random.Generator) -> Layer:
    t = np.linspace(0, 1, 32)[:, None]
    around = np.linspace(np.radians(62), np.radians(298), 64)[None]
    y = -0.75 + t * (p.hair_length + 0.75)
    wide = np.interp(t, [0, 0.3, 0.6, 1], [0.55, 1.13, 1.15, 1.0]) + 0.3 * p.hair_thickness
    deep = np.interp(t, [0, 0.3, 1], [0.6, 1.2, 0.9])
    wave = 0.04 * np.sin(7 * t + p.seed % 7) * (p.texture > 0)
    points = np.stack(
        np.broadcast_arrays((wide + wave) * np.sin(around), y, deep * np.cos(around) - 0.2), -1
    )
    blend = np.clip((t - 0.45) * 1.5, 0, 0.8)[..., None]
    points = (points @ turn.T) * (1 - blend) + (points @ body.T) * blend
    colour = hair_paint(p, shape, rng)
    return Layer(points, colour, two_sided=True)


def _glasses_layers(p: HeadParameters, turn: ndarray, unit: float) -> list[Layer]:
    h, w = int(unit * 0.9), int(unit * 2.6)
    x, y = np.meshgrid(np.linspace(-1.03, 1.03, 48), np.linspace(-0.34, 0.34, 16))
    points = np.stack([x, y, 1.17 - 0.22 * np.abs(x) ** 2.4], -1)
    gx = np.abs(np.linspace(-1.03, 1.03, w))[None]
    gy = np.linspace(-0.34, 0.34, h)[:, None]
    radius = ((np.abs(gx - 0.45) / 0.36) ** 3 + (np.abs(gy - 0.02) / 0.25) ** 3) ** (1 / 3)
    bridge = (gx < 0.14) & (np.abs(gy + 0.06) < 0.025)
    hinge = (gx > 0.78) & (np.abs(gy + 0.1) < 0.03)
    rim = (radius < 1.0) & (radius > (0.9 if p.glasses == "frame" else 0.93))
    mask = rim | bridge | hinge
    if p.glasses == "dark":
        mask |= radius < 1
    colour = np.full((h, w, 3), 28, np.uint8)
    colour[rim | bridge | hinge] = (60, 40, 30) if p.seed % 2 else (25, 25, 28)
    arm_y, arm_z = np.meshgrid([-0.14, -0.06], np.linspace(-0.35, 0.98, 16), indexing="ij")
    layers = [Layer(points @ turn.T, colour, mask, True, 0.5)]
    for side in (-1, 1):
        arm = np.stack([side * (1.03 + 0 * arm_z), arm_y, arm_z], -1)
        arm_colour = np.full((max(4, int(0.14 * unit)), int(1.8 * unit), 3), 30, np.uint8)
        layers.append(Layer(arm @ turn.T, arm_colour, None, True))
    return layers


def _light_up(layer: Layer, light: Light) -> tuple[ndarray, ndarray, ndarray]:
    """How much the surface faces the viewer, its brightness and its highlight; f32[r, c] each."""
    points = layer.points.astype(np.float32)
    (ax, ay, az), (dx, dy, dz) = (np.moveaxis(np.gradient(points, axis=a), -1, 0) for a in (1, 0))
    normal = np.stack([ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx], -1)
    normal /= np.sqrt((normal**2).sum(-1, keepdims=True)) + 1e-9
    facing = normal[..., 2].copy()
    if layer.two_sided:
        normal[facing < 0] *= -1
    lamp = np.array(light.direction, np.float32) / np.float32(np.linalg.norm(light.direction))
    halfway = (lamp + np.array([0, 0, 1], np.float32)) / np.linalg.norm(
        lamp + np.array([0, 0, 1], np.float32)
    )
    brightness = light.ambient * (0.85 - 0.15 * normal[..., 1])
    brightness = brightness + light.diffuse * np.maximum(normal @ lamp, 0)
    shine = 255 * layer.shine * light.diffuse * np.maximum(normal @ halfway, 0) ** 18
    return facing, brightness.astype(np.float32), shine.astype(np.float32)


def _splat(
    layers: list[Layer],
    light: Light,
    unit: float,
    origin: Float[ndarray, "2"],
    size: tuple[int, int],
) -> Float[ndarray, "h w 4"]:
    """The picture, premultiplied by its alpha: each pixel takes the nearest sample of any layer."""
    height, width = size
    pixels, samples, depths, lights, start = [], [], [], [], 0
    for layer in layers:
        facing, *lit = _light_up(layer, light)
        place = np.clip(project(layer.points) * unit + origin + 0.5, 0, [width - 0.5, height - 0.5])
        shape = layer.colour.shape[1::-1]
        x, y, z = (
            cv2.resize(np.float32(a), shape)
            for a in (place[..., 0], place[..., 1], (layer.points[..., 2] + 3) * 10000)
        )
        seen = layer.mask if layer.mask is not None else np.ones(x.shape, bool)
        if not layer.two_sided:
            seen = seen & (cv2.resize(facing, shape) > -0.03)
        chosen = np.flatnonzero(seen)
        pixels.append((y.astype(np.int32) * width + x.astype(np.int32)).ravel()[chosen])
        depths.append(z.astype(np.uint16).ravel())
        samples.append(chosen + start)
        lights.append(cv2.resize(np.dstack(lit), shape).reshape(-1, 2))
        start += x.size
    depth, light_at = np.concatenate(depths), np.concatenate(lights)
    pixel, sample = np.concatenate(pixels), np.concatenate(samples).astype(np.int32)
    # Nearest last: of the samples in a pixel the last one stays. 16 bits sort in linear time.
    order = np.argsort(depth[sample], kind="stable")
    index = np.full(height * width, -1, np.int32)
    index[pixel[order]] = sample[order]
    index = _close_holes(index.reshape(size), depth)
    filled = index >= 0
    sample = index[filled]
    colour = np.concatenate([layer.colour.reshape(-1, 3) for layer in layers])[sample]
    picture = np.zeros((height, width, 4), np.float32)
    values = np.full((len(sample), 4), 255, np.float32)
    values[:, :3] = colour * light_at[sample, :1] + light_at[sample, 1:]
    picture[filled] = np.minimum(values, 255)
    return picture


def _close_holes(index: Int[ndarray, "h w"], depth: UInt16[ndarray, " n"]) -> Int[ndarray, "h w"]:
    """Gives pixels that are empty, or far behind both their neighbours, a neighbour's sample."""
    image = np.where(index >= 0, depth[index], np.uint16(0))
    for before, after in ((np.s_[1:-1, :-2], np.s_[1:-1, 2:]), (np.s_[:-2, 1:-1], np.s_[2:, 1:-1])):
        middle = np.s_[1:-1, 1:-1]
        # A difference of 600 is 0.06 units of depth.
        hole = np.flatnonzero(
            np.minimum(image[before], image[after]) > image[middle] + np.uint16(600)
        )
        index[middle].flat[hole] = index[before].ravel()[hole]
        image[middle].flat[hole] = image[before].ravel()[hole]
    return index


def _is_covered(painter: Painter, turn: ndarray) -> Bool[ndarray, "98"]:
    """Landmarks under painted hair, a scarf or dark glasses."""
    p, xy = painter.surface.p, painter.surface.landmarks
    cells = painter.grid(xy)
    cells[:33] = painter.cells(*contour_angles(painter.surface))
    column, row = np.rint(cells).astype(int).T
    covered = painter.cover[row, np.clip(column, 0, painter.shape[1] - 1)] > 0
    if p.glasses == "dark":
        x, y = np.abs(xy[:, 0]), xy[:, 1]
        lens = (np.abs(x - 0.45) / 0.36) ** 3 + (np.abs(y - 0.02) / 0.25) ** 3 < 1
        covered[33:] |= lens[33:]
    return covered


def render_head(p: HeadParameters, width_px: Number, *, oversampling: float = 1.5) -> Head:
    """Draws a head; its leftmost and its rightmost landmark lie `width_px` apart."""
    rng = np.random.default_rng(p.seed)
    surface = Surface(p)
    turn = rotation(p.yaw, p.pitch, p.roll)
    body = rotation(0.35 * p.yaw, 0.0, 0.25 * p.roll)
    marks = project(landmarks_in_space(surface, turn))
    final_unit = width_px / np.ptp(marks[:, 0])
    unit = float(np.clip(oversampling * final_unit, 60, 115))

    density = 1.15 * unit  # samples in a unit, a little more than pixels
    shape = round(1.5 * np.pi * density), round(2 * _LINEAR_SHARE * np.pi * density)
    painter = paint(surface, shape, rng)
    layers = [_head_layer(painter, turn)]
    side = (round(1.7 * density), round(3.0 * density))
    layers.append(_neck_layer(p, turn, body, side, p.skin))
    if p.hair == "long":
        side = (round((p.hair_length + 0.9) * density), round(5.0 * density))
        layers.append(_long_hair_layer(p, turn, body, side, rng))
    else:
        layers += _ear_layers(p, turn, density)
    if p.glasses != "none":
        layers += _glasses_layers(p, turn, density)

    # The final tile and the fine one cover the same square, edge on edge.
    low, high = np.array([-2.0, -2.15]), np.array([2.0, 2.45])
    final = np.ceil((high - low) * final_unit).astype(int)
    fine = np.round(final * unit / final_unit).astype(int)
    scale = fine / final
    origin = -low * unit - 0.5
    picture = _splat(layers, p.light, unit, origin, (int(fine[1]), int(fine[0])))
    tile = cv2.resize(picture, final.tolist(), interpolation=cv2.INTER_AREA)
    landmarks = (marks * unit + origin + 0.5) / scale - 0.5
    neck = (project(np.array([0, 1.9, -0.3]) @ body.T) * unit + origin + 0.5) / scale - 0.5
    return Head(
        np.round(tile).astype(np.uint8),
        landmarks.astype(np.float32),
        _is_covered(painter, turn),
        unit / float(scale[0]),
        neck.astype(np.float32),
    )


# --- sampling ----------------------------------------------------------------------------------

_SKINS = np.array([
    [250, 214, 190], [240, 196, 165], [226, 178, 146], [205, 152, 118],
    [170, 118, 86], [130, 86, 62], [96, 62, 46],
], float)  # fmt: skip
_HAIRS = np.array([
    [28, 22, 20], [58, 38, 26], [92, 60, 36], [140, 96, 52], [206, 168, 104],
    [160, 70, 34], [168, 166, 164], [225, 222, 216],
], float)  # fmt: skip
_LIPSTICKS = np.array([[190.0, 20, 40], [150, 20, 70], [220, 60, 100], [110, 15, 40]])
_IRISES = ((88, 56, 34), (60, 40, 28), (96, 120, 150), (84, 124, 92), (120, 100, 60))


def sample_light(rng: np.random.Generator, unusual_share: float = 0.28) -> Light:
    """A usual light, or one that is dark, bright, hard from the side or coloured."""
    x, y = rng.normal(0, 0.5), rng.normal(-0.45, 0.25)
    light = Light((x, y, 1.0), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.7))
    if rng.random() >= unusual_share:
        return dataclasses.replace(light, exposure=rng.uniform(0.8, 1.2))
    kind = rng.integers(4)
    if kind == 0:
        return dataclasses.replace(light, exposure=rng.uniform(0.26, 0.5))
    if kind == 1:
        return dataclasses.replace(light, exposure=rng.uniform(1.45, 1.75))
    if kind == 2:
        direction = (rng.choice([-1, 1]) * rng.uniform(0.9, 1.2), rng.normal(-0.2, 0.2), 0.3)
        return Light(direction, rng.uniform(0.12, 0.25), rng.uniform(0.85, 1.1))
    colour = rng.uniform(145, 200, 3)
    colour[rng.integers(3)] = 255
    return dataclasses.replace(light, colour=tuple(colour))


def _sample_pose(rng: np.random.Generator) -> dict[str, Any]:
    if rng.random() < 0.075:
        yaw = rng.choice([-1, 1]) * rng.uniform(38, 70)
    else:
        yaw = np.clip(rng.normal(0, 19), -50, 50)
    pitch, roll = np.clip(rng.normal(0, [11, 11]), -34, 40)
    return {"yaw": float(yaw), "pitch": float(pitch), "roll": float(roll)}


def _sample_expression(rng: np.random.Generator) -> dict[str, Any]:
    kind = rng.choice(
        ["calm", "talking", "smiling", "gaping", "laughing", "shut", "kiss", "sad"],
        p=[0.4, 0.18, 0.29, 0.045, 0.04, 0.02, 0.012, 0.013],
    )
    calm = {
        "smile": rng.normal(0.05, 0.2), "frown": max(0.0, rng.normal(0, 0.3)),
        "brow_raise": rng.normal(0, 0.35),
        "eyes_open": float(np.clip(rng.normal(1, 0.15), 0.6, 1.3)),
        "gaze": tuple(np.clip(rng.normal(0, 0.5, 2), -1, 1)),
    }  # fmt: skip
    change = {
        "calm": {}, "talking": {"mouth_open": rng.uniform(0.08, 0.35)},
        "smiling": {"smile": rng.uniform(0.3, 0.78), "mouth_open": rng.choice([0, 0.18])},
        "gaping": {"mouth_open": rng.uniform(0.5, 1), "brow_raise": rng.uniform(0, 1)},
        "laughing": {"mouth_open": rng.uniform(0.4, 0.7), "smile": rng.uniform(0.8, 1.1),
                     "eyes_open": rng.uniform(0.45, 0.8)},
        "shut": {"eyes_open": rng.uniform(0.03, 0.2)},
        "kiss": {"pucker": rng.uniform(0.75, 1)}, "sad": {"smile": rng.uniform(-1.2, -0.85)},
    }[kind]  # fmt: skip
    return calm | change


def _sample_shape(rng: np.random.Generator) -> dict[str, Any]:
    def around(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.standard_normal(), -2.2, 2.2))

    return {
        "crown": around(1.5, 0.06), "chin": around(1.46, 0.08), "jaw": around(2.1, 0.16),
        "eye_x": around(0.42, 0.022), "eye_width": around(0.225, 0.016),
        "eye_height": around(0.108, 0.018), "eye_tilt": around(0.06, 0.08),
        "brow_y": around(-0.3, 0.035), "brow_arch": around(0.06, 0.03),
        "brow_thickness": around(0.085, 0.02), "nose_length": around(0.59, 0.055),
        "nose_width": around(0.2, 0.03), "nose_height": around(0.36, 0.06),
        "mouth_y": around(0.97, 0.045), "mouth_width": around(0.36, 0.04),
        "lip": around(0.1, 0.024), "wobble": tuple(rng.normal(0, [0.02, 0.012, 0.012, 0.02])),
    }  # fmt: skip


def sample_head(rng: np.random.Generator, light: Light | None = None) -> HeadParameters:
    """A head drawn at random; `light` makes several heads share a picture's lamp."""
    shape, pose, expression = _sample_shape(rng), _sample_pose(rng), _sample_expression(rng)
    tone = rng.uniform(0, len(_SKINS) - 1)
    skin = (1 - tone % 1) * _SKINS[int(tone)] + tone % 1 * _SKINS[int(tone) + 1]
    skin = skin + rng.normal(0, 5, 3)
    hair_colour = _HAIRS[rng.integers(3 if tone > 4 else len(_HAIRS))] * rng.uniform(0.8, 1.15)
    made_up, female = rng.random() < 0.085, rng.random() < 0.5
    hair = rng.choice(
        ["bald", "ring", "short", "fringe", "long"],
        p=[0.0, 0.0, 0.3, 0.1, 0.6] if female or made_up else [0.13, 0.07, 0.7, 0.06, 0.04],
    )
    lips = np.array(_mix(tuple(skin * 0.82), (170, 50, 55), rng.uniform(0.2, 0.45)))
    lipstick = made_up and rng.random() < 0.8
    if lipstick:
        lips = _LIPSTICKS[rng.integers(4)]
    shadowed = made_up and (not lipstick or rng.random() < 0.7)
    bearded = not female and not made_up and rng.random() < 0.45
    return HeadParameters(
        **shape, **pose, **expression,
        skin=tuple(np.clip(skin, 30, 255)), lip_colour=tuple(lips), lipstick=lipstick,
        iris=_IRISES[rng.integers(2 if tone > 3.5 else len(_IRISES))],
        hair_colour=tuple(np.clip(hair_colour, 12, 240)), hair=str(hair),
        hairline=rng.uniform(-1.02, -0.75), part=rng.normal(0, 0.09),
        hair_thickness=rng.uniform(0.06, 0.26),
        hair_length=rng.uniform(1.1, 2.3), brow_strength=rng.uniform(0.55, 0.95),
        beard=rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.8, 0.95)]) if bearded else 0.0,
        eye_shadow=rng.uniform(0.45, 0.8) if shadowed else 0.0,
        shadow_colour=tuple(rng.uniform([40, 20, 60], [160, 110, 200])),
        blush=rng.uniform(0.4, 1) if made_up else rng.uniform(0, 0.25),
        glasses=str(rng.choice(["none", "frame", "dark"], p=[0.82, 0.11, 0.07])),
        scarf=rng.uniform(0.6, 1.0) if rng.random() < 0.05 else 0.0,
        scarf_colour=tuple(rng.uniform(40, 230, 3)), texture=rng.uniform(0.6, 1.3),
        freckles=int(rng.choice([0, 30], p=[0.85, 0.15])), seed=int(rng.integers(2**31)),
        light=light or sample_light(rng),
    )  # fmt: skip
