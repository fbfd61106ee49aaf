"""Landmarks of drawn heads."""

import dataclasses

import numpy as np

from flm_jax.drawing.sampling import sample_head
from flm_jax.drawing.surface import Surface, landmarks_in_space, project, rotation


def drawn_landmarks(rng, **pose):
    """The landmarks of a head of random shape and expression, in pixels, and its pose."""
    head = dataclasses.replace(sample_head(rng), **pose)
    truth = head.yaw, head.pitch, head.roll
    points = project(landmarks_in_space(Surface(head), rotation(*truth)))
    return (80 * points + [200, 160]).astype(np.float32), truth
