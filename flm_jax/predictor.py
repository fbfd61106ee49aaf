"""Trained weights on faces: what validation, evaluation and prediction share."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from flm_jax import geometry
from flm_jax.train_step import put_on_devices

# As `train_step.pmap_eval_step` makes it.
EvalStep = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


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
        batches: of `input_pipeline.EvaluationOrder`, this process's rows of each.
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
