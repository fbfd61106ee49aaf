"""Smooths points over time. NumPy, on the host."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_SPEED_CUTOFF = 1.0  # Hz, of the low-pass of the speed, as in the paper.


class OneEuroFilter:
    """The one-euro filter (Casiez, Roussel & Vogel, "1 Euro Filter", CHI 2012) of points.

    A low-pass whose cutoff grows with the speed: it removes the jitter of a face at rest without
    lagging behind one that moves. Speeds are in sides of the face, whatever its size in the image.

    Args:
        cutoff: for points at rest, in Hz; 0 leaves the points as they are.
        beta: by how much the cutoff grows, in Hz for a side of the face in a second.
    """

    def __init__(self, *, cutoff: float, beta: float):
        self._cutoff, self._beta = cutoff, beta
        self._points: ndarray | None = None
        self._speed: ndarray | float = 0.0
        self._time = 0.0

    def __call__(self, points: Float[ndarray, "n 2"], time: float) -> Float[ndarray, "n 2"]:
        """The smoothed points at `time`, in seconds."""
        elapsed = time - self._time
        self._time = time
        if self._points is None or self._cutoff == 0 or elapsed <= 0:
            self._points = points.astype(np.float64)
            return points
        side = np.sqrt(max(np.prod(np.ptp(points, axis=0)), 1e-6))
        velocity = (points - self._points) / (side * elapsed)
        self._speed += _weight(_SPEED_CUTOFF, elapsed) * (velocity - self._speed)
        # One cutoff for x and y of a point: two would bend its path.
        speed = np.linalg.norm(self._speed, axis=-1, keepdims=True)
        weight = _weight(self._cutoff + self._beta * speed, elapsed)
        self._points = self._points + weight * (points - self._points)
        return self._points.astype(np.float32)


def _weight(cutoff, elapsed):
    """The weight of the newest value in an exponential average with the cutoff."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))
