"""Composes a picture: heads side by side, what surrounds and covers them, and their labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from flm_jax.drawing import camera, occluders, scene
from flm_jax.drawing.parameters import HeadParameters, Light
from flm_jax.drawing.render import Head, render_head
from flm_jax.drawing.sampling import sample_head, sample_light

_MAX_SIDE = 512
_MIN_OCCLUDED = 14


class DrawnFace(NamedTuple):
    """A face of a picture.

    Attributes:
        landmarks: f32[98, 2], pixels of the picture.
        box: f32[4], the rectangle (xmin, ymin, xmax, ymax), whole pixels.
        attributes: bool[6], in the order of `wflw.ATTRIBUTES`. Pose: |yaw| > 38, |pitch| > 26 or
            |roll| > 32 degrees. Occlusion: at least 14 landmarks are covered by something.
        visible: bool[98], landmarks that are neither covered, nor on the far side of the head, nor
            outside of the picture.
        yaw: degrees, > 0 where the nose points to the picture's right.
        pitch: degrees, > 0 where the nose points up.
        roll: degrees, > 0 clockwise.
    """

    landmarks: Float[ndarray, "98 2"]
    box: Float[ndarray, "4"]
    attributes: Bool[ndarray, "6"]
    visible: Bool[ndarray, "98"]
    yaw: float
    pitch: float
    roll: float


class DrawnPicture(NamedTuple):
    """A picture, u8[h, w, 3] RGB, and its faces."""

    image: UInt8[ndarray, "h w 3"]
    faces: tuple[DrawnFace, ...]


class _Frame(NamedTuple):
    """A rectangle's width in pixels, and its margins (left, top, right, bottom) around the
    landmarks, as shares of their width and height."""

    width: float
    margins: tuple[float, float, float, float]


def draw_picture(rng: np.random.Generator, max_faces: int = 3) -> DrawnPicture:
    """A picture of one face, sometimes of up to `max_faces`, side by side."""
    count = min(num_faces(rng), max_faces)
    light = sample_light(rng)
    parameters = [sample_head(rng, light) for _ in range(count)]
    frames = [_sample_frame(rng, limit=_MAX_SIDE / (1.75 * count)) for _ in range(count)]
    heads = [
        render_head(p, frame.width / (1 + frame.margins[0] + frame.margins[2]))
        for p, frame in zip(parameters, frames, strict=True)
    ]
    size, corners = _arrange(rng, heads)
    image = scene.background(rng, int(size[1]), int(size[0]))
    if count == 1 and rng.random() < 0.3:
        _draw_bystander(rng, image, light, heads[0].landmarks + corners[0])
    for p, head, corner in zip(parameters, heads, corners, strict=True):
        scene.draw_clothes(rng, image, head.neck + corner, head.unit, p)
    for head, corner in zip(heads, corners, strict=True):
        scene.paste(image, head, *corner.tolist())
    landmarks = [head.landmarks + np.float32(c) for head, c in zip(heads, corners, strict=True)]
    covered = _draw_occluders(rng, image, parameters, heads, landmarks)
    image = camera.expose(image, light)
    if rng.random() < 0.08:
        image = camera.fade_to_grey(rng, image)
    blurred = rng.random() < 0.31
    if blurred:
        image = camera.blur(rng, image, max(frame.width for frame in frames))
    elif rng.random() < 0.6:
        image = camera.sharpen(image, rng.uniform(0.2, 1.2))
    if rng.random() < 0.4:
        image = camera.add_noise(rng, image, rng.uniform(1, 7))
    faces = []
    for p, head, frame, points, hidden in zip(
        parameters, heads, frames, landmarks, covered, strict=True
    ):
        occluded = hidden.sum() >= _MIN_OCCLUDED
        inside = ((points > -0.5) & (points < np.array(image.shape[1::-1]) - 0.5)).all(1)
        visible = inside & ~hidden & ~head.turned_away
        flags = (p.large_pose, p.strong_expression, light.unusual, p.made_up, occluded, blurred)
        box = _box(points, frame)
        faces.append(DrawnFace(points, box, np.array(flags, bool), visible, p.yaw, p.pitch, p.roll))
    return DrawnPicture(image, tuple(faces))


def num_faces(rng: np.random.Generator) -> int:
    """How many faces the picture has that `rng` is about to draw; its first number says it."""
    return int(np.searchsorted([0.88, 0.96], rng.random(), side="right")) + 1


def _sample_frame(rng: np.random.Generator, limit: float) -> _Frame:
    width = np.clip(98 * np.exp(0.36 * rng.standard_normal()), 50, min(218, limit))
    if rng.random() < 0.05:
        width = rng.uniform(22, 50)
    left, right, bottom = np.clip(rng.normal(0.005, 0.06, 3), -0.16, 0.17)
    top = np.clip(rng.normal(0.29, 0.13), -0.05, 0.65)
    return _Frame(float(width), (left, top, right, bottom))


def _box(landmarks: Float[ndarray, "98 2"], frame: _Frame) -> Float[ndarray, "4"]:
    low, high = landmarks.min(0), landmarks.max(0)
    left, top, right, bottom = frame.margins
    width, height = high - low
    box = [low[0] - left * width, low[1] - top * height,
           high[0] + right * width, high[1] + bottom * height]  # fmt: skip
    return np.round(box).astype(np.float32)


def _arrange(rng: np.random.Generator, heads: list[Head]) -> tuple[ndarray, list[ndarray]]:
    """The picture's size (width, height) and where the tiles' top-left pixels lie in it."""
    low = [head.landmarks.min(0) for head in heads]
    sizes = np.array([np.ptp(head.landmarks, axis=0) for head in heads])
    # A head with its hair is mostly less than 1.6 times as wide as its landmarks.
    slots = sizes[:, 0] * np.maximum(rng.uniform(1.5, 3.6 if len(heads) == 1 else 1.9), 1.5)
    height = sizes[:, 1].max() * rng.uniform(1.7, 3.2)
    total = np.minimum(np.ceil([slots.sum(), height]), _MAX_SIDE).astype(int)
    slots = slots * total[0] / slots.sum()
    left, corners = 0.0, []
    for size, slot, start in zip(sizes, slots, low, strict=True):
        room = np.array([slot, total[1]]) - size
        share = (
            rng.uniform([0.2, 0.35], 0.8)
            if len(heads) == 1
            else np.array([0.5, rng.uniform(0.4, 0.6)])
        )
        if len(heads) == 1 and rng.random() < 0.08:
            # Partly outside: up to a quarter of the face.
            side = rng.integers(4)
            beyond = rng.uniform(0.05, 0.25) * size[side % 2] / max(room[side % 2], 1)
            share[side % 2] = -beyond if side < 2 else 1 + beyond
        corners.append(np.round(room * share + [left, 0] - start).astype(int))
        left += slot
    return total, corners


def _draw_bystander(
    rng: np.random.Generator,
    image: UInt8[ndarray, "h w 3"],
    light: Light,
    face: Float[ndarray, "98 2"],
) -> None:
    """Somebody beside the face or half behind it, whom no list names."""
    p, (width, height) = sample_head(rng, light), np.ptp(face, axis=0)
    head = render_head(p, rng.uniform(0.5, 1.1) * np.clip(width, 40, 200))
    aside = rng.choice([-1, 1]) * rng.uniform(0.9, 1.7) * width, rng.normal(0, 0.4) * height
    corner = np.round(face.mean(0) + aside - head.landmarks.mean(0)).astype(int)
    scene.draw_clothes(rng, image, head.neck + corner, head.unit, p)
    scene.paste(image, head, *corner.tolist())


def _draw_occluders(
    rng: np.random.Generator,
    image: UInt8[ndarray, "h w 3"],
    parameters: list[HeadParameters],
    heads: list[Head],
    landmarks: list[Float[ndarray, "98 2"]],
) -> list[Bool[ndarray, "98"]]:
    """Hides parts of some faces; returns which landmarks each face has hidden, by anything."""
    covered = [head.covered.copy() for head in heads]
    for p, points in zip(parameters, landmarks, strict=True):
        if rng.random() >= 0.12:
            continue
        skin = p.skin if rng.random() < 0.8 else (rng.uniform(40, 220),) * 3
        mask = occluders.draw_occluder(rng, image, points, skin)
        for hidden, others in zip(covered, landmarks, strict=True):
            column, row = np.round(others).astype(int).T
            inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
            hidden[inside] |= mask[row[inside], column[inside]] > 127
    return covered
