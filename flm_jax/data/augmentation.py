"""Random changes of a training face: one affine map with the crop, and the crop's pixels.

Every augmentation has a probability, and most have a range; `SETTINGS` names them. All that is
drawn for a face comes from one generator, that of its seed, epoch and row, so that a run which is
continued sees the same pictures, whoever reads them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import crop_box
from flm_jax.errors import InputError

Settings = Mapping[str, Mapping[str, Any]]

# Normal draws beyond so many standard deviations are drawn again: every range is bounded.
SDS = 2.0

# Each augmentation's range: its name, and the least and the largest value that make sense.
SETTINGS: dict[str, tuple[str, float, float] | None] = {
    "hflip": None,
    "rotation": ("std", 0, 90),  # degrees
    "scale": ("std", 0, 0.5),  # of the logarithm of the factor
    "shift": ("std", 0, 0.5),  # of x and of y, in sides of the crop
    "aspect": ("std", 0, 0.5),  # of the logarithm of width / height
    "box_noise": ("std", 0, 0.2),  # of each side of the box, in widths and heights of the box
    "brightness": ("max", 0, 1),  # added or taken away, where white is 1
    "contrast": ("max", 0, 3),  # of the logarithm of the factor, either way
    "gamma": ("max", 0, 3),  # of the logarithm of the exponent, either way
    "saturation": ("max", 0, 3),  # of the logarithm of the factor, either way
    "grey": None,
    "erase_flat": ("max", 0.02, 1),  # the longest side of the patch, in sides of the crop
    "erase_noise": ("max", 0.02, 1),
    "paste": ("max", 0.02, 1),  # of another training picture
    "blur": ("max", 0, 0.1),  # the Gaussian's standard deviation, in sides of the crop
    "resolution": ("min", 0.02, 1),  # the share of the side that the crop is reduced to
    "jpeg": ("min", 1, 95),  # quality; 95 is the best that is drawn
}


def check(settings: Settings) -> None:
    """Raises InputError unless every augmentation is there, with values in its range."""
    for name, value_range in SETTINGS.items():
        if name not in settings:
            raise InputError(f"config.data.augmentation lacks the key '{name}'")
        ranges = {"probability": (0, 1)} | (
            {value_range[0]: value_range[1:]} if value_range else {}
        )
        if set(settings[name]) != set(ranges):
            raise InputError(
                f"config.data.augmentation.{name} has the keys {sorted(settings[name])}, "
                f"expected {sorted(ranges)}"
            )
        for key, (least, largest) in ranges.items():
            if not least <= settings[name][key] <= largest:
                raise InputError(
                    f"data.augmentation.{name}.{key}={settings[name][key]}: expected a number "
                    f"from {least:g} to {largest:g}"
                )
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise InputError(
            f"config.data.augmentation has unknown keys {unknown}; known are: {' '.join(SETTINGS)}"
        )


def changes_faces(settings: Settings) -> bool:
    """Whether any augmentation is on: without, a face needs no random numbers."""
    return any(setting["probability"] > 0 for setting in settings.values())


def face_generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """All that is random about a face in an epoch."""
    return np.random.default_rng([seed, epoch, row, 1])  # [seed, epoch] orders the epoch.


def random_crop_map(
    rng: np.random.Generator,
    box: Float[ndarray, "4"],
    size: int,
    crop: Mapping[str, Any],
    settings: Settings,
) -> Float[ndarray, "2 3"]:
    """A random map into the crop: the image mirrored, scaled, turned and moved about its middle.

    Args:
        rng: of the face.
        box: of the face, before jitter.
        size: the side of the crop.
        crop: keywords of `crop.crop_box`.
        settings: as `check` wants them.

    Returns:
        One affine map. Its determinant is negative where the face is mirrored.
    """
    box = box.astype(np.float64)
    jitter = _draw(rng, settings["box_noise"], 4)
    box = crop_box(box + jitter * np.tile(box[2:] - box[:2], 2), **crop)
    angle = np.deg2rad(_draw(rng, settings["rotation"], 1)[0])
    scale = np.exp(_draw(rng, settings["scale"], 1)[0])
    aspect = np.exp(_draw(rng, settings["aspect"], 1)[0] / 2)
    shift = _draw(rng, settings["shift"], 2) * (box[2:] - box[:2])
    side = -1 if _happens(rng, settings["hflip"]) else 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # The face is turned before it is stretched: a tilted head that the crop then deforms.
    linear = np.diag([side * scale * aspect, scale / aspect]) @ turn
    middle = (box[:2] + box[2:]) / 2
    augmented_from_image = np.column_stack([linear, middle + shift - linear @ middle])
    return geometry.compose(geometry.crop_from_image(box, size), augmented_from_image)


def largest_reach(settings: Settings) -> float:
    """How far from the middle of the crop without augmentation the strongest draw looks.

    In half sides of that crop, the longer one, in x and in y: 1 is the crop itself, and what is cut
    out this many times as large holds every pixel that is looked at (interpolation and reduction
    take up to three pixels of the crop more). For crops that are not smaller than their box.
    """

    angle = np.deg2rad(_most(settings["rotation"]))
    angle = min(angle, np.pi / 4)  # |cos| + |sin| is largest at 45 degrees.
    turned = np.cos(angle) + np.sin(angle)
    stretched = np.exp(_most(settings["scale"]) + _most(settings["aspect"]) / 2)
    # Along one side a square may move by the jitter while the other makes it grow by twice that.
    jittered = 1 + 4 * _most(settings["box_noise"])
    return float(jittered * (1 + 2 * _most(settings["shift"])) * stretched * turned)


def largest_zoom(settings: Settings) -> float:
    """How many times as large as without augmentation the strongest draw shows a pixel, at most.

    For crops that are not smaller than their box.
    """
    stretched = np.exp(_most(settings["scale"]) + _most(settings["aspect"]) / 2)
    return float(stretched / (1 - 2 * _most(settings["box_noise"])))


def distort(
    rng: np.random.Generator,
    crop: UInt8[ndarray, "s s 3"],
    settings: Settings,
    read_other: Callable[[np.random.Generator], UInt8[ndarray, "s s 3"]],
) -> UInt8[ndarray, "s s 3"]:
    """Random changes of the pixels, none of which moves a point: light, covers, lens, sensor.

    Args:
        rng: of the face.
        crop: RGB; it is left as it is.
        settings: as `check` wants them.
        read_other: gives another crop of the same size, which patches are cut from.
    """
    crop = _light(rng, crop, settings)
    crop = _colour(rng, crop, settings)
    for name in ("erase_flat", "erase_noise", "paste"):
        if _happens(rng, settings[name]):
            crop = _cover(rng, crop, name, settings[name]["max"], read_other)
    return _sensor(rng, crop, settings)


def _light(rng, crop, settings):
    """Brightness, contrast and gamma, by one table of 256 values."""
    brightness, contrast, gamma = (
        _uniform(rng, settings[name]) for name in ("brightness", "contrast", "gamma")
    )
    if brightness == contrast == gamma == 0:
        return crop
    value = (np.arange(256) / 255 - 0.5) * np.exp(contrast) + 0.5 + brightness
    value = np.clip(value, 0, 1) ** np.exp(gamma)
    return cv2.LUT(crop, np.round(255 * value).astype(np.uint8))


def _colour(rng, crop, settings):
    saturation = np.exp(_uniform(rng, settings["saturation"]))
    if _happens(rng, settings["grey"]):
        saturation = 0.0
    if saturation == 1:
        return crop
    grey = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(crop, saturation, grey, 1 - saturation, 0)


def _cover(rng, crop, name, most, read_other):
    """A rectangle anywhere on the crop, partly outside too, of one colour, noise or a picture."""
    size = len(crop)
    sides = np.maximum(1, np.round(rng.uniform(most / 3, most, 2) * size)).astype(int)
    corner = np.round(rng.uniform(0, size, 2) - sides / 2).astype(int)
    (left, top), (right, bottom) = np.clip([corner, corner + sides], 0, size)
    height, width = max(0, bottom - top), max(0, right - left)
    if name == "erase_flat":
        patch = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3))
    elif name == "erase_noise":
        patch = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    else:
        y, x = rng.integers(0, (size - height + 1, size - width + 1))
        patch = read_other(rng)[y : y + height, x : x + width]
    crop = crop.copy()
    crop[top:bottom, left:right] = patch
    return crop


def _sensor(rng, crop, settings):
    """Blur, a low resolution and the traces of JPEG, in the order in which a camera adds them."""
    size = len(crop)
    if _happens(rng, settings["blur"]):
        sigma = rng.uniform(0, settings["blur"]["max"]) * size
        crop = cv2.GaussianBlur(crop, (0, 0), max(sigma, 0.01))
    if _happens(rng, settings["resolution"]):
        reduced = max(2, round(rng.uniform(settings["resolution"]["min"], 1) * size))
        crop = cv2.resize(crop, (reduced, reduced), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    if _happens(rng, settings["jpeg"]):
        quality = round(rng.uniform(settings["jpeg"]["min"], 95))
        bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
        _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        crop = cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return crop


def _happens(rng, setting) -> bool:
    return rng.random() < setting["probability"]


def _draw(rng, setting, count):
    """Normal numbers within `SDS` standard deviations, or zeros."""
    if not _happens(rng, setting):
        return np.zeros(count)
    draw = rng.standard_normal(count)
    while (outside := np.abs(draw) > SDS).any():
        draw[outside] = rng.standard_normal(np.count_nonzero(outside))
    return setting["std"] * draw


def _most(setting) -> float:
    """The largest number that `_draw` gives."""
    return SDS * setting["std"] if setting["probability"] > 0 else 0.0


def _uniform(rng, setting):
    """A number within +-`most`, or zero."""
    return rng.uniform(-1, 1) * setting["max"] if _happens(rng, setting) else 0.0
