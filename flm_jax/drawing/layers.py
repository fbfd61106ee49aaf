"""The surfaces that a head is put together from: the skull, ears, neck, long hair and glasses."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from flm_jax.drawing import headwear
from flm_jax.drawing.hair import hair_amount, hair_paint
from flm_jax.drawing.painter import Painter
from flm_jax.drawing.parameters import HeadParameters, Number, mix
from flm_jax.drawing.surface import Surface, grid_longitude, grid_sine, rotation

_NECK_REACH = 2.7  # how far round the neck is drawn on either side, in radians


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


def head_layer(painter: Painter, turn: ndarray, shape: tuple[int, int]) -> Layer:
    """The painted head, thicker where hair or cloth lies on it; `shape` of its coarse grid."""
    surface, p = painter.surface, painter.surface.p
    rows, columns = shape
    longitude = grid_longitude(columns)[None].astype(np.float32)
    sine = grid_sine(rows)[:, None].astype(np.float32)
    points = surface.base(longitude, sine)
    outwards = points * [1, 0.9, 0.8]
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    lifted = points.copy()
    # Behind the ears and about the crown nothing is raised.
    front = np.flatnonzero(np.cos(longitude[0]) > 0)
    part = np.s_[rows // 4 :, front[0] : front[-1] + 1]
    lifted[part] = surface.raise_relief(points[part], longitude[:, part[1]])
    thickness = p.hair_thickness + p.hair_height * np.clip(-1.4 * sine, 0, 1)
    if p.curl:
        bumps = np.random.default_rng(p.seed).standard_normal((14, 20), np.float32)
        thickness = thickness * (1 + 0.5 * p.curl * cv2.resize(bumps, (columns, rows)))
    thickness = np.maximum(thickness, 0.03) * hair_amount(p, longitude, sine, 0.3)
    # Samples would spread too far apart on a steep step.
    thickness = cv2.GaussianBlur(thickness, (0, 0), 3.0)
    if p.beard > 0.5 and p.beard_kind == "full":
        grown = np.clip((points[..., 1] - p.mouth_y) / 0.5, 0, 1)
        grown = grown * np.clip(2 * np.cos(longitude), 0, 1)
        thickness = thickness + p.beard_length * cv2.GaussianBlur(grown, (0, 0), 1.5)
    if p.headwear != "none" or p.scarf:
        worn = headwear.thickness(p, longitude, points[..., 1])
        thickness = np.maximum(thickness, cv2.GaussianBlur(worn, (0, 0), 1.5))
    points = (lifted + outwards * thickness[..., None]) @ turn.T
    return Layer(points, painter.colour, shine=p.shine)


def ear_layers(p: HeadParameters, turn: ndarray, unit: float) -> list[Layer]:
    """Two flat ellipsoids beside the head, dark in their hollows; `unit`: samples in a unit."""
    n = max(24, int(unit * 0.75))
    a, b = np.meshgrid(np.linspace(0, np.pi, 24), np.linspace(-np.pi, np.pi, 32), indexing="ij")
    local = np.stack([0.08 * np.sin(a) * np.cos(b), -np.cos(a), np.sin(a) * np.sin(b)], -1)
    a = np.linspace(0, np.pi, n)[:, None]
    b = np.linspace(-np.pi, np.pi, int(1.4 * n))[None]
    y, z = -np.cos(a), np.sin(a) * np.sin(b)
    hollow = np.exp(-(((z - 0.15) / 0.45) ** 2) - ((y - 0.02) / 0.6) ** 2) > 0.6
    layers = []
    for side in (-1, 1):
        if side * p.yaw > 35:  # Behind the head.
            continue
        placed = local * [1, 0.34, 0.2]
        placed[..., 1] -= 0.25 * placed[..., 2]
        placed = placed @ rotation(-24.0 * side, 0.0, 6.0 * side).T
        placed += [side * 1.07 * p.breadth, 0.3, -0.56]
        colour = np.where(hollow[..., None], 0.62, 0.95) * mix(p.skin, (200, 80, 70), 0.15)
        layers.append(Layer(placed @ turn.T, colour.astype(np.uint8)))
    return layers


def neck_layer(p: HeadParameters, turn: ndarray, body: ndarray, shape) -> Layer:
    """The neck with beard and collar, which turns with the head at its top, with the body below."""
    t = np.linspace(0, 1, 24)[:, None]
    around = np.linspace(-_NECK_REACH, _NECK_REACH, 48)[None]
    radius = p.neck + p.flare * t**3
    deep = _neck_depth(p) + 0.25 * t**3
    x, z = radius * np.sin(around), deep * np.cos(around) - 0.48 + p.throat * (1 - t)
    y = 0.55 + t * (1.45 + 0.2 * np.cos(around))
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    blend = np.clip(t * 1.3, 0, 1)[..., None]
    points = (points @ turn.T) * (1 - blend) + (points @ body.T) * blend
    points[..., 2] -= _behind_a_lowered_chin(p) * np.minimum(2 * t, 1)
    down = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    # The chin keeps the light off the neck.
    shade = 1 - p.chin_shadow * (1 - 0.9 * np.clip((down - 0.7) / 0.5, 0, 1))
    colour = shade * np.array(p.skin, np.float32) * np.ones((1, shape[1], 1), np.float32)
    if p.beard and p.beard_kind == "full":
        amount = p.beard * np.clip(1 - 2.5 * down, 0, 1)
        colour += amount * (shade * np.array(p.hair_colour, np.float32) - colour)
    # Shoulders that are drawn up cover it, too; it is about 1.65 long.
    collar = max(p.collar, 0.6 * p.shoulders)
    if collar:
        front = np.cos(np.linspace(-_NECK_REACH, _NECK_REACH, shape[1]))[None, :, None]
        inside = down > 1 - collar + p.neckline * np.clip(front, 0, 1) ** 4
        edge = np.clip((down - 1 + collar) / 0.3, 0.0, 1.0)
        cloth = (0.75 + 0.25 * edge) * np.array(p.cloth_colour, np.float32)
        colour = np.where(inside, cloth, colour)
    return Layer(points, colour.astype(np.uint8), shine=0.0)


def _neck_depth(p: HeadParameters) -> Number:
    """Half of it: a wide neck is hardly deeper than a narrow one, and stays behind the chin."""
    return 0.8 + 0.35 * (p.neck - 0.65)


def _behind_a_lowered_chin(p: HeadParameters) -> Number:
    """How far body and neck are behind: a lowered head comes forward."""
    return 1.2 * max(0.0, -np.sin(np.radians(p.pitch)))


def lapel_layer(p: HeadParameters, body: ndarray, shape: tuple[int, int]) -> Layer:
    """A collar that stands off the neck, open in front, whose upper edge is folded down."""
    height, lean, fold, opening = p.lapels
    t = np.linspace(0, 2, 33)[:, None]
    rising, folding = np.clip(t, 0, 1), np.clip(t - 1, 0, 1)
    gap = opening * (0.15 + 0.85 * rising) * (1 - 0.5 * folding)
    around = gap + (2 * np.pi - 2 * gap) * np.linspace(0, 1, 64)[None]
    radius = p.neck + 0.06 + lean * rising + (0.1 + 0.5 * fold) * folding
    # Lower in front than in the neck, and up to the jaw.
    top = min(height, max(0.1, 1.0 - p.shoulders)) * (0.75 - 0.25 * np.cos(around))
    y = 1.85 - p.shoulders - top * rising + np.minimum(fold, 0.9 * top) * folding
    deep = _neck_depth(p) + radius - p.neck
    x, z = radius * np.sin(around), deep * np.cos(around) - 0.48
    points = np.stack(np.broadcast_arrays(x, y, z), -1) @ body.T
    points[..., 2] -= _behind_a_lowered_chin(p)
    colour = np.full((*shape, 3), p.lapel_colour, np.uint8)
    return Layer(points, colour, two_sided=True, shine=0.0)


def long_hair_layer(p: HeadParameters, turn, body, shape, rng: np.random.Generator) -> Layer:
    """A curtain behind the face, which turns with the head at its top and hangs from there."""
    t = np.linspace(0, 1, 32)[:, None]
    front = np.radians(74 - 30 * p.hair_sides)
    around = np.linspace(front, 2 * np.pi - front, 64)[None]
    y = -0.75 + t * (p.hair_length + 0.75)
    wide = np.interp(t, [0, 0.3, 0.6, 1], [0.55, 1.11, 1.13, 1.0]) + 0.8 * p.hair_thickness
    deep = np.interp(t, [0, 0.3, 1], [0.75, 1.45, 1.1])
    wave = 0.04 * np.sin(7 * t + p.seed % 7) * (p.texture > 0)
    if p.curl:
        bumps = np.random.default_rng(p.seed).standard_normal((9, 14), np.float32)
        wave = wave + 0.16 * p.curl * cv2.resize(bumps, (64, 32))
    points = np.stack(
        np.broadcast_arrays((wide + wave) * np.sin(around), y, deep * np.cos(around) - 0.3), -1
    )
    blend = np.clip((t - 0.45) * 1.5, 0, 0.8)[..., None]
    points = (points @ turn.T) * (1 - blend) + (points @ body.T) * blend
    colour = hair_paint(p, shape, rng)
    return Layer(points, colour, two_sided=True)


def brim_layer(surface: Surface, turn: ndarray) -> list[Layer]:
    """A cap's or a hat's brim, where there is one."""
    found = headwear.brim(surface)
    return [] if found is None else [Layer(found[0] @ turn.T, found[1], None, True, 0.0)]


def glasses_layers(p: HeadParameters, turn: ndarray, unit: float) -> list[Layer]:
    """The front, with dark lenses or none, and two arms; `unit`: samples in a unit."""
    h, w = int(unit * 0.9), int(unit * 2.6)
    half_width, half_height, power = p.lens
    end = 0.45 + half_width
    x, y = np.meshgrid(np.linspace(-1.03, 1.03, 48), np.linspace(-0.4, 0.4, 16))
    points = np.stack([x, y, 1.02 - 0.2 * np.abs(x) ** 2.4], -1)
    gx = np.abs(np.linspace(-1.03, 1.03, w))[None]
    gy = np.linspace(-0.4, 0.4, h)[:, None]
    radius = (np.abs(gx - 0.45) / half_width) ** power + (np.abs(gy) / half_height) ** power
    radius = radius ** (1 / power)
    bridge = (gx < 0.5 - half_width) & (np.abs(gy + 0.06) < 0.02 + 0.2 * p.rim)
    hinge = (gx > end - 0.03) & (np.abs(gy + 0.1) < 0.03)
    rim = (radius < 1.0) & (radius > 1 - p.rim)
    mask = rim | bridge | hinge
    colour = np.full((h, w, 3), p.glasses_colour, np.uint8)
    if p.glasses == "dark":
        lens = (radius < 1) & ~rim
        # Some lenses are lighter below, or mirror the sky.
        fade = 1 + (p.seed % 3) * np.clip(0.5 + gy / 0.5, 0, 1) * np.ones_like(gx)
        colour[lens] = np.clip(fade[lens][:, None] * np.array([34, 32, 36]), 0, 255)
        mask |= lens
    arm_y, arm_z = np.meshgrid([-0.14, -0.06], np.linspace(-0.6, 0.9, 16), indexing="ij")
    layers = [Layer(points @ turn.T, colour, mask, True, 0.5)]
    for side in (-1, 1):
        if side * p.yaw > 50:  # Behind the head.
            continue
        arm = np.stack([side * (1.06 * p.breadth + 0 * arm_z), arm_y, arm_z], -1)
        arm_shape = (max(4, int(0.14 * unit)), int(1.8 * unit), 3)
        arm_colour = np.full(arm_shape, p.glasses_colour, np.uint8)
        layers.append(Layer(arm @ turn.T, arm_colour, None, True))
    return layers
