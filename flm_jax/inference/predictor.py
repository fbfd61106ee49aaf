"""Trained weights and their crop: images in, landmarks out. NumPy and OpenCV, on the host."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.crop import BOXES, crop_image, crop_map, normalise
from flm_jax.errors import InputError
from flm_jax.inference import detector, exported

# Normalised images f32[n, s, s, 3] -> `landmarks` f32[n, 98, 2] in pixels of them, and what the
# head predicts beside them, f32[n, 98] each.
Network = Callable[[ndarray], Mapping[str, ndarray]]

# Corners further out than this, in pixels, would leave the crop's map without digits.
_MAX_COORDINATE = 1e6

# Batches of few faces: those of a video, and the last of a folder. Each size compiles once.
_SMALL_BATCHES = (1, 8)


class Crops(NamedTuple):
    """Faces as the network sees them: images f32[n, s, s, 3], normalised, and image_from_crop
    f32[n, 2, 3]."""

    images: Float[ndarray, "n s s 3"]
    image_from_crop: Float[ndarray, "n 2 3"]


class Predictions(NamedTuple):
    """Of n faces.

    Attributes:
        landmarks: f32[n, 98, 2] in pixels of the original images.
        outputs: what the head predicts beside them, f32[n, 98] by name. Lengths are in the same
            pixels (the geometric mean of x and y where the crop is stretched).
    """

    landmarks: Float[ndarray, "n 98 2"]
    outputs: dict[str, Float[ndarray, "n 98"]]


def in_image_pixels(
    found: Mapping[str, ndarray],
    image_from_crop: Float[ndarray, "n 2 3"],
    pixel_outputs: Sequence[str],
) -> Predictions:
    """A network's outputs for n crops, taken to the original images.

    Args:
        found: `landmarks` f32[n, 98, 2] and others f32[n, 98].
        image_from_crop: of the crops.
        pixel_outputs: which of the others are lengths: `Head.pixel_outputs`.
    """
    outputs = {name: values for name, values in found.items() if name != "landmarks"}
    pixel = np.sqrt(np.abs(np.linalg.det(image_from_crop[..., :2]))).astype(np.float32)[:, None]
    outputs |= {name: outputs[name] * pixel for name in pixel_outputs}
    return Predictions(geometry.apply(image_from_crop, found["landmarks"]), outputs)


class LandmarkPredictor:
    """A trained network with the crop that it was trained with.

        predictor = LandmarkPredictor.load()
        landmarks = predictor(image)  # u8[h, w, 3] RGB -> f32[n, 98, 2], pixels of the image

    Args:
        network: normalised crops -> outputs.
        image_size: the side of its input.
        crop: keywords of `crop.crop_box`.
        batch_size: the most faces at once.
        box: the faces' boxes that it was trained with, one of `crop.BOXES`; a detector's are turned
            into such.
        pixel_outputs: of `in_image_pixels`.
        multiple: what the number of faces given to `network` is padded to.
        compiled: whether the network compiles for each number of faces, so that few are used.
        detect: finds the faces of a BGR image; None: the `predict` extra's, loaded when needed.
    """

    def __init__(
        self,
        network: Network,
        *,
        image_size: int,
        crop: Mapping[str, Any],
        batch_size: int,
        box: str = "rectangle",
        pixel_outputs: Sequence[str] = (),
        multiple: int = 1,
        compiled: bool = True,
        detect: detector.Detect | None = None,
    ):
        used = (*_SMALL_BATCHES, batch_size) if compiled else range(1, batch_size + 1)
        sizes = (min(size, batch_size) for size in used)
        self._sizes = sorted({-(-size // multiple) * multiple for size in sizes})
        self.batch_size = self._sizes[-1]
        self._network, self._pixel_outputs = network, tuple(pixel_outputs)
        self._image_size, self._crop = image_size, dict(crop)
        self.box, self.margins = box, np.array(BOXES[box])
        self._detect = detect

    @classmethod
    def load(
        cls,
        source: str | Path = exported.SHIPPED,
        *,
        checkpoint: str = "best",
        detect: detector.Detect | None = None,
    ) -> "LandmarkPredictor":
        """The predictor with the network that comes with the package, or another.

        Args:
            source: an ONNX file of --mode export, or a work folder, such as runs/demo.
            checkpoint: of the work folder: best (by validation loss), last, or a step.
            detect: as of the class.

        Raises:
            InputError: there is no such file or checkpoint, or it is damaged or of another network.
        """
        if Path(source).suffix == ".onnx" or os.path.isfile(source):
            return cls(**exported.load_exported(source), detect=detect)
        from flm_jax.config.weights import load_network  # All else here does without JAX.

        return cls(**load_network(Path(source), checkpoint), detect=detect)

    def __call__(
        self, image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "..."] | str | None = None
    ) -> Float[ndarray, "n 98 2"]:
        """Landmarks of the faces of an image.

        Args:
            image: RGB, as Pillow, imageio and Matplotlib read it.
            boxes: of the faces, (xmin, ymin, xmax, ymax) in pixels, as the training's: WFLW's
                rectangles reach from the forehead to the chin; a fifth number, a score, may follow.
                "image": the image is one face; None: a detector finds them.

        Returns:
            f32[n, 98, 2], x and y in pixels of the image, where (0, 0) is the centre of the
            top-left pixel; n is 0 if no face was found.

        Raises:
            InputError: not such an image, a box without an area or outside of the image, or the
                detector is not installed.
        """
        if not isinstance(image, ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            found = f"{getattr(image, 'dtype', type(image))} {getattr(image, 'shape', '')}"
            raise InputError(f"image: expected a uint8 array [h, w, 3] in RGB, not {found}")
        image = np.ascontiguousarray(image[..., ::-1])
        if boxes is None:
            self._detect = self._detect or detector.CenterFace()
            boxes = detector.frame(self._detect(image).boxes, self.box)
        elif isinstance(boxes, str):
            if boxes != "image":
                raise InputError(f"boxes={boxes}: expected an array [n, 4], 'image' or None")
            boxes = geometry.image_box(image)[None]
        boxes = np.asarray(boxes, np.float32)
        columns = boxes.shape[-1] if boxes.size else 4
        if columns not in (4, 5):
            raise InputError(f"boxes: expected an array [n, 4], not {list(boxes.shape)}")
        boxes = boxes.reshape(-1, columns)[:, :4]
        for box in boxes:
            check_box(box, image)
        return self.predict(self.cut(image, boxes)).landmarks

    def cut(
        self, image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "n 4"], flip: bool = False
    ) -> Crops:
        """The crops of the faces of a BGR image, flipped or not."""
        size = self._image_size
        images = np.zeros((len(boxes), size, size, 3), np.float32)
        maps = np.zeros((len(boxes), 2, 3), np.float32)
        for i, box in enumerate(boxes.astype(np.float32)):
            image_from_crop = geometry.invert(crop_map(box, size, flip=flip, **self._crop))
            normalise(crop_image(image, image_from_crop, size), out=images[i])
            maps[i] = image_from_crop
        return Crops(images, maps)

    def predict(self, crops: Crops) -> Predictions:
        """Landmarks of any number of crops, in batches of few sizes, so that few compile."""
        if not len(crops.images):
            return Predictions(np.zeros((0, 98, 2), np.float32), {})
        parts = []
        for start in range(0, len(crops.images), self.batch_size):
            images = crops.images[start : start + self.batch_size]
            padded = next(size for size in self._sizes if size >= len(images)) - len(images)
            found = self._network(np.pad(images, [(0, padded)] + 3 * [(0, 0)]))
            parts.append({name: values[: len(images)] for name, values in found.items()})
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return in_image_pixels(found, crops.image_from_crop, self._pixel_outputs)


def check_box(box: Float[ndarray, "4"], image: UInt8[ndarray, "h w 3"]) -> None:
    """Raises InputError for a box without an area, or one that shows nothing of the image."""
    height, width = image.shape[:2]
    text = " ".join(f"{number:g}" for number in box)
    expected = "expected xmin ymin xmax ymax in pixels"
    if not (np.abs(box) <= _MAX_COORDINATE).all():
        raise InputError(f"the box {text} is beyond {_MAX_COORDINATE:g} pixels; {expected}")
    box = box.astype(np.float32)  # The precision of crops.
    if (box[2:] <= box[:2]).any():
        raise InputError(f"the box {text} has no area; {expected}")
    if (box[2:] <= -0.5).any() or (box[:2] >= (width - 0.5, height - 0.5)).any():
        raise InputError(
            f"the box {text} lies outside of the image of {width} x {height} px; {expected}"
        )
