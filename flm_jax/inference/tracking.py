"""Follows faces through the frames of a video, on the host.

A face's box comes from its points in the frame before; the detector looks only when a face is lost.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.errors import InputError
from flm_jax.inference import tta
from flm_jax.inference.detector import Detect, overlaps
from flm_jax.inference.smoothing import OneEuroFilter

# A network finds points in any picture, of a wall too. So a face is taken for lost once its look,
# as small as this, correlates by less than this with that when the detector saw it last.
_PATCH, _LEAST_CORRELATION = 24, 0.5
# Or once its box has jumped, grown or shrunk: its overlap with that of the frame before.
_LEAST_OVERLAP = 0.4
# Or once two boxes are of one face, or more than this share of a box is outside of the picture.
_MOST_OVERLAP, _MOST_OUTSIDE = 0.6, 0.6

# A BGR picture and boxes f32[n, 4] -> landmarks f32[n, 98, 2] and uncertainties f32[n, 98] or None.
Predict = Callable[[ndarray, ndarray], tuple[ndarray, ndarray | None]]


class TrackedFace(NamedTuple):
    """A face in a frame: its number, the box that it was cropped by, the score that the detector
    gave it last, the landmarks as predicted (`raw`) and steadied, and their uncertainty."""

    track: int
    box: Float[ndarray, "4"]
    score: float
    raw: Float[ndarray, "98 2"]
    landmarks: Float[ndarray, "98 2"]
    uncertainty: Float[ndarray, "98"] | None


class _Track:
    def __init__(self, number, smooth):
        self.number, self.smooth = number, smooth
        self.box, self.score, self.patch = np.zeros(4, np.float32), 0.0, None


class FaceTracker:
    """Call it with every frame, in order.

    Args:
        detect: finds faces.
        predict: their landmarks.
        margins: of a box around the landmarks, as `protocols.boxes_around` takes them.
        smoothing: keywords of `OneEuroFilter`.

    Attributes:
        num_detections: how often the detector has looked.
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
        self._count = 0

    def __call__(self, image: UInt8[ndarray, "h w 3"], time: float) -> list[TrackedFace]:
        """The faces of a BGR frame at `time`, in seconds.

        Raises:
            InputError: a face that the detector has just found has points that are no numbers.
        """
        tracks, boxes = self._tracks, np.array([track.box for track in self._tracks])
        if tracks:
            landmarks, scale = self._predict(image, boxes)
        if not tracks or self._is_any_lost(image, boxes, landmarks):
            boxes = self._redetect(image)
            tracks = self._tracks
            if not tracks:
                return []
            landmarks, scale = self._predict(image, boxes)
            if not np.isfinite(landmarks).all():
                raise InputError("the weights predict no finite numbers")
            for track, box in zip(tracks, self._boxes_around(landmarks), strict=True):
                track.patch = _look(image, box)
        faces = []
        for i, (track, box) in enumerate(zip(tracks, self._boxes_around(landmarks), strict=True)):
            points = landmarks[i]
            uncertainty = None if scale is None else scale[i]
            steady = track.smooth(points, time)
            faces.append(
                TrackedFace(track.number, boxes[i], track.score, points, steady, uncertainty)
            )
            track.box = box
        return faces

    def _boxes_around(self, landmarks):
        return tta.boxes_around(landmarks, self._margins)

    def _is_any_lost(self, image, boxes, landmarks) -> bool:
        found = self._boxes_around(landmarks)
        if not (overlaps(found, boxes) >= _LEAST_OVERLAP).all():  # NaN neither.
            return True
        for i, box in enumerate(found):
            if i and overlaps(found[:i], box).max() > _MOST_OVERLAP:
                return True
            if _share_outside(box, image) > _MOST_OUTSIDE:
                return True
        patches = [_look(image, box) for box in found]
        pairs = zip(self._tracks, patches, strict=True)
        return any((track.patch * patch).sum() < _LEAST_CORRELATION for track, patch in pairs)

    def _redetect(self, image) -> Float[ndarray, "n 4"]:
        """Asks the detector; a face that it finds again keeps its number and its filter."""
        self.num_detections += 1
        found, old = self._detect(image), list(self._tracks)
        self._tracks = []
        for box, score in zip(found.boxes, found.scores, strict=True):
            shares = [float(overlaps(track.box[None], box)[0]) for track in old]
            if shares and max(shares) > _LEAST_OVERLAP:
                track = old.pop(int(np.argmax(shares)))
            else:
                track = _Track(self._count, OneEuroFilter(**self._smoothing))
                self._count += 1
            track.box, track.score = box, float(score)
            self._tracks.append(track)
        return found.boxes


def _look(image, box) -> Float[ndarray, "24 24"]:
    """The face's grey picture, small, with mean 0 and norm 1."""
    image_from_crop = geometry.invert(geometry.crop_from_image(box, 4 * _PATCH))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, image_from_crop, (4 * _PATCH, 4 * _PATCH), flags=flags)
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (_PATCH, _PATCH), interpolation=cv2.INTER_AREA).astype(np.float64)
    small -= small.mean()
    return small / max(np.linalg.norm(small), 1e-6)


def _share_outside(box, image) -> float:
    whole = geometry.image_box(image)
    inside = np.concatenate([np.maximum(box[:2], whole[:2]), np.minimum(box[2:], whole[2:])])
    sides = np.maximum(inside[2:] - inside[:2], 0)
    return 1 - float(sides.prod() / (box[2:] - box[:2]).prod())
