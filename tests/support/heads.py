"""Landmarks of drawn heads."""

import dataclasses

import numpy as np

from flm_jax.drawing.sampling import sample_head
from flm_jax.drawing.surface import posed_landmarks


def drawn_landmarks(rng, **pose):
    """The landmarks of a head of random shape and expression, in pixels, and its pose."""
    head = dataclasses.replace(sample_head(rng), **pose)
    points = (80 * posed_landmarks(head) + [200, 160]).astype(np.float32)
    return points, (head.yaw, head.pitch, head.roll)
