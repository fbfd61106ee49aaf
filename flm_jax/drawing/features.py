"""Paints a whole head: skin with beard and make-up, nose, eyes, brows, mouth, hair, scarf."""

import cv2
import numpy as np
from numpy import ndarray

from flm_jax.drawing.hair import beard_area, hairline, paint_hair, paint_strands
from flm_jax.drawing.headwear import paint_headwear
from flm_jax.drawing.make_up import paint_face_paint, paint_wrinkles
from flm_jax.drawing.painter import Painter, disc, outline, spline
from flm_jax.drawing.parameters import Colour, mix, shade
from flm_jax.drawing.surface import Surface, grid_longitude, grid_sine, jaw_plane

_UPPER_LIDS = (list(range(60, 65)), list(range(68, 73)))
_LOWER_LIDS = ([64, 65, 66, 67, 60], [72, 73, 74, 75, 68])
_BROWS = (
    ([33, 34, 35, 36, 37], [38, 39, 40, 41, 33]),
    ([42, 43, 44, 45, 46], [46, 47, 48, 49, 50]),
)
_OUTER_LIP = (list(range(76, 83)), [82, 83, 84, 85, 86, 87, 76])
_INNER_LIP = (list(range(88, 93)), [92, 93, 94, 95, 88])


def paint(surface: Surface, shape: tuple[int, int], rng: np.random.Generator) -> Painter:
    """Paints the whole head."""
    painter = Painter(surface, shape, rng)
    _paint_skin(painter)
    paint_wrinkles(painter)
    _paint_nose(painter)
    for side in (0, 1):
        _paint_eye(painter, side)
        _paint_brow(painter, side)
    _paint_mouth(painter)
    paint_face_paint(painter)
    paint_hair(painter)
    paint_strands(painter)
    _paint_shadow(painter)
    paint_headwear(painter)
    return painter


def _paint_skin(painter: Painter) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    rows, columns = 44, 48
    longitude = grid_longitude(columns)[None].astype(np.float32)
    sine = grid_sine(rows)[:, None].astype(np.float32)
    points = painter.surface.base(longitude, sine)
    x, y, front = np.abs(points[..., 0]), points[..., 1], np.cos(longitude) > 0
    skin = np.broadcast_to(np.array(p.skin, np.float32), (rows, columns, 3)).copy()

    def tint(colour: Colour, opacity: float, cx, cy, sx, sy) -> None:
        alpha = opacity * np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2) * front
        skin[:] += alpha[..., None] * (np.array(colour, np.float32) - skin)

    flush, dim = mix(p.skin, (200, 70, 60), 0.5), shade(p.skin, 0.62)
    tint(flush, 0.35 + 0.2 * p.blush, 0.55, 0.45, 0.22, 0.22)
    tint(flush, 0.3, 0, p.nose_length, 0.2, 0.13)
    tint((205, 60, 80), 0.6 * p.blush, 0.62, 0.4, 0.2, 0.14)
    # Around the eyes, under them, and beside the nose's root.
    tint(dim, p.sockets, p.eye_x * 0.85, 0.02, 0.3, 0.16)
    tint(dim, 1.6 * p.sockets, p.eye_x, 0.1, 0.22, 0.07)
    tint(dim, 0.8 * p.sockets, p.eye_x - p.eye_width, -0.02, 0.1, 0.14)
    tint(shade(p.skin, 1.25), 0.5, 0, p.nose_length - 0.05, 0.09, 0.1)
    # Under the lips, and the chin.
    tint(shade(p.skin, 0.55), 0.4, 0, marks[85, 1] + 0.12, 0.2, 0.06)
    tint(dim, 0.3, 0, painter.surface.bottom - 0.1, 0.4, 0.2)
    if p.eye_shadow:
        tint(p.shadow_colour, p.eye_shadow, p.eye_x + 0.04, -0.1, 0.25, 0.11)
    if p.beard:
        hair = mix(p.skin, p.hair_colour, 0.95 if p.beard > 0.5 else 0.75)
        area = beard_area(p, marks, x, y, longitude)
        skin += (area * p.beard)[..., None] * (np.array(hair, np.float32) - skin)
    # Behind the jaw's line it is darker, as under a chin.
    level = np.sqrt(1 - sine**2)
    jaw = jaw_plane(p, level * np.sin(longitude))
    behind = jaw / np.hypot(1, jaw) - level * np.cos(longitude)
    under = np.clip(behind / 0.16 - 0.4, 0, 1) * np.clip((y - 0.4) / 0.3, 0, 1)
    skin *= 1 - 0.55 * p.chin_shadow * under[..., None]
    skin *= 1 - 0.35 * np.clip(1 + (hairline(p, longitude) - y) / 0.12, 0, 1)[..., None]
    # Skin is smooth: half of the grid's resolution is enough.
    half = painter.shape[1] // 2, painter.shape[0] // 2
    skin = cv2.resize(skin.astype(np.float32), half)
    if p.beard > 0.5 and p.texture:
        strands = 0.25 * painter.noise((half[1] // 8, half[0] // 3), half)
        skin *= 1 + (strands * cv2.resize(area.astype(np.float32), half))[..., None]
    if p.texture:
        mottle = painter.noise((20, 26), half) * 0.03
        mottle += painter.noise((half[1] // 3, half[0] // 3), half) * 0.025
        skin *= 1 + np.float32(p.texture) * mottle[..., None]
    skin = np.clip(skin, 0, 255).astype(np.uint8)
    cv2.resize(skin, painter.shape[::-1], dst=painter.colour)
    spots = painter.rng.uniform([-0.75, 0.1], [0.75, 0.75], (p.freckles, 2))
    painter.strokes(spots, spots + 0.01, shade(p.skin, 0.75), 0.022)


def _paint_shadow(painter: Painter) -> None:
    """What a brim, or something beside the head, keeps the light off."""
    strength, direction, place = painter.surface.p.shadow
    if not strength:
        return
    rows, columns = 44, 96
    longitude, sine = grid_longitude(columns)[None], grid_sine(rows)[:, None]
    points = painter.surface.base(longitude, sine)
    inside = points[..., 0] * np.sin(direction) - points[..., 1] * np.cos(direction) - place
    dark = 1 - strength * np.clip(inside / 0.1 + 0.5, 0, 1)
    dark = cv2.resize(dark.astype(np.float32), painter.shape[::-1])
    cv2.multiply(painter.colour, cv2.merge([dark] * 3), painter.colour, dtype=cv2.CV_8U)


def _paint_nose(painter: Painter) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    dark, force = shade(p.skin, 0.55), p.line_strength
    below = disc((0, p.nose_length + 0.13), p.nose_width * 0.9, 0.05)
    painter.fill(below, dark, 0.08 * force, 0.03)
    painter.line(spline(marks[55:60]), dark, 0.025, 0.2 * force, 0.008)
    for side in (-1, 1):
        nostril = disc((side * p.nose_width * 0.5, p.nose_length + 0.068), 0.06, 0.026)
        painter.fill(nostril, shade(p.skin, 0.28), 0.75 * force, 0.008)
        wing = np.array([[0.9, -0.1], [1.12, -0.04], [1.15, 0.03], [1.0, 0.07]])
        wing = wing * [side * p.nose_width, 1] + [0, p.nose_length]
        painter.line(spline(wing), dark, 0.025, 0.6 * force, 0.01)
        corner = marks[82 if side > 0 else 76]
        fold = [[side * (p.nose_width + 0.05), p.nose_length], corner * [1.15, 1] - [0, 0.06]]
        middle = (np.sum(fold, 0) / 2) * [1.12, 1]
        strength = 0.1 + 0.45 * np.clip(p.smile, 0, 1)
        painter.line(spline(np.array([fold[0], middle, fold[1]])), dark, 0.04, strength, 0.02)


def _paint_eye(painter: Painter, side: int) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    upper, lower = spline(marks[_UPPER_LIDS[side]]), spline(marks[_LOWER_LIDS[side]])
    eye, pupil = np.vstack([upper, lower]), marks[96 + side] + [0, 0.006]
    dark = mix(shade(p.skin, 0.3), (25, 18, 16), 0.6)
    # The box that holds all that is painted of the eye.
    cells = painter.grid(pupil + np.array([[-0.3, -0.3], [0.3, 0.3]]))
    (left, top), (right, bottom) = np.clip(cells, 0, painter.shape[::-1]).astype(int)
    box = np.s_[top:bottom, left:right]
    skin = painter.colour[box].copy()
    painter.fill(eye, shade((242, 238, 234), p.eye_white))
    radius = 0.47 * p.eye_width
    iris = [(1, shade(p.iris, 0.55)), (0.84, p.iris), (0.6, shade(p.iris, 1.2))]
    painter.rings(pupil, radius, [*iris, (0.44, (10, 8, 8))])
    painter.line(upper + np.array([0, 0.02]), (60, 45, 45), 0.05, 0.45, 0.015)
    # What the lids hide is skin again.
    mask = np.zeros(skin.shape[:2], np.uint8)
    cv2.fillPoly(mask, [painter.fixed(eye) - np.array([left, top]) * 16], 255, cv2.LINE_AA, 4)
    alpha = mask[..., None].astype(np.float32) / 255
    painter.colour[box] = skin + alpha * (painter.colour[box] - skin.astype(np.float32))
    lash = 0.045 if p.made_up else 0.032
    painter.line(upper + np.array([0, 0.013]), dark, lash, 0.95)
    painter.line(lower + np.array([0, 0.006]), dark, 0.014, 0.5 if p.made_up else 0.35)
    crease = upper * [1, 0.8] - [0, 0.055 + 0.02 * p.eyes_open]
    painter.line(crease, shade(p.skin, 0.55), 0.02, 0.55 * p.line_strength, 0.006)
    glint = pupil - 0.03
    if p.eyes_open > 0.6:
        painter.fill(disc(glint, 0.018, 0.018), (255, 255, 255), p.glint)


def _paint_brow(painter: Painter, side: int) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    upper, lower = _BROWS[side]
    below = [i for i in lower if i not in upper]
    tail = upper[3:] if side else upper[:2]
    # Annotators put their points on the outer side of the hair, and short of its end.
    ink = marks.copy()
    ink[upper, 1] += 0.016
    ink[below, 1] -= 0.006
    ink[tail] += [0.012 * (2 * side - 1), 0.028]
    curve = outline(ink, *_BROWS[side])
    colour = mix(p.hair_colour, (30, 22, 18), 0.35)
    painter.fill(curve, colour, p.brow_strength, 0.008)
    if p.texture:
        share = painter.rng.uniform(0, 1, (14, 1))
        start = spline(ink[upper])[painter.rng.integers(0, 20, 14)]
        down = ink[lower].mean(0) - ink[upper].mean(0)
        end = start + [0.05 * (2 * side - 1), 0.0] + share * down
        painter.strokes(start, end, mix(shade(colour, 0.7), p.skin, 0.2), 0.012)


def _paint_mouth(painter: Painter) -> None:
    p, marks = painter.surface.p, painter.surface.landmarks
    lips, inner = outline(marks, *_OUTER_LIP), outline(marks, *_INNER_LIP)
    painter.fill(lips, p.lip_colour, 1.0 if p.lipstick else 0.85, 0.004)
    upper = np.vstack([spline(marks[76:83]), spline(marks[[92, 91, 90, 89, 88]])])
    painter.fill(upper, shade(p.lip_colour, 0.7), 0.75)
    shine = marks[85] * [1, 0.5] + marks[94] * [0, 0.5]
    painter.fill(
        disc(shine, p.mouth_width * 0.3, 0.02), mix(p.lip_colour, (255,) * 3, 0.5), 0.5, 0.02
    )
    gap = marks[94, 1] - marks[90, 1]
    if gap > 0.03:
        _paint_open_mouth(painter, inner, gap)
    middle = (marks[[88, 89, 90, 91, 92]] + marks[[88, 95, 94, 93, 92]]) / 2
    if gap <= 0.03:
        painter.line(spline(middle), shade(p.lip_colour, 0.3), 0.022, 0.9)
    for corner in (76, 82):
        painter.fill(disc(marks[corner], 0.03, 0.03), shade(p.skin, 0.5), 0.5, 0.02)


def _paint_open_mouth(painter: Painter, inner: ndarray, gap: float) -> None:
    p, marks, rng = painter.surface.p, painter.surface.landmarks, painter.rng
    painter.fill(inner, (52, 18, 20))
    if gap > 0.16:
        reach = rng.uniform(0.25, 0.42)
        tongue = disc(marks[94] - [0, reach * 0.4 * gap], p.mouth_width * 0.5, gap * reach)
        painter.fill(tongue, (175, 75, 80), 0.9, 0.01)
    # Teeth follow the lips; a shout shows the lower ones, too.
    tooth = shade((236, 230, 220), rng.uniform(0.75, 1.05))
    rows = [(marks[88:93], 1, min(rng.uniform(0.35, 0.9) * gap, 0.12))]
    if gap > 0.2 and rng.random() < 0.6:
        rows.append((marks[[88, 95, 94, 93, 92]], -1, 0.07))
    for lip, down, height in rows:
        edge = spline(lip) * [0.86, 1] + [0, 0.015 * down]  # in the lip's shadow
        depth = down * height * (1 - (np.linspace(-1, 1, len(edge)) ** 2) ** 2)
        painter.fill(np.vstack([edge, (edge + np.stack([0 * depth, depth], 1))[::-1]]), tooth)
    painter.line(spline(marks[[92, 93, 94, 95, 88]]), shade(p.lip_colour, 0.8), 0.02)
