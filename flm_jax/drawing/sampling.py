"""Draws a head's parameters and its light at random, about as often as in WFLW."""

import dataclasses
from typing import Any

import numpy as np
from numpy import ndarray

from flm_jax.drawing import headwear
from flm_jax.drawing.parameters import HeadParameters, Light, mix

_SKINS = np.array([
    [250, 214, 190], [240, 196, 165], [226, 178, 146], [205, 152, 118],
    [170, 118, 86], [130, 86, 62], [96, 62, 46],
], float)  # fmt: skip
_HAIRS = np.array([
    [28, 22, 20], [58, 38, 26], [92, 60, 36], [140, 96, 52], [206, 168, 104],
    [160, 70, 34], [168, 166, 164], [225, 222, 216],
], float)  # fmt: skip
_HAIR_SHARES = [0.25, 0.22, 0.17, 0.12, 0.1, 0.06, 0.05, 0.03]  # of _HAIRS, on lighter skins
_LIPSTICKS = np.array([[190.0, 20, 40], [150, 20, 70], [220, 60, 100], [110, 15, 40]])
_IRISES = ((88, 56, 34), (60, 40, 28), (96, 120, 150), (84, 124, 92), (120, 100, 60))


_CLOTHS = np.array([[30, 30, 34], [225, 225, 220], [40, 60, 120], [170, 35, 40], [90, 90, 95],
                    [60, 110, 70], [205, 170, 60], [120, 80, 50]], float)  # fmt: skip


def sample_light(rng: np.random.Generator, unusual_share: float = 0.28) -> Light:
    """A usual light, or one that is dark, bright, hard from the side or coloured."""
    x, y = rng.normal(0, 0.7), rng.normal(-0.45, 0.35)
    # Flat light, or a lamp that models the face.
    ambient = rng.uniform(0.32, 0.7)
    # From a cold sky to a warm bulb.
    warm = rng.uniform(-20, 60)
    white = (255.0 + min(warm, 0), 255.0 - 0.35 * max(warm, 0), 255.0 - max(warm, 0))
    diffuse, softness = (1.15 - ambient) * rng.uniform(0.8, 1.25), rng.uniform(0.1, 1.3)
    light = Light((x, y, 1.0), ambient, diffuse, softness, white)
    if rng.random() >= unusual_share:
        return dataclasses.replace(light, exposure=rng.uniform(0.9, 1.3))
    kind = rng.integers(5)
    if kind == 4:
        # From two sides: dark, or of another colour, on one of them.
        far = rng.uniform(40, 120) * np.ones(3) if rng.random() < 0.5 else rng.uniform(60, 255, 3)
        return dataclasses.replace(light, far_colour=tuple(far))
    if kind == 0:
        return dataclasses.replace(light, exposure=rng.uniform(0.36, 0.6))
    if kind == 1:
        return dataclasses.replace(light, exposure=rng.uniform(1.6, 1.9))
    if kind == 2:
        direction = (rng.choice([-1, 1]) * rng.uniform(0.9, 1.2), rng.normal(-0.2, 0.2), 0.3)
        return Light(direction, rng.uniform(0.12, 0.25), rng.uniform(0.85, 1.1), 0.0)
    colour = rng.uniform(145, 200, 3)
    colour[rng.integers(3)] = 255
    return dataclasses.replace(light, colour=tuple(colour))


def _sample_pose(rng: np.random.Generator) -> dict[str, Any]:
    """Mostly towards the camera; a tenth of the heads is turned, up to the profile."""
    yaw, pitch, roll = rng.normal(0, [17, 11, 9])
    if rng.random() < 0.12:
        yaw = rng.choice([-1, 1]) * (38 + 52 * rng.beta(1, 1.6))
    if rng.random() < 0.03:
        pitch = rng.choice([-1, 1]) * rng.uniform(22, 40)
    if rng.random() < 0.03:
        roll = rng.uniform(-80, 80)
    yaw, pitch, roll = np.clip([yaw, pitch, roll], [-90, -40, -90], [90, 40, 90])
    return {"yaw": float(yaw), "pitch": float(pitch), "roll": float(roll)}


def _sample_expression(rng: np.random.Generator) -> dict[str, Any]:
    kind = rng.choice(
        ["calm", "talking", "smiling", "squinting", "staring",
         "gaping", "shouting", "laughing", "shut", "kiss", "sad"],
        p=[0.23, 0.16, 0.35, 0.05, 0.04, 0.04, 0.035, 0.035, 0.035, 0.012, 0.013],
    )  # fmt: skip
    calm = {
        "smile": rng.normal(0.05, 0.2), "frown": max(0.0, rng.normal(0, 0.3)),
        "brow_raise": rng.normal(0, 0.35),
        "eyes_open": float(np.clip(rng.normal(1, 0.2), 0.5, 1.45)),
        "gaze": tuple(np.clip(rng.normal(0, [0.32, 0.4]), -1, 1)),
    }  # fmt: skip
    change = {
        "calm": {}, "talking": {"mouth_open": rng.uniform(0.08, 0.38)},
        "smiling": {"smile": rng.uniform(0.35, 0.79),
                    "mouth_open": rng.choice([0.0, rng.uniform(0.12, 0.38)], p=[0.2, 0.8])},
        "squinting": {"eyes_open": rng.uniform(0.3, 0.5), "frown": rng.uniform(0, 1)},
        "staring": {"eyes_open": rng.uniform(1.3, 1.6), "brow_raise": rng.uniform(0.3, 1.2)},
        "gaping": {"mouth_open": rng.uniform(0.45, 0.9), "brow_raise": rng.uniform(0, 1)},
        "shouting": {"mouth_open": rng.uniform(0.7, 1.3), "frown": rng.uniform(0, 1),
                     "eyes_open": rng.uniform(0.15, 1.2), "smile": rng.uniform(-0.2, 0.6)},
        "laughing": {"mouth_open": rng.uniform(0.4, 0.75), "smile": rng.uniform(0.8, 1.1),
                     "eyes_open": rng.uniform(0.1, 0.8)},
        "shut": {"eyes_open": rng.uniform(0.0, 0.2), "mouth_open": rng.choice([0.0, 0.1, 0.6])},
        "kiss": {"pucker": rng.uniform(0.75, 1)}, "sad": {"smile": rng.uniform(-1.2, -0.85)},
    }[kind]  # fmt: skip
    return calm | change


def _sample_shape(rng: np.random.Generator) -> dict[str, Any]:
    def around(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.standard_normal(), -2.4, 2.4))

    # A child's eyes are larger, its nose and chin shorter, its brows thinner.
    child = rng.uniform(0.3, 1) if rng.random() < 0.08 else -0.05
    return {
        "crown": around(1.54, 0.13), "chin": around(1.595 - 0.12 * child, 0.085),
        "jaw": around(2.24, 0.2), "breadth": around(1.015, 0.07),
        "eye_x": around(0.44 + 0.01 * child, 0.02), "eye_width": around(0.202, 0.019),
        "eye_height": around(0.087 + 0.02 * child, 0.014), "eye_tilt": around(0.054, 0.09),
        "brow_y": around(-0.2, 0.04), "brow_arch": around(0.06, 0.03),
        "brow_width": around(1.03, 0.08),
        "brow_thickness": around(0.104 - 0.03 * child, 0.02),
        "nose_length": around(0.524 - 0.1 * child, 0.05),
        "nose_width": around(0.198, 0.027), "nose_height": around(0.35 - 0.11 * child, 0.055),
        "ridge": rng.uniform(2.0, 3.2),
        "mouth_y": around(0.93 - 0.09 * child, 0.05),
        "mouth_width": around(0.4 - 0.03 * child, 0.045), "lip": around(0.124, 0.026),
        "wobble": tuple(rng.normal(0, [0.03, 0.014, 0.02, 0.05])),
    }  # fmt: skip


def _sample_covers(rng: np.random.Generator, hair: str, hairline: float) -> dict[str, Any]:
    """Glasses, headwear, masks, and hair across the face."""
    found: dict[str, Any] = {
        "glasses": str(rng.choice(["none", "frame", "dark"], p=[0.8, 0.12, 0.08]))
    }
    # Round, square, wide, large.
    width, height, power = ((0.27, 0.25, 2), (0.33, 0.2, 4), (0.36, 0.17, 3), (0.38, 0.29, 2.6))[
        rng.integers(4)
    ]
    found["lens"] = tuple(np.array([width, height, power]) * rng.uniform(0.9, 1.1, 3))
    found["rim"] = rng.choice([rng.uniform(0.03, 0.06), rng.uniform(0.07, 0.2)])
    tone = rng.uniform(15, 70) if rng.random() < 0.7 else rng.uniform(20, 230, 3)
    found["glasses_colour"] = tuple(tone * np.ones(3))
    if rng.random() < 0.17:
        found["headwear"] = str(rng.choice(headwear.KINDS, p=[0.15, 0.3, 0.15, 0.13, 0.12, 0.15]))
        found["headwear_y"] = rng.uniform(-0.75, -0.36)
        found["headwear_colour"] = tuple(_CLOTHS[rng.integers(8)] * rng.uniform(0.8, 1.1))
        found["brim"] = rng.uniform(0.35, 0.9)
    if rng.random() < 0.06:
        found["mask"] = rng.random() < 0.5
        found["scarf"] = rng.uniform(0.85, 1.05) if found["mask"] else rng.uniform(0.5, 1.0)
        found["scarf_colour"] = tuple(_CLOTHS[rng.integers(8)] * rng.uniform(0.8, 1.1))
    share = {"long": 0.1, "fringe": 0.2, "short": 0.03}.get(hair, 0.0)
    if rng.random() < share:
        found["strands"] = int(rng.integers(2, 12))
    if hair == "fringe":
        hairline = rng.uniform(-0.5, -0.12)
    return found | {"hairline": hairline}


def _sample_neck(rng: np.random.Generator, female: bool) -> dict[str, Any]:
    """Thin and in the chin's shadow to thick and as bright as the face; open or in a collar."""
    found: dict[str, Any] = {
        "neck": float(np.clip(rng.normal(0.72 if female else 0.84, 0.1), 0.5, 1.1)),
        "throat": max(0.0, rng.normal(0.02, 0.12)),
        "chin_shadow": rng.uniform(0.1, 0.8),
        "flare": rng.uniform(0.1, 0.5),
        "shoulders": float(np.clip(rng.normal(0.15, 0.35), 0, 1)),
    }
    cloth = np.array([235, 235, 235]) if rng.random() < 0.25 else rng.uniform(15, 130)
    if rng.random() < 0.5:
        cloth = _CLOTHS[rng.integers(8)] * rng.uniform(0.5, 1.2) + rng.normal(0, 20, 3)
    found["cloth_colour"] = tuple(np.clip(cloth * np.ones(3), 8, 250))
    if rng.random() < 0.6:
        found["collar"] = rng.uniform(0.05, 0.75)
        found["neckline"] = rng.uniform(0, 0.5)
    if rng.random() < 0.4:
        height, lean, fold = rng.uniform([0.2, 0.0, 0.0], [0.85, 0.4, 0.6])
        found["lapels"] = height, lean, fold, rng.uniform(0.1, 1.4)
        colour = cloth if rng.random() < 0.5 else rng.choice(_CLOTHS) * rng.uniform(0.6, 1.1)
        colour = np.array([235.0, 235.0, 240.0]) if rng.random() < 0.3 else colour * np.ones(3)
        found["lapel_colour"] = tuple(np.clip(colour, 8, 250))
    return found


def _sample_shadow(rng: np.random.Generator, covers: dict[str, Any]) -> tuple[float, float, float]:
    """Of a brim on the face below it, or from any side."""
    if covers.get("headwear") in ("cap", "hat", "helmet", "hood") and rng.random() < 0.6:
        place = -covers["headwear_y"] - rng.uniform(0.1, 1.2)
        return rng.uniform(0.2, 0.75), rng.normal(0, 0.2), place
    if rng.random() < 0.12:
        return rng.uniform(0.2, 0.7), rng.uniform(-np.pi, np.pi), rng.uniform(-0.3, 0.7)
    return 0.0, 0.0, 0.0


def _sample_make_up(rng: np.random.Generator, skin: ndarray) -> dict[str, Any]:
    """Make-up on every twelfth face, some of it face paint."""
    plain = np.array(mix(tuple(skin * 0.82), (170, 50, 55), rng.uniform(0.2, 0.45)))
    found: dict[str, Any] = {"lip_colour": tuple(plain), "blush": rng.uniform(0, 0.25)}
    if rng.random() >= 0.085:
        return found
    found["blush"] = rng.uniform(0.4, 1)
    if rng.random() < 0.22:
        found["face_paint"] = str(rng.choice(["clown", "stripes", "half", "patches"]))
        found["paint_colour"] = tuple(rng.uniform(15, 245, 3))
        return found
    found["lipstick"] = rng.random() < 0.8
    if found["lipstick"]:
        found["lip_colour"] = tuple(_LIPSTICKS[rng.integers(4)])
    if not found["lipstick"] or rng.random() < 0.7:
        found["eye_shadow"] = rng.uniform(0.45, 0.8)
    return found


def sample_head(rng: np.random.Generator, light: Light | None = None) -> HeadParameters:
    """A head drawn at random; `light` makes several heads share a picture's lamp."""
    shape, pose, expression = _sample_shape(rng), _sample_pose(rng), _sample_expression(rng)
    tone = rng.beta(1, 1.35) * (len(_SKINS) - 1)
    skin = (1 - tone % 1) * _SKINS[int(tone)] + tone % 1 * _SKINS[int(tone) + 1]
    skin = skin * rng.uniform([1.0, 0.91, 0.9], [1.07, 0.98, 1.0]) + rng.normal(0, 5, 3)
    wrinkles = rng.uniform(0.4, 1) if rng.random() < 0.15 else 0.0
    hair_colour = _HAIRS[rng.integers(3) if tone > 4 else rng.choice(8, p=_HAIR_SHARES)]
    if wrinkles > 0.6:
        hair_colour = _HAIRS[-rng.integers(1, 3)]
    make_up = _sample_make_up(rng, skin)
    female = rng.random() < 0.5 or bool(make_up.get("lipstick"))
    hair = str(rng.choice(
        ["bald", "ring", "short", "fringe", "long"],
        p=[0.0, 0.0, 0.28, 0.14, 0.58] if female else [0.13, 0.07, 0.66, 0.1, 0.04],
    ))  # fmt: skip
    bearded = not female and rng.random() < 0.5
    covers = _sample_covers(rng, hair, rng.uniform(-1.02, -0.7))
    return HeadParameters(
        **shape, **pose, **expression, **make_up,
        **covers, **_sample_neck(rng, female), shadow=_sample_shadow(rng, covers),
        skin=tuple(np.clip(skin, 30, 255)), wrinkles=wrinkles,
        iris=_IRISES[rng.integers(2 if tone > 3.5 else len(_IRISES))],
        hair_colour=tuple(np.clip(hair_colour * rng.uniform(0.8, 1.15), 12, 240)), hair=hair,
        part=rng.normal(0, rng.choice([0.09, 0.35], p=[0.85, 0.15])),
        hair_thickness=rng.uniform(0.04, 0.4),
        hair_height=float(np.clip(rng.normal(0.1, 0.3), 0, 0.9)),
        hair_length=rng.uniform(0.9, 2.3),
        hair_sides=rng.uniform(0, 0.9) if hair == "long" and rng.random() < 0.2 else 0.0,
        curl=rng.uniform(0.2, 1) if rng.random() < 0.45 else 0.0,
        brow_strength=rng.uniform(0.3, 1.0),
        eye_white=rng.uniform(0.6, 1.0), glint=rng.uniform(0, 0.9), sockets=rng.uniform(0.25, 0.65),
        line_strength=rng.uniform(0.4, 1.2), shine=rng.uniform(0.02, 0.4),
        beard=rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.75, 0.95)]) if bearded else 0.0,
        beard_kind=str(rng.choice(["full", "goatee", "moustache"], p=[0.6, 0.2, 0.2])),
        beard_length=rng.uniform(0.0, 0.4) if rng.random() < 0.4 else 0.0,
        shadow_colour=tuple(rng.uniform([40, 20, 60], [160, 110, 200])),
        texture=rng.uniform(0.7, 1.9),
        freckles=int(rng.choice([0, 30], p=[0.85, 0.15])), seed=int(rng.integers(2**31)),
        light=light or sample_light(rng),
    )  # fmt: skip
