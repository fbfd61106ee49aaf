"""Boxes that are off by a stated amount. NumPy, on the host."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax import geometry


def shifted_boxes(
    rng: np.random.Generator, boxes: Float[ndarray, "n 4"], share: float
) -> Float[ndarray, "n 4"]:
    """Each box shifted by `share` of its width and height, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi, len(boxes))
    step = share * np.stack([np.cos(angle), np.sin(angle)], axis=1) * (boxes[:, 2:] - boxes[:, :2])
    return (boxes + np.tile(step, 2)).astype(np.float32)


def scaled_boxes(
    rng: np.random.Generator, boxes: Float[ndarray, "n 4"], share: float
) -> Float[ndarray, "n 4"]:
    """Each box, at random, larger or smaller by `share` of its sides, about its middle."""
    sign = rng.choice([-1, 1], (len(boxes), 1))
    return geometry.add_margins(boxes, sign * share / 2).astype(np.float32)
