"""The brush: fills and draws shapes of the frontal plane on a dense grid of the head's surface."""

import functools

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax.drawing.parameters import Colour, Number
from flm_jax.drawing.surface import Surface, column_longitude, section_longitude

_ANGLE = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLE), np.sin(_ANGLE)], 1)


@functools.cache
def _catmull_rom(count: int, steps: int) -> Float[ndarray, "m n"]:
    """What the points are weighted with in each point of the curve."""
    points = np.eye(count)
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = (np.arange(steps) / steps)[:, None, None]
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    curve = b + t * (
        (c - a) / 2 + t * (a - 2.5 * b + 2 * c - d / 2 + t * (1.5 * (b - c) + (d - a) / 2))
    )
    return np.vstack([curve.swapaxes(0, 1).reshape(-1, count), points[-1:]])


def spline(points: Float[ndarray, "n 2"], steps: int = 6) -> Float[ndarray, "m 2"]:
    """A Catmull-Rom curve through the points, ends included."""
    return _catmull_rom(len(points), steps) @ points


def outline(points: Float[ndarray, "98 2"], *chains: list[int]) -> Float[ndarray, "m 2"]:
    """The closed curve of several splines, one after the other."""
    return np.vstack([spline(points[chain]) for chain in chains])


def disc(centre, rx: float, ry: float) -> Float[ndarray, "24 2"]:
    """An ellipse as a polygon."""
    return centre + _CIRCLE * (rx, ry)


class Painter:
    """Paints shapes, given in the frontal plane, on the dense grid of the head's surface."""

    def __init__(self, surface: Surface, shape: tuple[int, int], rng: np.random.Generator):
        self.surface, self.shape, self.rng = surface, shape, rng
        self.colour = np.empty((*shape, 3), np.uint8)
        self.cover = np.zeros(shape, np.uint8)
        self.unit = shape[0] / np.pi / 1.5  # grid rows in a unit, about the eyes
        u = np.linspace(-1, 1, 2001)
        self._table = column_longitude(u), u
        # Tables of what `angles` and `cells` find: rows, middles and widths at even heights, and
        # columns by the share of the width.
        y = np.linspace(-surface.p.crown, surface.bottom, 400)
        sine = surface.sine(y)
        left, right = (surface.base(np.full(400, a), sine)[:, 0] for a in (-np.pi / 2, np.pi / 2))
        rows = self.cells(np.zeros(400), sine)[:, 1]
        self._by_height = np.stack([rows, (right + left) / 2, (right - left) / 2], 1)
        self._top, self._step = y[0], y[1] - y[0]
        share = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 600))
        self._by_share = share, self.cells(section_longitude(share), np.zeros(600))[:, 0]

    def grid(self, xy: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Columns and rows of points of the frontal plane."""
        place = np.minimum(np.maximum((xy[:, 1] - self._top) / self._step, 0), 398.999)
        at = place.astype(int)
        above = self._by_height[at]
        found = above + (place - at)[:, None] * (self._by_height[at + 1] - above)
        column = np.interp((xy[:, 0] - found[:, 1]) / found[:, 2], *self._by_share)
        return np.stack([column, found[:, 0]], -1)

    def cells(self, longitude: ndarray, sine: ndarray) -> Float[ndarray, "n 2"]:
        column = (np.interp(longitude, *self._table) + 1) / 2 * self.shape[1] - 0.5
        row = (np.arcsin(sine) / np.pi + 0.5) * self.shape[0] - 0.5
        return np.stack([column, row], -1)

    def fixed(self, xy: ndarray) -> ndarray:
        """Columns and rows as OpenCV draws them, with 4 fractional bits."""
        return np.round(self.grid(xy) * 16).astype(np.int32)

    def rings(self, centre: ndarray, radius: float, fills: list[tuple[float, Colour]]) -> None:
        """Fills discs about a centre, each of a share of the radius, one on another."""
        edge = self.grid(disc(centre, radius, radius))
        middle = edge.mean(0)
        for share, colour in fills:
            points = np.round((middle + share * (edge - middle)) * 16).astype(np.int32)
            cv2.fillPoly(self.colour, [points], colour, cv2.LINE_AA, 4)

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
        x, y, w, h = cv2.boundingRect(points)
        left, top = max(x // 16 - pad, 0), max(y // 16 - pad, 0)
        right = min((x + w) // 16 + pad + 1, self.shape[1])
        bottom = min((y + h) // 16 + pad + 1, self.shape[0])
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        draw(mask, np.array([left * 16, top * 16], np.int32))
        if soft:
            mask = cv2.GaussianBlur(mask, (0, 0), soft * self.unit)
        region = self.colour[top:bottom, left:right]
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
