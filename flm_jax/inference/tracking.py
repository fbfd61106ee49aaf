"""Follows faces through the frames of a video. NumPy and OpenCV, on the host.

A face's box comes from its points in the frame before; the detector runs only when a face is lost.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.errors import InputError
from flm_jax.inference.detector import Detect, overlaps
from flm_jax.inference.head_pose import estimate_pose
from flm_jax.inference.outputs import Face
from flm_jax.inference.predictor import Predictions
from flm_jax.inference.smoothing import OneEuroFilter
from flm_jax.inference.tta import boxes_around

# A network finds points in any image, of a wall too. So a face counts as lost when
# - its grey patch of this side correlates by less than this with that of its last detection,
_PATCH, _MIN_CORRELATION = 24, 0.5
# - its box has jumped, grown or shrunk: it overlaps that of the frame before by less than this,
_MIN_OVERLAP = 0.4
# - two boxes overlap by more, or more than this share of a box is outside of the image.
_MAX_OVERLAP, _MAX_OUTSIDE = 0.6, 0.6

# A BGR image and boxes f32[n, 4] -> what is predicted for them.
Predict = Callable[[ndarray, ndarray], Predictions]


class _Track:
    def __init__(self, smooth: OneEuroFilter):
        self.smooth = smooth
        self.box, self.score, self.patch = np.zeros(4), 0.0, np.zeros((_PATCH, _PATCH))


class FaceTracker:
    """Call it with every frame, in order.

    Args:
        detect: finds faces.
        predict: their landmarks.
        margins: of a box around the landmarks, as `tta.boxes_around` takes them.
        smoothing: keywords of `OneEuroFilter`.

    Attributes:
        num_detections: how often the detector has run.
    """

    def __init__(
        self,
        detect: Detect,
        predict: Predict,
        margins: Float[ndarray, "4"],
        smoothing: Mapping[str, Any],
    ):
        self.num_detections = 0
        self._detect, self._predict = detect, predict
        self._margins, self._smoothing = margins, smoothing
        self._tracks: list[_Track] = []

    def __call__(self, image: UInt8[ndarray, "h w 3"], time: float) -> list[Face]:
        """The faces of a BGR frame at `time`, in seconds, with smoothed landmarks.

        Raises:
            InputError: the landmarks of a face that was just detected are not finite.
        """
        boxes = np.array([track.box for track in self._tracks])
        if self._tracks:
            landmarks, outputs = self._predict(image, boxes)
        if not self._tracks or self._is_any_lost(image, boxes, landmarks):
            boxes = self._redetect(image)
            if not self._tracks:
                return []
            landmarks, outputs = self._predict(image, boxes)
            if not np.isfinite(landmarks).all():
                raise InputError("the weights predict no finite numbers")
            for track, box in zip(self._tracks, self._boxes_around(landmarks), strict=True):
                track.patch = _patch(image, box)
        faces = []
        for i, track in enumerate(self._tracks):
            points = track.smooth(landmarks[i], time)
            own = {name: values[i] for name, values in outputs.items()}
            faces.append(Face(boxes[i], track.score, points, estimate_pose(points), own))
            track.box = self._boxes_around(landmarks[i : i + 1])[0]
        return faces

    def _boxes_around(self, landmarks):
        return boxes_around(landmarks, self._margins)

    def _is_any_lost(self, image, boxes, landmarks) -> bool:
        found = self._boxes_around(landmarks)
        if not (overlaps(found, boxes) >= _MIN_OVERLAP).all():  # NaN neither.
            return True
        for i, (track, box) in enumerate(zip(self._tracks, found, strict=True)):
            if i and overlaps(found[:i], box).max() > _MAX_OVERLAP:
                return True
            if _share_outside(box, image) > _MAX_OUTSIDE:
                return True
            if (track.patch * _patch(image, box)).sum() < _MIN_CORRELATION:
                return True
        return False

    def _redetect(self, image) -> Float[ndarray, "n 4"]:
        """Runs the detector; a face that it finds again keeps its filter."""
        self.num_detections += 1
        found, old = self._detect(image), self._tracks
        self._tracks = []
        for box, score in zip(found.boxes, found.scores, strict=True):
            shares = [float(overlaps(track.box[None], box)[0]) for track in old]
            if shares and max(shares) > _MIN_OVERLAP:
                track = old.pop(int(np.argmax(shares)))
            else:
                track = _Track(OneEuroFilter(**self._smoothing))
            track.box, track.score = box, float(score)
            self._tracks.append(track)
        return found.boxes


def _patch(image, box) -> Float[ndarray, "24 24"]:
    """The face in grey, small, with mean 0 and norm 1."""
    image_from_crop = geometry.invert(geometry.crop_from_image(box, 4 * _PATCH))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, image_from_crop, (4 * _PATCH, 4 * _PATCH), flags=flags)
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (_PATCH, _PATCH), interpolation=cv2.INTER_AREA).astype(np.float64)
    small -= small.mean()
    return small / max(np.linalg.norm(small), 1e-6)


def _share_outside(box, image) -> float:
    whole = geometry.image_box(image)
    sides = np.minimum(box[2:], whole[2:]) - np.maximum(box[:2], whole[:2])
    return 1 - float(np.maximum(sides, 0).prod() / (box[2:] - box[:2]).prod())
