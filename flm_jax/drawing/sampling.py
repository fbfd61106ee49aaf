"""Draws a head's parameters and its light at random, about as often as in WFLW."""

import dataclasses
from typing import Any

import numpy as np

from flm_jax.drawing.parameters import HeadParameters, Light, mix

_SKINS = np.array([
    [250, 214, 190], [240, 196, 165], [226, 178, 146], [205, 152, 118],
    [170, 118, 86], [130, 86, 62], [96, 62, 46],
], float)  # fmt: skip
_HAIRS = np.array([
    [28, 22, 20], [58, 38, 26], [92, 60, 36], [140, 96, 52], [206, 168, 104],
    [160, 70, 34], [168, 166, 164], [225, 222, 216],
], float)  # fmt: skip
_LIPSTICKS = np.array([[190.0, 20, 40], [150, 20, 70], [220, 60, 100], [110, 15, 40]])
_IRISES = ((88, 56, 34), (60, 40, 28), (96, 120, 150), (84, 124, 92), (120, 100, 60))


def sample_light(rng: np.random.Generator, unusual_share: float = 0.28) -> Light:
    """A usual light, or one that is dark, bright, hard from the side or coloured."""
    x, y = rng.normal(0, 0.5), rng.normal(-0.45, 0.25)
    light = Light((x, y, 1.0), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.7))
    if rng.random() >= unusual_share:
        return dataclasses.replace(light, exposure=rng.uniform(0.8, 1.2))
    kind = rng.integers(4)
    if kind == 0:
        return dataclasses.replace(light, exposure=rng.uniform(0.26, 0.5))
    if kind == 1:
        return dataclasses.replace(light, exposure=rng.uniform(1.45, 1.75))
    if kind == 2:
        direction = (rng.choice([-1, 1]) * rng.uniform(0.9, 1.2), rng.normal(-0.2, 0.2), 0.3)
        return Light(direction, rng.uniform(0.12, 0.25), rng.uniform(0.85, 1.1))
    colour = rng.uniform(145, 200, 3)
    colour[rng.integers(3)] = 255
    return dataclasses.replace(light, colour=tuple(colour))


def _sample_pose(rng: np.random.Generator) -> dict[str, Any]:
    """Mostly towards the camera; a tenth of the heads is turned, up to the profile."""
    yaw, pitch, roll = rng.normal(0, [17, 11, 9])
    if rng.random() < 0.1:
        yaw = rng.choice([-1, 1]) * (38 + 52 * rng.beta(1, 1.6))
    if rng.random() < 0.03:
        pitch = rng.choice([-1, 1]) * rng.uniform(22, 40)
    if rng.random() < 0.03:
        roll = rng.uniform(-80, 80)
    yaw, pitch, roll = np.clip([yaw, pitch, roll], [-90, -40, -90], [90, 40, 90])
    return {"yaw": float(yaw), "pitch": float(pitch), "roll": float(roll)}


def _sample_expression(rng: np.random.Generator) -> dict[str, Any]:
    kind = rng.choice(
        ["calm", "talking", "smiling", "gaping", "laughing", "shut", "kiss", "sad"],
        p=[0.4, 0.18, 0.29, 0.045, 0.04, 0.02, 0.012, 0.013],
    )
    calm = {
        "smile": rng.normal(0.05, 0.2), "frown": max(0.0, rng.normal(0, 0.3)),
        "brow_raise": rng.normal(0, 0.35),
        "eyes_open": float(np.clip(rng.normal(1, 0.15), 0.6, 1.3)),
        "gaze": tuple(np.clip(rng.normal(0, 0.5, 2), -1, 1)),
    }  # fmt: skip
    change = {
        "calm": {}, "talking": {"mouth_open": rng.uniform(0.08, 0.35)},
        "smiling": {"smile": rng.uniform(0.3, 0.78), "mouth_open": rng.choice([0, 0.18])},
        "gaping": {"mouth_open": rng.uniform(0.5, 1), "brow_raise": rng.uniform(0, 1)},
        "laughing": {"mouth_open": rng.uniform(0.4, 0.7), "smile": rng.uniform(0.8, 1.1),
                     "eyes_open": rng.uniform(0.45, 0.8)},
        "shut": {"eyes_open": rng.uniform(0.03, 0.2)},
        "kiss": {"pucker": rng.uniform(0.75, 1)}, "sad": {"smile": rng.uniform(-1.2, -0.85)},
    }[kind]  # fmt: skip
    return calm | change


def _sample_shape(rng: np.random.Generator) -> dict[str, Any]:
    def around(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.standard_normal(), -2.2, 2.2))

    return {
        "crown": around(1.5, 0.06), "chin": around(1.585, 0.1), "jaw": around(2.22, 0.18),
        "eye_x": around(0.44, 0.022), "eye_width": around(0.183, 0.014),
        "eye_height": around(0.087, 0.014), "eye_tilt": around(0.054, 0.08),
        "brow_y": around(-0.205, 0.035), "brow_arch": around(0.072, 0.03),
        "brow_thickness": around(0.104, 0.02), "nose_length": around(0.505, 0.055),
        "nose_width": around(0.2, 0.03), "nose_height": around(0.39, 0.06),
        "mouth_y": around(0.93, 0.05), "mouth_width": around(0.365, 0.035),
        "lip": around(0.124, 0.026), "wobble": tuple(rng.normal(0, [0.02, 0.012, 0.012, 0.02])),
    }  # fmt: skip


def sample_head(rng: np.random.Generator, light: Light | None = None) -> HeadParameters:
    """A head drawn at random; `light` makes several heads share a picture's lamp."""
    shape, pose, expression = _sample_shape(rng), _sample_pose(rng), _sample_expression(rng)
    tone = rng.uniform(0, len(_SKINS) - 1)
    skin = (1 - tone % 1) * _SKINS[int(tone)] + tone % 1 * _SKINS[int(tone) + 1]
    skin = skin + rng.normal(0, 5, 3)
    hair_colour = _HAIRS[rng.integers(3 if tone > 4 else len(_HAIRS))] * rng.uniform(0.8, 1.15)
    made_up, female = rng.random() < 0.085, rng.random() < 0.5
    hair = rng.choice(
        ["bald", "ring", "short", "fringe", "long"],
        p=[0.0, 0.0, 0.3, 0.1, 0.6] if female or made_up else [0.13, 0.07, 0.7, 0.06, 0.04],
    )
    lips = np.array(mix(tuple(skin * 0.82), (170, 50, 55), rng.uniform(0.2, 0.45)))
    lipstick = made_up and rng.random() < 0.8
    if lipstick:
        lips = _LIPSTICKS[rng.integers(4)]
    shadowed = made_up and (not lipstick or rng.random() < 0.7)
    bearded = not female and not made_up and rng.random() < 0.45
    return HeadParameters(
        **shape, **pose, **expression,
        skin=tuple(np.clip(skin, 30, 255)), lip_colour=tuple(lips), lipstick=lipstick,
        iris=_IRISES[rng.integers(2 if tone > 3.5 else len(_IRISES))],
        hair_colour=tuple(np.clip(hair_colour, 12, 240)), hair=str(hair),
        hairline=rng.uniform(-1.02, -0.75), part=rng.normal(0, 0.09),
        hair_thickness=rng.uniform(0.06, 0.26),
        hair_length=rng.uniform(1.1, 2.3), brow_strength=rng.uniform(0.55, 0.95),
        beard=rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.8, 0.95)]) if bearded else 0.0,
        eye_shadow=rng.uniform(0.45, 0.8) if shadowed else 0.0,
        shadow_colour=tuple(rng.uniform([40, 20, 60], [160, 110, 200])),
        blush=rng.uniform(0.4, 1) if made_up else rng.uniform(0, 0.25),
        glasses=str(rng.choice(["none", "frame", "dark"], p=[0.82, 0.11, 0.07])),
        scarf=rng.uniform(0.6, 1.0) if rng.random() < 0.05 else 0.0,
        scarf_colour=tuple(rng.uniform(40, 230, 3)), texture=rng.uniform(0.6, 1.3),
        freckles=int(rng.choice([0, 30], p=[0.85, 0.15])), seed=int(rng.integers(2**31)),
        light=light or sample_light(rng),
    )  # fmt: skip
