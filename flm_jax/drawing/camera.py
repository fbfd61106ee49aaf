"""What a camera makes of a picture, u8[h, w, 3] RGB: exposure, grey, blur and noise."""

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax.drawing.parameters import Light
from flm_jax.drawing.scene import shrink


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
        return cv2.GaussianBlur(picture, (0, 0), max(0.9, rng.uniform(0.014, 0.03) * face_px))
    if kind == 1:
        length, angle = max(4.0, rng.uniform(0.06, 0.12) * face_px), rng.uniform(0, np.pi)
        return _move(picture, length * np.array([np.cos(angle), np.sin(angle)]))
    height, width = picture.shape[:2]
    factor = min(0.5, rng.uniform(22, 36) / face_px)
    return cv2.resize(shrink(picture, factor), (width, height), interpolation=cv2.INTER_LINEAR)


def sharpen(picture: UInt8[ndarray, "h w 3"], amount: float) -> UInt8[ndarray, "h w 3"]:
    """Stronger differences of near pixels, as most cameras make them."""
    soft = cv2.GaussianBlur(picture, (0, 0), 1.1)
    return cv2.addWeighted(picture, 1 + amount, soft, -amount, 0)


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
