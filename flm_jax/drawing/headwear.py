"""What is worn: beanies, caps, hats, headbands, helmets and hoods; scarves and masks."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax.drawing.painter import Painter
from flm_jax.drawing.parameters import HeadParameters, shade
from flm_jax.drawing.surface import Surface, grid_longitude, grid_sine

# Heights of the lower edge at these longitudes, in degrees, relative to the edge in front.
_ANGLES = [0, 25, 45, 65, 85, 105, 130, 180]
_EDGES = {
    "beanie": [0, 0, 0.02, 0.06, 0.1, 0.16, 0.25, 0.3],
    "cap": [0, 0.02, 0.06, 0.12, 0.2, 0.28, 0.35, 0.4],
    "hat": [0, 0.01, 0.03, 0.07, 0.12, 0.18, 0.22, 0.25],
    "band": [0, 0, 0.02, 0.06, 0.1, 0.14, 0.18, 0.2],
    "helmet": [0, 0.0, 0.04, 0.12, 0.35, 0.6, 0.8, 0.9],
    "hood": [0, 0.02, 0.12, 0.7, 3, 3, 3, 3],
}
_THICKNESS = {"beanie": 0.16, "cap": 0.12, "hat": 0.16, "band": 0.07, "helmet": 0.3, "hood": 0.14}
KINDS = tuple(_EDGES)


def _depth_inside(p: HeadParameters, longitude: ndarray, y: ndarray) -> ndarray:
    """How far inside the headwear a point of the head lies, in units; negative outside."""
    edge = np.interp(np.degrees(np.abs(longitude)), _ANGLES, _EDGES[p.headwear])
    inside = p.headwear_y + edge - y
    return np.minimum(inside, 0.3 - inside) if p.headwear == "band" else inside


def _mask_inside(p: HeadParameters, longitude: ndarray, y: ndarray) -> ndarray:
    """The same for a scarf, or a mask over nose and mouth, that reaches up by `scarf`."""
    sag = 0.1 * np.sin(longitude) ** 2 - 0.12 * np.exp(-((longitude / 0.3) ** 2))
    inside = y - (1.42 - p.scarf) - sag
    if not p.mask:
        return inside
    reach = np.radians(62) - np.abs(longitude) + 0.1 * np.cos(5 * y)
    return np.minimum(inside, reach)


def thickness(p: HeadParameters, longitude: ndarray, y: ndarray) -> ndarray:
    """How far cloth lies above the skin, in units."""
    total = np.zeros(np.broadcast_shapes(longitude.shape, y.shape))
    if p.headwear != "none":
        inside = np.clip(_depth_inside(p, longitude, y) / 0.12, 0, 1)
        total = total + _THICKNESS[p.headwear] * inside
    if p.scarf:
        total = total + 0.09 * np.clip(_mask_inside(p, longitude, y) / 0.1, 0, 1)
    return total


def cloth(p: HeadParameters, colour, shape, rng: np.random.Generator) -> UInt8[ndarray, "h w 3"]:
    """Woven, striped or plain."""
    h, w = shape
    tone = np.ones((h, w), np.float32)
    if p.texture:
        grain = rng.standard_normal((h // 3 + 1, w // 3 + 1), np.float32)
        tone += 0.06 * cv2.resize(grain, (w, h))
        stripes = rng.uniform(0.06, 0.3), rng.uniform(0, 0.35) * (rng.random() < 0.5)
        tone += stripes[1] * np.sign(np.sin(np.arange(h) * stripes[0]))[:, None].astype(np.float32)
    return np.clip(tone[..., None] * np.array(colour, np.float32), 0, 255).astype(np.uint8)


def paint_headwear(painter: Painter) -> None:
    """Paints what is worn and marks it as a cover."""
    p, (h, w) = painter.surface.p, painter.shape
    sine, longitude = grid_sine(h)[:, None], grid_longitude(w)[None]
    y = np.where(sine > 0, painter.surface.bottom, p.crown) * sine
    for worn, colour, depth in (
        (p.headwear != "none", p.headwear_colour, _depth_inside),
        (p.scarf > 0, p.scarf_colour, _mask_inside),
    ):
        if not worn:
            continue
        inside = depth(p, longitude, y) > 0
        (found,) = np.nonzero(inside.any(1))
        if not len(found):
            continue
        rows = slice(found[0], found[-1] + 1)
        mask = inside[rows].astype(np.uint8)
        np.maximum(painter.cover[rows], mask, out=painter.cover[rows])
        cv2.copyTo(cloth(p, colour, mask.shape, painter.rng), mask, painter.colour[rows])


def brim(surface: Surface) -> tuple[ndarray, ndarray] | None:
    """A cap's or a hat's brim: points f[r, c, 3] of the head's frame and its colour, if any."""
    p = surface.p
    if p.headwear not in ("cap", "hat"):
        return None
    reach = 70 if p.headwear == "cap" else 180
    longitude = np.radians(np.linspace(-reach, reach, 64))[None]
    out = np.linspace(0, 1, 10)[:, None]
    edge = np.interp(np.degrees(np.abs(longitude)), _ANGLES, _EDGES[p.headwear])
    sine = np.clip((p.headwear_y + edge) / p.crown, -0.95, 0.0)
    foot = surface.base(longitude, sine)[0]
    length = p.brim * np.ones(longitude.shape)
    if p.headwear == "cap":
        length = length * np.sqrt(np.cos(longitude * 90 / 75))
    outwards = np.stack([np.sin(longitude), 0.25 + 0 * longitude, np.cos(longitude)], -1)[0]
    lifted = foot + 0.1 * outwards * [1, 0, 1]
    points = lifted + (out * length)[..., None] * outwards
    colour = np.full((60, 384, 3), shade(p.headwear_colour, 0.8), np.uint8)
    return points, colour


def as_hood(p: HeadParameters) -> HeadParameters:
    """The same head whose long hair is a hood's cloth."""
    return dataclasses.replace(p, hair_colour=p.headwear_colour, hair_thickness=0.1)
