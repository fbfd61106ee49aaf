"""What surrounds a drawn head: backgrounds and clothes.

Pictures are u8[h, w, 3] RGB; points are pixels, and (0, 0) is the centre of the top-left pixel.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax.drawing.painter import spline
from flm_jax.drawing.parameters import HeadParameters
from flm_jax.drawing.render import Head

SHIFT = 4  # fractional bits of the points that OpenCV draws


def fixed(points: Float[ndarray, "*n 2"]) -> ndarray:
    return np.round(points * 2**SHIFT).astype(np.int32)


def shrink(image: UInt8[ndarray, "h w *c"], factor: float) -> ndarray:
    """The image `factor` times as large, yet at least one pixel wide and high."""
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def random_colour(rng: np.random.Generator) -> list[float]:
    """Any brightness, but mostly little saturation, as most things have."""
    grey, saturation = rng.uniform(20, 195), min(rng.exponential(0.4), 1)
    return np.clip(grey + saturation * rng.uniform(-110, 110, 3), 10, 245).tolist()


def background(rng: np.random.Generator, height: int, width: int) -> UInt8[ndarray, "h w 3"]:
    """A gradient, soft colours, a texture, or clutter; mostly a few of them on one another."""
    cells = (2, 2) if rng.random() < 0.4 else rng.integers(3, 8, 2)
    tones = rng.normal(0, rng.uniform(12, 42), (*cells, 1)) + rng.normal(0, 9, (*cells, 3))
    small = np.array(random_colour(rng)) + tones
    small = np.clip(small, 0, 255).astype(np.uint8)
    picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    kind = rng.choice(["plain", "stripes", "tiles", "clutter", "bokeh", "foliage"],
                      p=[0.12, 0.08, 0.07, 0.32, 0.14, 0.27])  # fmt: skip
    if kind == "foliage":
        picture = _foliage(rng, picture)
    elif kind == "stripes":
        _draw_stripes(rng, picture)
    elif kind == "tiles":
        _draw_tiles(rng, picture)
    elif kind != "plain":
        _draw_clutter(rng, picture, round_only=kind == "bokeh")
        if kind == "bokeh" or rng.random() < 0.4:
            small = shrink(picture, 1 / rng.uniform(1.7, 5))
            picture = cv2.resize(small, (width, height))
    if rng.random() < 0.5:
        size = rng.uniform(3, 14)
        grain = rng.standard_normal((height // 2 + 1, width // 2 + 1), np.float32) * size
        grain = cv2.resize(grain, (width, height)).astype(np.int16)
        picture = cv2.add(picture, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    return picture


def _foliage(rng: np.random.Generator, picture: ndarray) -> UInt8[ndarray, "h w 3"]:
    """The picture with noise of all sizes, between two colours, like leaves, walls or a crowd."""
    height, width = picture.shape[:2]
    noise, falloff = np.zeros((height, width), np.float32), rng.uniform(0.6, 1.1)
    for cells in (4, 9, 20, 45, 100):
        octave = rng.standard_normal((cells, cells), np.float32) * np.float32(cells**-falloff)
        noise += cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
    share = np.clip(0.5 + noise * (rng.uniform(0.4, 1.2) / np.std(noise)), 0, 1)
    other = np.full(picture.shape, random_colour(rng), np.uint8)
    return cv2.blendLinear(picture, other, 1 - share, share)


def _draw_stripes(rng: np.random.Generator, picture: ndarray) -> None:
    size, angle = max(picture.shape), rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), rng.uniform(12, 60)
    normal, colour = along[::-1] * [-1, 1], random_colour(rng)
    middle = np.array(picture.shape[1::-1]) / 2
    for offset in np.arange(-size, size, across):
        ends = np.stack(
            [middle + normal * offset - along * size, middle + normal * offset + along * size]
        )
        cv2.polylines(picture, [fixed(ends)], False, colour,
                      max(1, int(across * 0.4)), cv2.LINE_AA, SHIFT)  # fmt: skip


def _draw_tiles(rng: np.random.Generator, picture: ndarray) -> None:
    side, joint, shift = rng.uniform(14, 50), rng.integers(1, 4), rng.integers(2)
    colour = random_colour(rng)
    for row, y in enumerate(np.arange(0, picture.shape[0], side / 2)):
        cv2.line(picture, (0, int(y)), (picture.shape[1], int(y)), colour, int(joint))
        for x in np.arange((row % 2) * shift * side / 2, picture.shape[1], side):
            cv2.line(picture, (int(x), int(y)), (int(x), int(y + side / 2)), colour, int(joint))


def _draw_clutter(rng: np.random.Generator, picture: ndarray, round_only: bool) -> None:
    size = np.array(picture.shape[1::-1])
    for _ in range(rng.integers(6, 24)):
        centre, radius = rng.uniform(0, size), rng.uniform(0.03, 0.22) * size.max()
        if round_only:
            cv2.circle(
                picture, centre.astype(int).tolist(), int(radius * 0.5), random_colour(rng), -1
            )
            continue
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        reach = radius * rng.uniform(0.4, 1.2, len(angle))
        corners = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None]
        if rng.random() < 0.75:
            cv2.fillPoly(picture, [fixed(corners)], random_colour(rng), cv2.LINE_AA, SHIFT)
        else:
            cv2.polylines(picture, [fixed(corners)], False, random_colour(rng),
                          int(rng.integers(1, 9)), cv2.LINE_AA, SHIFT)  # fmt: skip


def draw_clothes(
    rng: np.random.Generator,
    picture: UInt8[ndarray, "h w 3"],
    neck: ndarray,
    unit: float,
    p: HeadParameters,
) -> None:
    """Shoulders below a neck, down to the picture's edge, darker at their sides."""
    wide = rng.uniform(1.7, 2.7)
    x = np.array([0.5, 0.75, 1.0, 1.45, wide, wide + 0.2])
    y = np.array([-0.1, -0.03, 0.05, 0.2, 0.55, 1.5]) - p.shoulders
    right = np.vstack([spline(np.stack([x, y], 1)), [[wide + 0.25, 14]]])
    outline = np.concatenate([right[::-1] * [-1, 1], right])
    angle = np.radians(0.25 * p.roll)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = outline @ turn.T * unit + neck
    left, top = np.maximum(points.min(0).astype(int), 0)
    right, bottom = np.minimum(points.max(0).astype(int) + 2, picture.shape[1::-1])
    colour = np.array(p.cloth_colour if rng.random() < 0.7 else random_colour(rng), np.float32)
    shirt = (
        random_colour(rng),
        rng.uniform(0.3, 0.9),
        rng.uniform(0.05, 0.14),
        rng.random() < 0.4,
    )
    striped, width, contrast = rng.random() < 0.3, rng.uniform(10, 40), rng.uniform(0.6, 1.3)
    printed = rng.random() < 0.3
    if left >= right or top >= bottom:
        return
    region = picture[top:bottom, left:right]
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed(points - [left, top])], 255, cv2.LINE_AA, SHIFT)
    shade = cv2.GaussianBlur(shrink(mask, 0.25), (0, 0), max(0.5, 0.08 * unit))
    tone = 0.35 + 0.65 / 255 * cv2.resize(shade, mask.shape[::-1]).astype(np.float32)
    folds = rng.standard_normal((7, 9), np.float32)
    tone += 0.09 * cv2.resize(folds, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    if striped:
        tone[np.sin(np.arange(len(mask)) / unit * width) > 0] *= contrast
    colour = np.full(region.shape, colour, np.float32)
    if printed:
        _draw_clutter(rng, colour, round_only=False)
    if rng.random() < 0.35:
        _draw_shirt(colour, neck - [left, top], unit, shirt)
    cloth = np.minimum(tone[..., None] * colour, 255).astype(np.uint8)
    alpha = mask * np.float32(1 / 255)
    region[:] = cv2.blendLinear(cloth, np.ascontiguousarray(region), alpha, 1 - alpha)


def _draw_shirt(cloth: ndarray, neck: ndarray, unit: float, shirt) -> None:
    """A shirt in a jacket's opening, some with a tie."""
    colour, half, tie, tied = shirt
    opening = np.array([[-half, -0.6], [half, -0.6], [0.1, 1.8], [-0.1, 1.8]]) * unit + neck
    cv2.fillPoly(cloth, [fixed(opening)], colour, cv2.LINE_AA, SHIFT)
    if tied:
        knot = np.array([[-tie, 0.1], [tie, 0.1], [1.5 * tie, 2.5], [-1.5 * tie, 2.5]])
        cv2.fillPoly(cloth, [fixed(knot * unit + neck)], [0.3 * c for c in colour], 8, SHIFT)


def paste(picture: UInt8[ndarray, "h w 3"], head: Head, left: int, top: int) -> None:
    """Puts a head's tile into the picture; what lies outside is cut off."""
    h, w = head.tile.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + w, picture.shape[1]), min(top + h, picture.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    tile = head.tile[y0 - top : y1 - top, x0 - left : x1 - left]
    region = picture[y0:y1, x0:x1]
    free = cv2.merge([255 - tile[..., 3]] * 3)
    region[:] = cv2.add(cv2.multiply(region, free, scale=1 / 255), tile[..., :3])
