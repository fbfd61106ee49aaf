"""What lies on the skin: wrinkles and face paint."""

import numpy as np

from flm_jax.drawing.painter import Painter, disc, spline
from flm_jax.drawing.parameters import shade


def paint_wrinkles(painter: Painter) -> None:
    """Lines across the forehead, beside the eyes and from the nose to the mouth."""
    p, marks, rng = painter.surface.p, painter.surface.landmarks, painter.rng
    if p.wrinkles <= 0:
        return
    dark = shade(p.skin, 0.6)
    for y in np.arange(p.brow_y - 0.15, p.hairline, -0.12):
        x = np.linspace(-0.6, 0.6, 7) * rng.uniform(0.7, 1)
        line = np.stack([x, y + rng.normal(0, 0.012, 7)], 1)
        painter.line(line, dark, 0.018, 0.5 * p.wrinkles, 0.008)
    for side, corner, mouth in ((-1, 60, 76), (1, 72, 82)):
        for slope in (-0.12, -0.02, 0.08):
            feet = marks[corner] + np.array([[0.05, 0.3 * slope], [0.18, 1.3 * slope]]) * [side, 1]
            painter.line(feet, dark, 0.014, 0.55 * p.wrinkles)
        bag = spline(marks[[corner, corner + 7 if side < 0 else 73, 64 if side < 0 else 68]])
        painter.line(bag + np.array([0, 0.075]), dark, 0.02, 0.5 * p.wrinkles, 0.012)
        fold = [[side * (p.nose_width + 0.06), p.nose_length + 0.05],
                marks[mouth] + [side * 0.09, -0.02], marks[mouth] + [side * 0.1, 0.22]]  # fmt: skip
        painter.line(spline(np.array(fold)), dark, 0.03, 0.6 * p.wrinkles, 0.012)


def paint_face_paint(painter: Painter) -> None:
    """A clown's face, stripes, a painted half or patches."""
    p, marks, rng = painter.surface.p, painter.surface.landmarks, painter.rng
    colour, white = p.paint_colour, (240.0, 238.0, 235.0)
    if p.face_paint == "clown":
        for x in (-p.eye_x, p.eye_x):
            painter.fill(disc((x, -0.02), 0.3, 0.3), white, 0.6, 0.02)
        painter.fill(disc((0, marks[85, 1] - 0.06), 0.5, 0.27), colour, 0.7, 0.02)
        painter.fill(disc((0, p.nose_length), 0.15, 0.13), (210.0, 30.0, 35.0), 0.95, 0.01)
    elif p.face_paint == "stripes":
        for side in (-1, 1):
            for y in np.linspace(-0.5, 1.2, 7) + rng.normal(0, 0.04, 7):
                stripe = [[side * 0.95, y], [side * 0.55, y + 0.07], [side * 0.22, y + 0.02]]
                painter.line(spline(np.array(stripe)), colour, rng.uniform(0.04, 0.1), 0.85, 0.01)
    elif p.face_paint == "half":
        side = 1 if p.seed % 2 else -1
        corners = np.array([[0, -1.2], [side * 0.99, -0.9], [side * 0.99, 1.1], [0, 1.45]])
        painter.fill(spline(corners), colour, 0.6, 0.02)
    elif p.face_paint == "patches":
        for _ in range(5):
            place = rng.uniform([-0.75, -0.6], [0.75, 1.2])
            tone = colour if rng.random() < 0.5 else tuple(rng.uniform(20, 250, 3))
            painter.fill(disc(place, *rng.uniform(0.06, 0.22, 2)), tone, 0.75, 0.02)
