"""What surrounds a drawn head: backgrounds, clothes, things in front of faces, and the camera.

Pictures are u8[h, w, 3] RGB; points are pixels, and (0, 0) is the centre of the top-left pixel.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax.drawing.painter import spline
from flm_jax.drawing.parameters import Light
from flm_jax.drawing.render import Head

_SHIFT = 4  # fractional bits of the points that OpenCV draws


def _fixed(points: Float[ndarray, "*n 2"]) -> ndarray:
    return np.round(points * 2**_SHIFT).astype(np.int32)


def shrink(image: UInt8[ndarray, "h w *c"], factor: float) -> ndarray:
    """The image `factor` times as large, yet at least one pixel wide and high."""
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _colour(rng: np.random.Generator) -> list[float]:
    """Any brightness, but mostly little saturation, as most things have."""
    grey, saturation = rng.uniform(35, 215), min(rng.exponential(0.4), 1)
    return np.clip(grey + saturation * rng.uniform(-110, 110, 3), 10, 245).tolist()


# --- backgrounds -------------------------------------------------------------------------------


def background(rng: np.random.Generator, height: int, width: int) -> UInt8[ndarray, "h w 3"]:
    """A gradient, soft colours, a texture, or clutter; mostly a few of them on one another."""
    cells = (2, 2) if rng.random() < 0.4 else rng.integers(3, 8, 2)
    tones = rng.normal(0, rng.uniform(12, 42), (*cells, 1)) + rng.normal(0, 9, (*cells, 3))
    small = np.array(_colour(rng)) + tones
    small = np.clip(small, 0, 255).astype(np.uint8)
    picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    kind = rng.choice(["plain", "stripes", "tiles", "clutter", "bokeh"],
                      p=[0.25, 0.1, 0.1, 0.35, 0.2])  # fmt: skip
    if kind == "stripes":
        _draw_stripes(rng, picture)
    elif kind == "tiles":
        _draw_tiles(rng, picture)
    elif kind != "plain":
        _draw_clutter(rng, picture, round_only=kind == "bokeh")
        if kind == "bokeh" or rng.random() < 0.6:
            small = shrink(picture, 1 / rng.uniform(1.7, 5))
            picture = cv2.resize(small, (width, height))
    if rng.random() < 0.5:
        size = rng.uniform(3, 14)
        grain = rng.standard_normal((height // 2 + 1, width // 2 + 1), np.float32) * size
        grain = cv2.resize(grain, (width, height)).astype(np.int16)
        picture = cv2.add(picture, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    return picture


def _draw_stripes(rng: np.random.Generator, picture: ndarray) -> None:
    size, angle = max(picture.shape), rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), rng.uniform(12, 60)
    normal, colour = along[::-1] * [-1, 1], _colour(rng)
    middle = np.array(picture.shape[1::-1]) / 2
    for offset in np.arange(-size, size, across):
        ends = np.stack(
            [middle + normal * offset - along * size, middle + normal * offset + along * size]
        )
        cv2.polylines(picture, [_fixed(ends)], False, colour,
                      max(1, int(across * 0.4)), cv2.LINE_AA, _SHIFT)  # fmt: skip


def _draw_tiles(rng: np.random.Generator, picture: ndarray) -> None:
    side, joint, shift = rng.uniform(14, 50), rng.integers(1, 4), rng.integers(2)
    colour = _colour(rng)
    for row, y in enumerate(np.arange(0, picture.shape[0], side / 2)):
        cv2.line(picture, (0, int(y)), (picture.shape[1], int(y)), colour, int(joint))
        for x in np.arange((row % 2) * shift * side / 2, picture.shape[1], side):
            cv2.line(picture, (int(x), int(y)), (int(x), int(y + side / 2)), colour, int(joint))


def _draw_clutter(rng: np.random.Generator, picture: ndarray, round_only: bool) -> None:
    size = np.array(picture.shape[1::-1])
    for _ in range(rng.integers(6, 24)):
        centre, radius = rng.uniform(0, size), rng.uniform(0.03, 0.22) * size.max()
        if round_only:
            cv2.circle(picture, centre.astype(int).tolist(), int(radius * 0.5), _colour(rng), -1)
            continue
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        reach = radius * rng.uniform(0.4, 1.2, len(angle))
        corners = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None]
        if rng.random() < 0.75:
            cv2.fillPoly(picture, [_fixed(corners)], _colour(rng), cv2.LINE_AA, _SHIFT)
        else:
            cv2.polylines(picture, [_fixed(corners)], False, _colour(rng),
                          int(rng.integers(1, 9)), cv2.LINE_AA, _SHIFT)  # fmt: skip


# --- people ------------------------------------------------------------------------------------


def draw_clothes(
    rng: np.random.Generator,
    picture: UInt8[ndarray, "h w 3"],
    neck: ndarray,
    unit: float,
    roll: float,
) -> None:
    """Shoulders below a neck, down to the picture's edge, darker at their sides."""
    wide = rng.uniform(1.7, 2.3)
    x = np.array([0.5, 0.75, 1.0, 1.45, wide, wide + 0.2])
    y = np.array([-0.1, -0.03, 0.05, 0.2, 0.55, 1.5])
    right = np.vstack([spline(np.stack([x, y], 1)), [[wide + 0.25, 14]]])
    outline = np.concatenate([right[::-1] * [-1, 1], right])
    angle = np.radians(0.25 * roll)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = outline @ turn.T * unit + neck
    left, top = np.maximum(points.min(0).astype(int), 0)
    right, bottom = np.minimum(points.max(0).astype(int) + 2, picture.shape[1::-1])
    colour = np.array(_colour(rng), np.float32)
    striped, width, contrast = rng.random() < 0.3, rng.uniform(10, 40), rng.uniform(0.6, 1.3)
    if left >= right or top >= bottom:
        return
    region = picture[top:bottom, left:right]
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(points - [left, top])], 255, cv2.LINE_AA, _SHIFT)
    shade = cv2.GaussianBlur(shrink(mask, 0.25), (0, 0), max(0.5, 0.08 * unit))
    tone = 0.35 + 0.65 / 255 * cv2.resize(shade, mask.shape[::-1]).astype(np.float32)
    if striped:
        tone[np.sin(np.arange(len(mask)) / unit * width) > 0] *= contrast
    cloth = np.minimum(tone[..., None] * colour, 255).astype(np.uint8)
    alpha = mask * np.float32(1 / 255)
    region[:] = cv2.blendLinear(cloth, np.ascontiguousarray(region), alpha, 1 - alpha)


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


# --- in front of faces -------------------------------------------------------------------------


def draw_occluder(
    rng: np.random.Generator,
    picture: UInt8[ndarray, "h w 3"],
    landmarks: Float[ndarray, "98 2"],
    skin: tuple[float, float, float],
) -> UInt8[ndarray, "h w"]:
    """Draws a hand, an object or a patch over a part of the face; returns its mask, 0 to 255."""
    low, high = landmarks.min(0), landmarks.max(0)
    size = float(np.sqrt(np.prod(high - low)))
    target = landmarks[rng.choice([8, 16, 24, 40, 47, 57, 64, 68, 79, 82, 85, 96, 97])]
    outwards = target - (low + high) / 2 + rng.normal(0, 0.1 * size, 2)
    outwards = outwards / (np.linalg.norm(outwards) + 1e-6)
    mask = np.zeros(picture.shape[:2], np.uint8)
    kind = rng.choice(["hand", "bar", "object", "patch", "microphone"],
                      p=[0.38, 0.17, 0.2, 0.1, 0.15])  # fmt: skip
    if kind == "microphone":
        _draw_microphone(rng, picture, mask, landmarks[85], size)
    elif kind == "hand":
        _draw_hand(rng, picture, mask, target, outwards, size, skin)
    elif kind == "bar":
        along = np.array([-outwards[1], outwards[0]]) + outwards * rng.normal(0, 0.4)
        ends = np.stack([target - along * 9 * size, target + along * 9 * size])
        _draw_capsules(picture, mask, [(ends, rng.uniform(0.14, 0.36) * size)], _colour(rng))
    elif kind == "object":
        angle = np.linspace(0, 2 * np.pi, 40)
        power = rng.uniform(0.4, 1.2)
        x, y = (np.sign(f(angle)) * np.abs(f(angle)) ** power for f in (np.cos, np.sin))
        shape = np.stack([x, y], 1) * rng.uniform(0.22, 0.42, 2) * size
        turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(0, 180), 1)[:, :2]
        points = _fixed(shape @ turn.T + target + outwards * 0.12 * size)
        _draw_solid(picture, mask, points, _colour(rng), 0.08 * size)
    else:
        half = rng.uniform(0.16, 0.34, 2) * size
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half + target
        cv2.fillPoly(mask, [_fixed(corners)], 255, cv2.LINE_AA, _SHIFT)
        picture[mask > 127] = background(rng, *picture.shape[:2])[mask > 127]
    return mask


def _draw_microphone(rng, picture, mask, mouth: ndarray, size: float) -> None:
    """A round head before the mouth or below it, on a handle that comes from below."""
    tone = np.array(_colour(rng)) * 0.4
    middle = mouth + rng.normal([0, 0.1], [0.1, 0.1]) * size
    aside = np.array([rng.normal(0, 0.5), 1.0]) * size
    handle = np.stack([middle, middle + 2 * aside])
    width = rng.uniform(0.14, 0.26) * size
    _draw_capsules(picture, mask, [(handle, 0.6 * width)], tone.tolist())
    ball = np.stack([middle, middle + 0.05 * aside])
    _draw_capsules(picture, mask, [(ball, width)], (tone * 1.6 + 15).tolist())


def _draw_solid(picture: ndarray, mask: ndarray, points: ndarray, colour, soft: float) -> None:
    """A polygon that is lit from the top left, as if it were round."""
    shape = np.zeros_like(mask)
    cv2.fillPoly(shape, [points], 255, cv2.LINE_AA, _SHIFT)
    _shade_mask(picture, mask, shape, colour, soft)


def _shade_mask(picture: ndarray, mask: ndarray, shape: ndarray, colour, soft: float) -> None:
    x, y, w, h = cv2.boundingRect(shape)
    if not w:
        return
    box = np.s_[y : y + h, x : x + w]
    inner = cv2.GaussianBlur(shape[box], (0, 0), max(0.8, soft)).astype(np.float32) / 255
    slope = cv2.Sobel(inner, cv2.CV_32F, 1, 0) + cv2.Sobel(inner, cv2.CV_32F, 0, 1)
    light = 0.55 + 0.5 * inner + np.clip(slope * soft * 0.12, -0.2, 0.25)
    alpha = shape[box][..., None].astype(np.float32) / 255
    solid = np.clip(np.array(colour, np.float32) * light[..., None], 0, 255)
    picture[box] = picture[box] + alpha * (solid - picture[box])
    np.maximum(mask[box], shape[box], out=mask[box])


def _draw_capsules(picture, mask, capsules: list[tuple[ndarray, float]], colour) -> None:
    """Thick lines with round ends, each shaded on its own."""
    for ends, width in capsules:
        shape = np.zeros_like(mask)
        thickness = max(2, round(width))
        cv2.polylines(shape, [_fixed(ends)], False, 255, thickness, cv2.LINE_AA, _SHIFT)
        _shade_mask(picture, mask, shape, colour, 0.16 * width)


def _draw_hand(rng, picture, mask, target, outwards, size, skin) -> None:
    """A palm that comes from outside of the face, with a forearm, fingers and a thumb."""
    sideways = np.array([-outwards[1], outwards[0]]) * rng.choice([-1, 1])
    palm = target + outwards * 0.28 * size
    spread = rng.uniform(0.8, 1.2)
    capsules = [
        (np.stack([palm + outwards * 0.2 * size, palm + outwards * 3 * size]), 0.3 * size),
        (np.stack([palm - sideways * 0.07 * size, palm + sideways * 0.07 * size]), 0.36 * size),
    ]
    for i in np.arange(4) - 1.5:
        root = palm + sideways * (0.1 * i * size) - outwards * 0.1 * size
        bend = sideways * 0.035 * i * spread * size
        length = (0.34 - 0.03 * i * i) * size
        joints = [
            root,
            root - outwards * length * 0.55 + bend,
            root - outwards * length + 1.6 * bend,
        ]
        capsules.append((np.stack(joints), 0.095 * size))
    root = palm + sideways * 0.16 * size
    thumb = [root + outwards * 0.06 * size, root + (0.16 * sideways - 0.12 * outwards) * size]
    capsules.append((np.stack(thumb), 0.11 * size))
    _draw_capsules(picture, mask, capsules, skin)


# --- the camera --------------------------------------------------------------------------------


def expose(picture: UInt8[ndarray, "h w 3"], light: Light) -> UInt8[ndarray, "h w 3"]:
    """The light's colour and exposure on the whole picture; bright pixels burn out."""
    if light.far_colour is not None:
        # From one side to the other, as the lamp stands.
        w = picture.shape[1]
        share = np.clip(np.linspace(-0.5, 1.5, w), 0, 1)[:: 1 if light.direction[0] < 0 else -1]
        near, far = np.array(light.colour), np.array(light.far_colour)
        gain = (near + share[:, None] * (far - near)) * (light.exposure / 255)
        return np.minimum(picture * gain.astype(np.float32), 255).astype(np.uint8)
    gain = light.exposure * np.array(light.colour) / 255
    curve = np.arange(256)[:, None] * gain
    if light.exposure > 1.5:
        curve += 25
    table = np.clip(curve, 0, 255).astype(np.uint8)
    return cv2.merge([cv2.LUT(c, table[:, i].copy()) for i, c in enumerate(cv2.split(picture))])


def fade_to_grey(
    rng: np.random.Generator, picture: UInt8[ndarray, "h w 3"]
) -> UInt8[ndarray, "h w 3"]:
    """Black and white, sometimes brownish as an old print."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    tint = [1.0, 1.0, 1.0] if rng.random() < 0.7 else [1.05, 0.95, 0.78]
    return np.minimum(grey * np.array(tint, np.float32), 255).astype(np.uint8)


def blur(
    rng: np.random.Generator, picture: UInt8[ndarray, "h w 3"], face_px: float
) -> UInt8[ndarray, "h w 3"]:
    """Out of focus, moved, or of low resolution; the strength follows the face's width."""
    kind = rng.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(picture, (0, 0), max(0.9, rng.uniform(0.018, 0.034) * face_px))
    if kind == 1:
        length, angle = max(4.0, rng.uniform(0.08, 0.14) * face_px), rng.uniform(0, np.pi)
        return _move(picture, length * np.array([np.cos(angle), np.sin(angle)]))
    height, width = picture.shape[:2]
    factor = min(0.5, rng.uniform(19, 30) / face_px)
    return cv2.resize(shrink(picture, factor), (width, height), interpolation=cv2.INTER_LINEAR)


def _move(picture: UInt8[ndarray, "h w 3"], way: ndarray) -> UInt8[ndarray, "h w 3"]:
    """The mean of the picture along a way in pixels."""
    height, width = picture.shape[:2]
    pad = int(np.abs(way).max() / 2) + 1
    padded = cv2.copyMakeBorder(picture, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    padded = padded.astype(np.float32)
    steps = round(np.hypot(*way)) + 1
    total = np.zeros(picture.shape, np.float32)
    for share in np.linspace(-0.5, 0.5, steps):
        x, y = np.round(share * way).astype(int) + pad
        total += padded[y : y + height, x : x + width]
    return (total * np.float32(1 / steps) + 0.5).astype(np.uint8)


def add_noise(
    rng: np.random.Generator, picture: UInt8[ndarray, "h w 3"], size: float
) -> UInt8[ndarray, "h w 3"]:
    """Sensor noise with a standard deviation of `size` grey levels."""
    noise = np.empty(picture.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise, 0, size)
    return cv2.add(picture, noise, dtype=cv2.CV_8U)
