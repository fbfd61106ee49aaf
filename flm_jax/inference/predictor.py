"""Trained weights on faces: what validation, evaluation and prediction share."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict
from numpy import ndarray

from flm_jax import geometry
from flm_jax.config import build, schema
from flm_jax.errors import InputError
from flm_jax.inference import detector
from flm_jax.inference.crops import Crops, check_box, cut_faces
from flm_jax.models.resnet import fold_batch_norm
from flm_jax.runtime.checkpoint import Checkpoints
from flm_jax.training.state import TrainState, train_state_shapes
from flm_jax.training.step import pmap_eval_step, put_on_devices, replicated

# As `train_step.pmap_eval_step` makes it.
EvalStep = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]

# Batches of few faces: those of a video, and the last of a folder. Each size compiles once.
_SMALL_BATCHES = (1, 8)


class Predictions(NamedTuple):
    """Of n faces, in the order of their records.

    Attributes:
        landmarks: f32[n, 98, 2] in pixels of the original images.
        loss: f32[n], each face's training loss.
        scale: f32[n, 98], the absolute error of x and of y to expect, in the same pixels (the mean
            of both where the crop is stretched); None if the network predicts none.
        read: bool[n], false where the picture could not be read: nothing else holds for that face.
    """

    landmarks: Float[ndarray, "n 98 2"]
    loss: Float[ndarray, " n"]
    scale: Float[ndarray, "n 98"] | None
    read: Bool[ndarray, " n"]


def predict_faces(
    eval_step: EvalStep,
    variables: dict[str, Any],
    batches: Iterable[dict[str, ndarray]],
    num_faces: int,
) -> Predictions:
    """Runs the network over evaluation batches and takes its points home to the images.

    Args:
        eval_step: the network and the loss.
        variables: what `eval_step`'s network takes.
        batches: of `orders.EvaluationSampler`, this process's rows of each.
        num_faces: how many faces the batches hold; each has to come exactly once.
    """
    landmarks = np.zeros((num_faces, 98, 2), np.float32)
    loss = np.zeros(num_faces, np.float32)
    scale = None
    seen, unread = np.zeros(num_faces, int), np.zeros(num_faces, int)
    for batch in batches:
        # What was gathered from all processes: [d, b/d, ...] -> [b, ...]
        output = {
            name: np.asarray(values).reshape(-1, *values.shape[2:])
            for name, values in eval_step(variables, put_on_devices(batch)).items()
        }
        real = output["mask"] > 0
        index = output["index"][real]
        landmarks[index] = geometry.apply(output["image_from_crop"], output["landmarks"])[real]
        loss[index] = output["loss"][real]
        if "scale" in output:
            scale = np.zeros((num_faces, 98), np.float32) if scale is None else scale
            pixel = np.sqrt(np.abs(np.linalg.det(output["image_from_crop"][..., :2])))
            scale[index] = (output["scale"] * pixel[:, None])[real]
        np.add.at(seen, index, 1)
        np.add.at(unread, output["index"][~real & (output["index"] >= 0)], 1)
    if (seen + unread != 1).any():
        wrong = np.flatnonzero(seen + unread != 1)
        raise AssertionError(f"faces counted other than once: {wrong}")
    return Predictions(landmarks, loss, scale, seen == 1)


class LandmarkPredictor:
    """Trained weights with the crop that they were trained with: pictures in, landmarks out.

        predictor = LandmarkPredictor.load("runs/demo")
        landmarks = predictor(image)  # u8[h, w, 3] RGB -> f32[n, 98, 2], pixels of the image

    Args:
        eval_step: the network, as `train_step.pmap_eval_step` makes it.
        variables: what it takes.
        image_size: the side of its input.
        crop: keywords of `crop.crop_box`.
        batch_size: the most faces at once.
        detect: finds the faces of a BGR picture; None: the `predict` extra's, loaded when needed.
    """

    def __init__(
        self,
        eval_step: EvalStep,
        variables: dict[str, Any],
        *,
        image_size: int,
        crop: Mapping[str, Any],
        batch_size: int,
        detect: detector.Detect | None = None,
    ):
        self.batch_size = batch_size
        self._eval_step, self._variables = eval_step, variables
        self._image_size, self._crop = image_size, dict(crop)
        self._detect = detect
        devices = jax.local_device_count()
        sizes = (min(size, batch_size) for size in (*_SMALL_BATCHES, batch_size))
        self._sizes = sorted({-(-size // devices) * devices for size in sizes})

    @classmethod
    def load(
        cls, workdir: str | Path, *, checkpoint: str = "best", detect: detector.Detect | None = None
    ) -> "LandmarkPredictor":
        """The predictor with the weights of a work folder.

        Args:
            workdir: where the training wrote, such as runs/demo.
            checkpoint: best (by validation loss), last, or a step.
            detect: as of the class.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or of another network.
        """
        _, config, state = restore(Path(workdir), checkpoint)
        return cls.build(config, state, detect=detect)

    @classmethod
    def build(
        cls, config: ConfigDict, state: TrainState, *, detect: detector.Detect | None = None
    ) -> "LandmarkPredictor":
        """The predictor of a state that was trained with `config`."""
        model = build.build_model(config, folded=True)
        return cls(
            pmap_eval_step(model, build.build_face_loss(config)),
            fold_batch_norm(state.averaged_variables),
            image_size=config.data.image_size,
            crop=config.data.crop.to_dict(),
            batch_size=config.batch_size,
            detect=detect,
        )

    def __call__(
        self, image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "n 4"] | str | None = None
    ) -> Float[ndarray, "n 98 2"]:
        """Landmarks of the faces of a picture.

        Args:
            image: RGB, as Pillow, imageio and Matplotlib read it.
            boxes: of the faces, (xmin, ymin, xmax, ymax) in pixels, from the forehead to the chin
                as WFLW's rectangles; "image": the picture is one face; None: a detector finds them.

        Returns:
            f32[n, 98, 2], x and y in pixels of the image, where (0, 0) is the centre of the
            top-left pixel; n is 0 if no face was found.

        Raises:
            InputError: not such a picture, a box without an area or outside of the picture, or the
                detector is not installed.
        """
        if not isinstance(image, ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            found = f"{getattr(image, 'dtype', type(image))} {getattr(image, 'shape', '')}"
            raise InputError(f"image: expected a uint8 array [h, w, 3] in RGB, not {found}")
        image = np.ascontiguousarray(image[..., ::-1])
        if boxes is None:
            self._detect = self._detect or detector.CenterFace()
            boxes = self._detect(image).boxes
        elif isinstance(boxes, str):
            if boxes != "image":
                raise InputError(f"boxes={boxes}: expected an array [n, 4], 'image' or None")
            boxes = geometry.image_box(image)[None]
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        for box in boxes:
            check_box(box, image)
        return self.predict(self.cut(image, boxes)).landmarks

    def cut(
        self, image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "n 4"], flip: bool = False
    ) -> Crops:
        """The crops of the faces of a BGR picture, mirrored or not."""
        return cut_faces(image, boxes, size=self._image_size, crop=self._crop, flip=flip)

    def predict(self, crops: Crops) -> Predictions:
        """Landmarks of any number of crops; the batches are of few sizes, so that few compile."""
        return predict_faces(
            self._eval_step, self._variables, self._batches(crops), len(crops.images)
        )

    def _batches(self, crops):
        start, count = 0, len(crops.images)
        while start < count:
            size = next((n for n in self._sizes if n >= count - start), self._sizes[-1])
            rows = np.arange(start, min(start + size, count))
            padding = [(0, size - len(rows))]
            images = crops.images[rows]
            if len(rows) < size:
                images = np.pad(images, padding + [(0, 0)] * 3)
            yield {
                "image": images,
                "landmarks": np.zeros((size, 98, 2), np.float32),
                "image_from_crop": np.pad(crops.image_from_crop[rows], padding + [(0, 0)] * 2),
                "index": np.pad(rows, padding, constant_values=-1).astype(np.int32),
                "mask": np.pad(np.ones(len(rows), np.float32), padding),
            }
            start += size


def restore(
    workdir: Path, which: str, config: ConfigDict | None = None
) -> tuple[int, ConfigDict, TrainState]:
    """A checkpoint's step, the config that it was trained with, and its state.

    Args:
        workdir: the work folder.
        which: best, last or a step.
        config: what it has to fit; None: its own.

    Raises:
        InputError: there is no such checkpoint, it does not fit, or it is damaged.
    """
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        step = checkpoints.find(which)
        old = ConfigDict(checkpoints.config(step))
        if config is not None:
            schema.check_evaluation(old.to_dict(), config, workdir)
        try:
            # The optimiser's state is part of the checkpoint; its shapes depend on no schedule.
            optimizer = build.build_optimizer(old, optax.constant_schedule(0.0))
            model = build.build_model(config or old)
            averaged = old.ema_decay > 0
            shapes = train_state_shapes(model, optimizer, old.data.image_size, averaged)
        except (AttributeError, KeyError) as error:
            raise InputError(f"{workdir}: trained by another version of this: {error}") from None
        state, _ = checkpoints.restore(step, shapes, replicated())
    return step, old, state
