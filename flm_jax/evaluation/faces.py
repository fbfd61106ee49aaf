"""A trained network's predictions for the faces of a list."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from flm_jax.inference.predictor import in_image_pixels
from flm_jax.runtime.devices import gathered, put_on_devices

# As `step.pmap_eval_step` makes it.
EvalStep = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


class FacePredictions(NamedTuple):
    """Of n faces, in the order of their records.

    Attributes:
        landmarks, outputs: of `predictor.Predictions`.
        loss: f32[n], each face's training loss.
        read: bool[n], false where the image could not be read: nothing else holds for that face.
    """

    landmarks: Float[ndarray, "n 98 2"]
    outputs: dict[str, Float[ndarray, "n 98"]]
    loss: Float[ndarray, " n"]
    read: Bool[ndarray, " n"]

    def readable(self) -> "FacePredictions":
        """Those of the faces whose images could be read."""
        rows = np.flatnonzero(self.read)
        outputs = {name: values[rows] for name, values in self.outputs.items()}
        return FacePredictions(self.landmarks[rows], outputs, self.loss[rows], self.read[rows])


def predict_faces(
    eval_step: EvalStep,
    variables: dict[str, Any],
    batches: Iterable[dict[str, ndarray]],
    num_faces: int,
    pixel_outputs: Sequence[str] = (),
) -> FacePredictions:
    """Runs the network over evaluation batches and takes its points to the images.

    Args:
        eval_step: the network and the loss.
        variables: what it takes.
        batches: of `sampler.EvaluationSampler`, this process's rows of each.
        num_faces: how many faces the batches hold; each has to come exactly once.
        pixel_outputs: of `predictor.in_image_pixels`.
    """
    landmarks = np.zeros((num_faces, 98, 2), np.float32)
    loss = np.zeros(num_faces, np.float32)
    outputs: dict[str, ndarray] = {}
    seen, unread = np.zeros(num_faces, int), np.zeros(num_faces, int)
    for batch in batches:
        found = gathered(eval_step(variables, put_on_devices(batch)))
        index, mask = found.pop("index"), found.pop("mask")
        maps, losses = found.pop("image_from_crop"), found.pop("loss")
        home = in_image_pixels(found, maps, pixel_outputs)
        rows = index[mask > 0]
        landmarks[rows], loss[rows] = home.landmarks[mask > 0], losses[mask > 0]
        for name, values in home.outputs.items():
            outputs.setdefault(name, np.zeros((num_faces, 98), np.float32))[rows] = values[mask > 0]
        np.add.at(seen, rows, 1)
        np.add.at(unread, index[(mask == 0) & (index >= 0)], 1)
    if (seen + unread != 1).any():
        wrong = np.flatnonzero(seen + unread != 1)
        raise AssertionError(f"faces counted other than once: {wrong}")
    return FacePredictions(landmarks, outputs, loss, seen == 1)
