"""Renders a head: lights its layers and splats their samples onto a tile, the nearest in front."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt16
from numpy import ndarray

from flm_jax.drawing import headwear
from flm_jax.drawing.features import paint
from flm_jax.drawing.layers import (
    Layer,
    brim_layer,
    ear_layers,
    glasses_layers,
    head_layer,
    lapel_layer,
    long_hair_layer,
    neck_layer,
)
from flm_jax.drawing.painter import Painter
from flm_jax.drawing.parameters import HeadParameters, Light, Number
from flm_jax.drawing.surface import (
    LINEAR_SHARE,
    Surface,
    landmarks_in_space,
    project,
    rotation,
)


class Head(NamedTuple):
    """A drawn head.

    Attributes:
        tile: u8[h, w, 4], RGB premultiplied by the alpha that follows it.
        landmarks: f32[98, 2], pixels of the tile; (0, 0) is the centre of its top-left pixel.
        covered: bool[98], landmarks under glasses, a mask, headwear or hair.
        turned_away: bool[98], landmarks that the head itself hides.
        unit: pixels in half a head's width.
        neck: f32[2], where the neck enters the clothes, pixels of the tile.
    """

    tile: UInt8[ndarray, "h w 4"]
    landmarks: Float[ndarray, "98 2"]
    covered: Bool[ndarray, "98"]
    turned_away: Bool[ndarray, "98"]
    unit: float
    neck: Float[ndarray, "2"]


def _light_up(layer: Layer, light: Light) -> tuple[ndarray, ndarray, ndarray]:
    """How much the surface faces the viewer, its brightness and its highlight; f32[r, c] each."""
    points = np.ascontiguousarray(layer.points, np.float32)
    # Differences along the rows and down the columns; their length does not matter.
    slope = np.array([[-1, 0, 1]], np.float32)
    (ax, ay, az), (dx, dy, dz) = (
        cv2.split(cv2.filter2D(points, -1, kernel, borderType=cv2.BORDER_REPLICATE))
        for kernel in (slope, slope.T)
    )
    normal = cv2.merge([ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx])
    normal /= np.sqrt(np.einsum("rci,rci->rc", normal, normal))[..., None] + 1e-9
    facing = normal[..., 2].copy()
    if layer.two_sided:
        normal[facing < 0] *= -1
    lamp = np.array(light.direction, np.float32) / np.float32(np.linalg.norm(light.direction))
    halfway = (lamp + np.array([0, 0, 1], np.float32)) / np.linalg.norm(
        lamp + np.array([0, 0, 1], np.float32)
    )
    # What looks aside sees less light than what looks at the camera.
    brightness = light.ambient * (0.78 + 0.14 * np.abs(normal[..., 2]) - 0.15 * normal[..., 1])
    # A large lamp reaches round the surface.
    towards = (normal @ lamp + light.softness) / (1 + light.softness)
    brightness = brightness + light.diffuse * np.maximum(towards, 0)
    shine = 255 * layer.shine * light.diffuse * np.maximum(normal @ halfway, 0) ** 18
    return facing, brightness.astype(np.float32), shine.astype(np.float32)


class _Image(NamedTuple):
    """What was splatted.

    Attributes:
        colour: u8[h, w, 4], premultiplied by the alpha that follows.
        depth: u16[h, w], 0 where nothing is, else 10000 for each unit.
        layer: int[h, w], which layer is seen.
    """

    colour: UInt8[ndarray, "h w 4"]
    depth: UInt16[ndarray, "h w"]
    layer: Int[ndarray, "h w"]


def _depth(z: ndarray) -> ndarray:
    """10000 for each unit, in the range of 16 bits."""
    return (z + 3) * 10000


def _splat(
    layers: list[Layer],
    places: list[ndarray],
    light: Light,
    size: tuple[int, int],
) -> _Image:
    """Each pixel takes the nearest sample of any layer; `places` are the layers' points in pixels,
    from the image's corner."""
    height, width = size
    pixels, samples, depths, parts, starts = [], [], [], [], [0]
    for layer, place in zip(layers, places, strict=True):
        facing, *lit = _light_up(layer, light)
        coarse, dense = _facing_part(layer, facing)
        colour = layer.colour[dense]
        h, w = colour.shape[:2]
        x, y, z = (
            cv2.resize(np.float32(a[coarse]), (w, h))
            for a in (
                np.clip(place[..., 0], 0, width - 0.5),
                np.clip(place[..., 1], 0, height - 0.5),
                _depth(layer.points[..., 2]),
            )
        )
        pixel = y.astype(np.int32)
        pixel *= width
        pixel += x.astype(np.int32)
        seen = np.ones((h, w), bool) if layer.mask is None else layer.mask
        if not layer.two_sided:
            front = (facing[coarse] > -0.1).astype(np.uint8)
            seen = seen & (cv2.resize(front, (w, h), interpolation=cv2.INTER_NEAREST) > 0)
        chosen = np.flatnonzero(seen)
        pixels.append(pixel.ravel().take(chosen).astype(np.intp))
        depths.append(z.astype(np.uint16).ravel())
        samples.append(chosen + starts[-1])
        parts.append((colour, np.dstack([a[coarse] for a in lit])))
        starts.append(starts[-1] + h * w)
    depth = np.concatenate(depths)
    index = _nearest(np.concatenate(pixels), np.concatenate(samples), depth, height * width)
    index = _close_holes(index.reshape(size), depth)
    index = _close_holes(index, depth)
    image = np.zeros((height * width, 4), np.uint8)
    which = np.searchsorted(starts, index, side="right") - 1
    for i, (colour, coarse_light) in enumerate(parts):
        pixel = np.flatnonzero(which == i)
        if len(pixel):
            image[pixel] = _lit_samples(colour, coarse_light, index.ravel()[pixel] - starts[i])
    seen_depth = np.where(index >= 0, depth[index], np.uint16(0))
    return _Image(image.reshape(height, width, 4), seen_depth, which)


def _lit_samples(colour: ndarray, lit: ndarray, sample: ndarray) -> UInt8[ndarray, "n 4"]:
    """Samples of a dense grid, lit by brightness and highlight of a coarse one."""
    h, w = colour.shape[:2]
    # OpenCV takes no row of more than 32767.
    blocks = []
    for part in np.array_split(sample, len(sample) // 30000 + 1):
        row, column = np.divmod(part, w)
        x = ((column + 0.5) * (lit.shape[1] / w) - 0.5).astype(np.float32)[None]
        y = ((row + 0.5) * (lit.shape[0] / h) - 0.5).astype(np.float32)[None]
        blocks.append(cv2.remap(lit, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0])
    light = np.concatenate(blocks)
    values = np.full((len(sample), 4), 255, np.uint8)
    shaded = colour.reshape(-1, 3).take(sample, axis=0) * light[:, :1]
    shaded += light[:, 1:]
    values[:, :3] = np.minimum(shaded, 255)
    return values


def _facing_part(layer: Layer, facing: ndarray) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the coarse and of the dense grid that hold all that faces the viewer."""
    ratios = [
        dense / coarse for dense, coarse in zip(layer.colour.shape, facing.shape, strict=False)
    ]
    if layer.two_sided or not all(ratio.is_integer() for ratio in ratios):
        return np.s_[:, :], np.s_[:, :]
    front, part = facing > -0.1, []
    for axis, ratio in ((1, ratios[0]), (0, ratios[1])):
        (seen,) = np.nonzero(front.any(axis))
        low, high = (max(seen[0] - 1, 0), seen[-1] + 2) if len(seen) else (0, 1)
        part.append((slice(low, high), slice(low * int(ratio), high * int(ratio))))
    return (part[0][0], part[1][0]), (part[0][1], part[1][1])


def _nearest(pixel: ndarray, sample: ndarray, depth: ndarray, pixels: int) -> ndarray:
    """The sample nearest to the viewer in each pixel, -1 where there is none.

    Of samples within 0.03 units of depth any will do.
    """
    index = np.full(pixels, -1)
    index[pixel] = sample
    while len(sample):
        nearer = depth.take(sample) > depth.take(index.take(pixel)) + np.uint16(300)
        pixel, sample = pixel[nearer], sample[nearer]
        index[pixel] = sample
    return index


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


def _is_painted_over(painter: Painter) -> Bool[ndarray, "98"]:
    """Landmarks under painted hair or cloth."""
    cells = painter.grid(painter.surface.landmarks)
    cells[:33] = painter.cells(*painter.surface.contour)
    column, row = np.rint(cells).astype(int).T
    return painter.cover[row, np.clip(column, 0, painter.shape[1] - 1)] > 0


def _layer_in_front(image: _Image, marks: ndarray, z: ndarray) -> Int[ndarray, "98"]:
    """The layer that hides each landmark, -1 where none does; `marks` are pixels."""
    height, width = image.depth.shape
    column, row = np.clip(np.rint(marks), 1, [width - 2, height - 2]).astype(int).T
    around = np.stack([image.depth[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    # Beside an edge some neighbour is farther than what hides nothing. The contour lies on edges.
    margin = np.where(np.arange(98) < 33, 3500, 900)
    hidden = around.min(0) > _depth(z) + margin
    return np.where(hidden, image.layer[row, column], -1)


def render_head(p: HeadParameters, width_px: Number, *, oversampling: float = 1.0) -> Head:
    """Draws a head; its leftmost and its rightmost landmark lie `width_px` apart."""
    rng = np.random.default_rng(p.seed)
    surface = Surface(p)
    turn = rotation(p.yaw, p.pitch, p.roll)
    body = rotation(0.35 * p.yaw, 0.0, 0.25 * p.roll)
    space = landmarks_in_space(surface, turn)
    marks = project(space)
    final_unit = width_px / np.ptp(marks[:, 0])
    unit = float(np.clip(oversampling * final_unit, 40, 115))

    density = unit  # samples in a unit
    # Denser where hair stands high, and where the side and the back of the head are seen.
    rows = 0.5 * np.pi * density * (1 + 0.4 * (p.hair_thickness + p.hair_height))
    columns = 2 / 3 * LINEAR_SHARE * np.pi * density * (1 + 0.8 * np.sin(np.radians(p.yaw)) ** 2)
    coarse = round(rows), round(columns)
    painter = paint(surface, (3 * coarse[0], 3 * coarse[1]), rng)
    layers = [head_layer(painter, turn, coarse)]
    side = (round(1.7 * density), round(4.5 * (p.neck + p.flare) * density))
    layers.append(neck_layer(p, turn, body, side))
    if p.lapels[0]:
        layers.append(lapel_layer(p, body, (round(1.5 * density), round(6.0 * density))))
    hood = p.headwear == "hood"
    if hood or p.hair == "long":
        hanging = headwear.as_hood(p) if hood else p
        side = (round((p.hair_length + 0.9) * density), round(5.0 * density))
        layers.append(long_hair_layer(hanging, turn, body, side, rng))
    else:
        layers += ear_layers(p, turn, density)
    layers += brim_layer(surface, turn)
    if p.glasses != "none":
        layers += glasses_layers(p, turn, density)

    # The final tile and the fine one cover the same square, edge on edge.
    places = [project(layer.points.astype(np.float32)) for layer in layers]
    low = np.floor(np.min([place.min((0, 1)) for place in places], axis=0) * 20 - 1) / 20
    high = np.ceil(np.max([place.max((0, 1)) for place in places], axis=0) * 20 + 1) / 20
    low, high = np.clip(low, [-2.3, -2.15], -0.5), np.clip(high, 0.5, [2.3, 2.45])
    final = np.ceil((high - low) * final_unit).astype(int)
    fine = np.round(final * unit / final_unit).astype(int)
    scale = fine / final
    corner = (final - (low + high) * final_unit - 1) / 2
    landmarks = marks * final_unit + corner
    places = [
        place * np.float32(final_unit * scale) + np.float32((corner + 0.5) * scale)
        for place in places
    ]
    image = _splat(layers, places, p.light, (int(fine[1]), int(fine[0])))
    in_front = _layer_in_front(image, (landmarks + 0.5) * scale - 0.5, space[:, 2])
    tile = cv2.resize(image.colour, final.tolist(), interpolation=cv2.INTER_AREA)
    neck = project(np.array([0, 1.9, -0.3]) @ body.T) * final_unit + corner
    return Head(
        tile,
        landmarks.astype(np.float32),
        _is_painted_over(painter) | (in_front > 0),
        in_front == 0,
        float(final_unit),
        neck.astype(np.float32),
    )
