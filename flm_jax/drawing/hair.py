"""Hair: where it begins, how thick it lies, its strands, and its paint on the head."""

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax.drawing.painter import Painter, spline
from flm_jax.drawing.parameters import HeadParameters, shade
from flm_jax.drawing.surface import grid_longitude, grid_sine

# Heights of the hairline at these longitudes, in degrees, relative to the hairline in front.
_HAIR_ANGLES = [0, 18, 38, 55, 71, 92, 113, 180]
_HAIRLINES: dict[str, list] = {
    "ring": [-0.9, -0.9, -0.9, -0.9, -0.33, 0.1, 0.42, 0.9],
    "short": [0.0, 0.0, -0.06, 0.12, None, 0.07, 0.42, 0.9],
    "fringe": [0.0, 0.0, 0.0, 0.05, 0.17, 0.35, 0.5, 0.9],
    "long": [-0.08, 0.0, 0.16, 0.38, None, 0.25, 0.5, 0.9],
}


def hairline(p: HeadParameters, longitude: ndarray) -> ndarray:
    """The height y, in units, above which (smaller y) the head is covered with hair."""
    if p.hair == "bald":
        return np.full(longitude.shape, -9.0)
    line = _HAIRLINES[p.hair]
    front = p.hairline
    # In front they hang together with the hairline, at the sides with the ears.
    heights = [front + h for h in line[:4]] + [-0.37 if line[4] is None else line[4], *line[5:]]
    heights = np.array(heights) + p.hair_sides * np.array([0, 0, 0.1, 0.6, 1.5, 1.1, 0.7, 0.3])
    swept = p.part * np.sin(longitude) * (np.abs(longitude) < np.pi / 2) * np.cos(longitude) * 2
    return np.interp(np.degrees(np.abs(longitude)), _HAIR_ANGLES, heights) + swept


def hair_amount(p: HeadParameters, longitude: ndarray, sine: ndarray, ramp: float) -> ndarray:
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
    # Locks are short.
    wide = rng.standard_normal((4 + round(14 * p.curl), shape[1] // 9), np.float32)
    fine = rng.standard_normal((10 + round(shape[0] // 5 * p.curl), shape[1] // 3), np.float32)
    strands = 0.2 * cv2.resize(wide, shape[::-1]) + 0.18 * cv2.resize(fine, shape[::-1])
    levels = np.clip(strands * 100 + 128, 0, 255).astype(np.uint8)
    tones = np.maximum(1 + (np.arange(256)[:, None] - 128) / 100, 0.3)
    table = np.clip(tones * p.hair_colour, 0, 255).astype(np.uint8)
    return cv2.merge([cv2.LUT(levels, table[:, c].copy()) for c in range(3)])


def paint_hair(painter: Painter) -> None:
    """Paints the hair that lies on the head and marks it as a cover."""
    p, (h, w) = painter.surface.p, painter.shape
    if p.hair == "bald":
        return
    ragged = np.zeros(w)
    if p.texture:
        for knots, size in ((24, 0.04 + 0.06 * p.curl), (w // 3, 0.035)):
            values = painter.rng.standard_normal(knots)
            ragged += size * np.interp(np.arange(w), np.linspace(0, w, knots), values)
    sine = grid_sine(h)
    y = np.where(sine > 0, painter.surface.bottom, p.crown) * sine
    line = hairline(p, grid_longitude(w)) + ragged
    rows = slice(0, int(np.searchsorted(y, line.max())))
    inside = y[rows, None] < line
    painter.cover[rows] = inside
    hair = hair_paint(p, inside.shape, painter.rng)
    cv2.copyTo(np.ascontiguousarray(hair), painter.cover[rows], painter.colour[rows])


def beard_area(p: HeadParameters, marks: ndarray, x: ndarray, y: ndarray, longitude: ndarray):
    """How much beard grows at points of the head, 0 to 1; x is the distance from the middle."""
    if p.beard_kind == "full":
        level = marks[76, 1] - 0.26 + 0.55 * np.clip(0.5 - x, 0, 0.1)
        level = np.where(x > 0.55, level - (x - 0.55) * 1.5, level)
        return np.clip((y - level) * 9, 0, 1) * np.clip(np.cos(longitude) * 4 + 0.9, 0, 1)
    lip = marks[79, 1]
    width = p.mouth_width * 1.15
    area = np.clip(1 - np.abs(y - lip + 0.07 - 0.1 * (x / width) ** 2) / 0.11, 0, 0.6) / 0.6
    area = area * np.clip((width - x) / 0.08, 0, 1)
    if p.beard_kind == "goatee":
        ring = ((x / (width + 0.05)) ** 4 + ((y - marks[85, 1] - 0.1) / 0.48) ** 4) ** 0.25
        area = np.maximum(area, np.clip((1 - ring) * 6, 0, 1))
    return area * (np.cos(longitude) > 0)


def paint_strands(painter: Painter) -> None:
    """Locks that hang from the hairline across brow, eye and cheek."""
    p, rng = painter.surface.p, painter.rng
    side = 1 if p.seed % 2 else -1
    for _ in range(p.strands):
        x = side * rng.uniform(-0.3, 0.8)
        drop = rng.uniform(0.4, 1.7)
        start = np.array([x * 0.8, p.hairline - 0.1])
        end = np.array([np.clip(x + side * rng.uniform(0.0, 0.4), -0.9, 0.9), start[1] + drop])
        bend = (start + end) / 2 + rng.normal(0, [0.09, 0.03])
        lock = spline(np.stack([start, bend, end]))
        width = rng.uniform(0.02, 0.09)
        painter.line(lock, shade(p.hair_colour, rng.uniform(0.7, 1.3)), width, 0.95)
        thickness = max(1, round(width * painter.unit))
        cv2.polylines(painter.cover, [painter.fixed(lock)], False, 1, thickness, cv2.LINE_8, 4)
