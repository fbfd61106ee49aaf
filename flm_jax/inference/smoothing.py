"""Steadies points over time, on the host."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_SPEED_CUTOFF = 1.0  # Hz, of the low-pass of the speed, as the paper has it.


class OneEuroFilter:
    """The one-euro filter (Casiez, Roussel & Vogel, "1 Euro Filter", CHI 2012), of points.

    A low-pass whose cutoff grows with the speed: a face at rest does not tremble, one that moves is
    not late. Speeds are in sides of the face, so that its size in the picture changes nothing.

    Args:
        cutoff: of the low-pass for points at rest, in Hz; 0 leaves the points as they are.
        beta: how much it grows, in Hz for a side of the face in a second.
    """

    def __init__(self, *, cutoff: float, beta: float):
        self._cutoff, self._beta = cutoff, beta
        self._points: ndarray | None = None
        self._speed: ndarray | float = 0.0
        self._time = 0.0

    def __call__(self, points: Float[ndarray, "n 2"], time: float) -> Float[ndarray, "n 2"]:
        """The points at `time`, in seconds, steadied by those before."""
        elapsed = time - self._time
        self._time = time
        if self._points is None or self._cutoff == 0 or elapsed <= 0:
            self._points = points.astype(np.float64)
            return points
        side = np.sqrt(max(np.prod(np.ptp(points, axis=0)), 1e-6))
        velocity = (points - self._points) / (side * elapsed)
        self._speed += _weight(_SPEED_CUTOFF, elapsed) * (velocity - self._speed)
        # One cutoff for the x and y of a point, or it would bend the way that the point goes.
        speed = np.linalg.norm(self._speed, axis=-1, keepdims=True)
        weight = _weight(self._cutoff + self._beta * speed, elapsed)
        self._points = self._points + weight * (points - self._points)
        return self._points.astype(np.float32)


def _weight(cutoff, elapsed):
    """Of the newest value, in an exponential average with the cutoff."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))
