"""Augmentation of a training face: one random affine map, then random changes of the crop's pixels.

Every augmentation has a probability, and most have a range; `SETTINGS` lists them. All draws for a
face come from one generator, seeded by the seed, the epoch and its row, so a resumed run sees the
same crops with any number of workers and threads.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data import style
from flm_jax.data.crop import crop_box
from flm_jax.errors import InputError

Settings = Mapping[str, Mapping[str, Any]]

# left, top, right, bottom in whole pixels of the crop, the last two exclusive
Cover = tuple[int, int, int, int]

# Normal draws beyond this many standard deviations are redrawn, so every range is bounded.
_MAX_STDS = 2.0

# The key of each augmentation's range, with its smallest and largest valid value.
SETTINGS: dict[str, tuple[str, float, float] | None] = {
    "hflip": None,
    "rotation": ("std", 0, 90),  # degrees
    "scale": ("std", 0, 0.5),  # of the log of the factor
    "shift": ("std", 0, 0.5),  # of x and of y, in sides of the crop
    "aspect": ("std", 0, 0.5),  # of the log of width / height
    "box_noise": ("std", 0, 0.2),  # of each edge of the box, in widths and heights of the box
    "brightness": ("max", 0, 1),  # added or subtracted; white is 1
    "contrast": ("max", 0, 3),  # absolute log of the factor
    "gamma": ("max", 0, 3),  # absolute log of the exponent
    "saturation": ("max", 0, 3),  # absolute log of the factor
    "grey": None,
    "surroundings": ("max", 0.02, 1),  # how far off the face another picture begins, in its sizes
    "erase_flat": ("max", 0.02, 1),  # side of the patch, in sides of the crop
    "erase_noise": ("max", 0.02, 1),
    "paste": ("max", 0.02, 1),  # a patch of another training face
    "colour": ("max", 0, 1),  # change of each channel's gain, and half of it of its offset
    "random_conv": ("max", 1, 7),  # side of the kernel
    "fourier": ("max", 0, 1),  # share of another image's amplitudes
    "posterise": ("min", 2, 256),  # levels
    "halftone": ("max", 0.02, 0.2),  # distance of the dots, in sides of the crop
    "noise": ("max", 0, 0.5),  # the Gaussian's std; white is 1
    "blur": ("max", 0, 0.1),  # the Gaussian's std, in sides of the crop
    "resolution": ("min", 0.02, 1),  # share of the side that the crop is reduced to
    "jpeg": ("min", 1, 95),  # quality; 95 is the highest drawn
}


def check(settings: Settings) -> None:
    """Raises InputError unless every augmentation is there and its values are valid."""
    for name, value_range in SETTINGS.items():
        if name not in settings:
            raise InputError(f"config.data.augmentation lacks the key '{name}'")
        ranges: dict[str, tuple[float, float]] = {"probability": (0, 1)}
        if value_range:
            ranges[value_range[0]] = value_range[1:]
        if set(settings[name]) != set(ranges):
            raise InputError(
                f"config.data.augmentation.{name} has the keys {sorted(settings[name])}, "
                f"expected {sorted(ranges)}"
            )
        for key, (low, high) in ranges.items():
            if not low <= settings[name][key] <= high:
                raise InputError(
                    f"data.augmentation.{name}.{key}={settings[name][key]}: expected a number "
                    f"from {low:g} to {high:g}"
                )
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise InputError(
            f"config.data.augmentation has unknown keys {unknown}; known are: {' '.join(SETTINGS)}"
        )


def changes_faces(settings: Settings) -> bool:
    """Whether any augmentation is on."""
    return any(setting["probability"] > 0 for setting in settings.values())


def face_generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The generator of everything random about a face in an epoch."""
    return np.random.default_rng([seed, epoch, row, 1])  # [seed, epoch] is the sampler's.


def random_crop_map(
    rng: np.random.Generator,
    box: Float[ndarray, "4"],
    size: int,
    crop: Mapping[str, Any],
    settings: Settings,
) -> Float[ndarray, "2 3"]:
    """A random map from the image to the crop; a negative determinant flips the face.

    Args:
        rng: of the face.
        box: of the face, without noise.
        size: side of the crop in pixels.
        crop: keywords of `crop.crop_box`.
        settings: valid for `check`.
    """
    box = box.astype(np.float64)
    noise = _normal(rng, settings["box_noise"], 4)
    box = crop_box(box + noise * np.tile(box[2:] - box[:2], 2), **crop)
    angle = np.deg2rad(_normal(rng, settings["rotation"], 1)[0])
    scale = np.exp(_normal(rng, settings["scale"], 1)[0])
    aspect = np.exp(_normal(rng, settings["aspect"], 1)[0] / 2)
    shift = _normal(rng, settings["shift"], 2) * (box[2:] - box[:2])
    side = -1 if _happens(rng, settings["hflip"]) else 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Rotated first, then stretched: a tilted head that the crop deforms.
    linear = np.diag([side * scale * aspect, scale / aspect]) @ turn
    middle = (box[:2] + box[2:]) / 2
    augmented_from_image = np.column_stack([linear, middle + shift - linear @ middle])
    return geometry.compose(geometry.crop_from_image(box, size), augmented_from_image)


def largest_reach(settings: Settings) -> float:
    """The farthest that any draw looks from the middle of the plain crop, in x and in y.

    In longer half sides of that crop: 1 is the crop itself, and a square this many times as large
    holds every pixel that any draw samples (interpolation and reduction take up to three pixels of
    the crop more). Valid for crops no smaller than their box.
    """
    angle = np.deg2rad(_largest(settings["rotation"]))
    angle = min(angle, np.pi / 4)  # |cos| + |sin| is largest at 45 degrees.
    turned = np.cos(angle) + np.sin(angle)
    stretched = np.exp(_largest(settings["scale"]) + _largest(settings["aspect"]) / 2)
    # A square may move by the noise of one side while the other side grows it by twice that.
    noisy = 1 + 4 * _largest(settings["box_noise"])
    return float(noisy * (1 + 2 * _largest(settings["shift"])) * stretched * turned)


def largest_zoom(settings: Settings) -> float:
    """The largest magnification of any draw, relative to the plain crop.

    Valid for crops no smaller than their box.
    """
    stretched = np.exp(_largest(settings["scale"]) + _largest(settings["aspect"]) / 2)
    return float(stretched / (1 - 2 * _largest(settings["box_noise"])))


def distort(
    rng: np.random.Generator,
    crop: UInt8[ndarray, "s s 3"],
    landmarks: Float[ndarray, "98 2"],
    settings: Settings,
    read_other: Callable[[np.random.Generator], UInt8[ndarray, "s s 3"]],
) -> tuple[UInt8[ndarray, "s s 3"], list[Cover]]:
    """The crop with random changes of what surrounds the face, of light, style, occlusion, lens and
    sensor; no point moves.

    Args:
        rng: of the face.
        crop: RGB, not modified.
        landmarks: in pixels of the crop.
        settings: valid for `check`.
        read_other: returns another crop of the same size, whose parts are pasted.

    Returns:
        The crop, and where it is covered now.
    """
    # Draws nothing where it is off, as styles do.
    if settings["surroundings"]["probability"] and _happens(rng, settings["surroundings"]):
        crop = _surround(rng, crop, landmarks, settings["surroundings"]["max"], read_other)
    crop = _light(rng, crop, settings)
    crop = _colour(rng, crop, settings)
    crop = style.restyle(rng, crop, settings, read_other)
    covers = []
    for name in ("erase_flat", "erase_noise", "paste"):
        if _happens(rng, settings[name]):
            crop, cover = _occlude(rng, crop, name, settings[name]["max"], read_other)
            covers.append(cover)
    return _sensor(rng, crop, settings), covers


def _surround(rng, crop, landmarks, farthest, read_other):
    """Another face's crop around this face, its forehead and a margin, with a soft or sharp edge.

    Hair, ears, neck and clothes say little of the face then, so a network learns to do without.
    """
    forehead = landmarks[33:51] + 0.5 * (landmarks[51] - landmarks[16])
    # OpenCV counts sixteenths of a pixel in 32 bits, and a wrong label may lie far away.
    points = np.clip(np.concatenate([landmarks, forehead]), -4 * len(crop), 5 * len(crop))
    face = cv2.convexHull(np.round(16 * points).astype(np.int32))
    outside = np.ones(crop.shape[:2], np.uint8)
    cv2.fillConvexPoly(outside, face, 0, shift=4)
    size = np.sqrt(np.prod(np.ptp(landmarks, axis=0)))
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 3)
    begin, softness = rng.uniform([0, 0.005], [farthest, 0.1]) * size
    share = np.clip((distance - begin) / max(softness, 1e-3), 0, 1).astype(np.float32)
    return cv2.blendLinear(read_other(rng), crop, share, 1 - share)


def _light(rng, crop, settings):
    """Brightness, contrast and gamma, by one look-up table."""
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


def _occlude(rng, crop, name, max_side, read_other):
    """A patch of one colour, of noise or of another face, anywhere and partly outside too."""
    size = len(crop)
    sides = np.maximum(1, np.round(rng.uniform(max_side / 3, max_side, 2) * size)).astype(int)
    corner = np.round(rng.uniform(0, size, 2) - sides / 2).astype(int)
    (left, top), (right, bottom) = np.clip([corner, corner + sides], 0, size).tolist()
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
    return crop, (left, top, right, bottom)


def _sensor(rng, crop, settings):
    """Blur, low resolution and JPEG artefacts, in the order in which a camera adds them."""
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


def _normal(rng, setting, count):
    """Normal numbers within `_MAX_STDS` standard deviations, or zeros."""
    if not _happens(rng, setting):
        return np.zeros(count)
    draw = rng.standard_normal(count)
    while (outside := np.abs(draw) > _MAX_STDS).any():
        draw[outside] = rng.standard_normal(np.count_nonzero(outside))
    return setting["std"] * draw


def _largest(setting) -> float:
    """The largest number that `_normal` returns."""
    return _MAX_STDS * setting["std"] if setting["probability"] > 0 else 0.0


def _uniform(rng, setting):
    """A number in [-max, max], or zero."""
    return rng.uniform(-1, 1) * setting["max"] if _happens(rng, setting) else 0.0
