"""What is drawn over faces: hands, microphones, bars, objects and patches.

Pictures are u8[h, w, 3] RGB; points are pixels, and (0, 0) is the centre of the top-left pixel.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax.drawing.scene import SHIFT, background, fixed, random_colour


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
        _draw_capsules(picture, mask, [(ends, rng.uniform(0.14, 0.36) * size)], random_colour(rng))
    elif kind == "object":
        angle = np.linspace(0, 2 * np.pi, 40)
        power = rng.uniform(0.4, 1.2)
        x, y = (np.sign(f(angle)) * np.abs(f(angle)) ** power for f in (np.cos, np.sin))
        shape = np.stack([x, y], 1) * rng.uniform(0.22, 0.42, 2) * size
        turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(0, 180), 1)[:, :2]
        points = fixed(shape @ turn.T + target + outwards * 0.12 * size)
        _draw_solid(picture, mask, points, random_colour(rng), 0.08 * size)
    else:
        half = rng.uniform(0.16, 0.34, 2) * size
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half + target
        cv2.fillPoly(mask, [fixed(corners)], 255, cv2.LINE_AA, SHIFT)
        picture[mask > 127] = background(rng, *picture.shape[:2])[mask > 127]
    return mask


def _draw_microphone(rng, picture, mask, mouth: ndarray, size: float) -> None:
    """A round head before the mouth or below it, on a handle that comes from below."""
    tone = np.array(random_colour(rng)) * 0.4
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
    cv2.fillPoly(shape, [points], 255, cv2.LINE_AA, SHIFT)
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
        cv2.polylines(shape, [fixed(ends)], False, 255, thickness, cv2.LINE_AA, SHIFT)
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
