"""Style augmentation: another look of the same shapes, so that a network learns the shapes.

What a network learns from drawn faces should hold for photographs (domain randomisation: Tobin et
al., IROS 2017).
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray


def restyle(
    rng: np.random.Generator,
    crop: UInt8[ndarray, "s s 3"],
    settings: Mapping[str, Mapping[str, Any]],
    read_other: Callable[[np.random.Generator], UInt8[ndarray, "s s 3"]],
) -> UInt8[ndarray, "s s 3"]:
    """The crop in another style.

    Args:
        rng: of the face.
        crop: RGB, not modified.
        settings: of `augmentation.SETTINGS`.
        read_other: returns another crop of the same size.
    """
    for name, change in _STYLES.items():
        probability = settings[name]["probability"]
        # Draws nothing where it is off, so that the other draws stay what they were without it.
        if probability > 0 and rng.random() < probability:
            (limit,) = (value for key, value in settings[name].items() if key != "probability")
            crop = change(rng, crop, limit, read_other)
    return crop


def _colour(rng, crop, most, read_other):
    """Another gain and offset of each channel, and sometimes another order of them."""
    gain = np.exp(rng.uniform(-most, most, 3))
    offset = 255 * rng.uniform(-most, most, 3) / 2
    order = rng.permutation(3) if rng.random() < 0.2 else np.arange(3)
    tables = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).round().astype(np.uint8)
    return cv2.LUT(crop[..., order], tables[None])


def _random_conv(rng, crop, most, read_other):
    """A convolution with a random kernel, mixed with the crop.

    Xu et al., "Robust and Generalizable Visual Representation Learning via Random Convolutions",
    ICLR 2021.
    """
    side = int(rng.choice(np.arange(1, most + 1, 2)))
    kernels = rng.standard_normal((3, 3, side, side)) / np.sqrt(3 * side * side)
    values = crop.astype(np.float32) - 127.5
    mixed = np.stack(
        [sum(cv2.filter2D(values[..., c], -1, row[c]) for c in range(3)) for row in kernels], -1
    )
    share = rng.uniform(0, 1)
    return _rounded(127.5 + share * values + (1 - share) * mixed)


def _fourier(rng, crop, most, read_other):
    """The crop's phases with amplitudes between its own and another image's.

    Xu et al., "A Fourier-based Framework for Domain Generalization", CVPR 2021.
    """
    own, other = (np.fft.rfft2(each.astype(np.float32), axes=(0, 1)) for each in
                  (crop, read_other(rng)))  # fmt: skip
    share = rng.uniform(0, most)
    amplitude = (1 - share) * np.abs(own) + share * np.abs(other)
    mixed = amplitude * np.exp(1j * np.angle(own))
    return _rounded(np.fft.irfft2(mixed, crop.shape[:2], axes=(0, 1)))


def _posterise(rng, crop, least, read_other):
    """Few levels of each channel."""
    levels = int(rng.integers(least, 4 * least))
    table = np.round(np.arange(256) / 255 * (levels - 1)) * (255 / (levels - 1))
    return cv2.LUT(crop, table.round().astype(np.uint8))


def _halftone(rng, crop, most, read_other):
    """Dots of a printing screen, darker where the crop is."""
    size = len(crop)
    angle, pitch = rng.uniform(0, np.pi / 2), max(2.5, rng.uniform(most / 2, most) * size)
    y, x = np.mgrid[:size, :size] * (2 * np.pi / pitch)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    screen = 127.5 + 63.75 * (np.cos(u) + np.cos(v))
    dots = 255 / (1 + np.exp((screen[..., None] - crop) / 16.0))
    share = rng.uniform(0.3, 0.8)
    return _rounded((1 - share) * crop + share * dots)


def _noise(rng, crop, most, read_other):
    """Gaussian noise of each pixel."""
    std = 255 * rng.uniform(0, most)
    return _rounded(crop + std * rng.standard_normal(crop.shape, np.float32))


def _rounded(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


_STYLES = {
    "colour": _colour,
    "random_conv": _random_conv,
    "fourier": _fourier,
    "posterise": _posterise,
    "halftone": _halftone,
    "noise": _noise,
}
