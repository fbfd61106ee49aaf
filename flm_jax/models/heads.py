"""Heads, from a backbone's last feature map to landmarks and what is predicted beside them.

A head is a Flax module `(features, image_size) -> outputs` with the attributes of `Head`. Nothing
else in the program knows a head by name: the network, the loss, the steps, prediction, evaluation
and export ask these attributes. A new one is a class here and an entry in `HEADS`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float
from numpy import ndarray

from flm_jax.errors import InputError
from flm_jax.landmarks import NUM_LANDMARKS

# Heads count in pixels of a crop of this size, whatever the input's, so that a learning rate means
# the same at every input size.
HEAD_SIZE = 224

# Pixels of 224: where scales start, and what they stay above, lest a perfect point's weight in the
# loss have no bound.
_FIRST_SCALE, _MIN_SCALE = 10.0, 0.1

# torch.nn.Linear's initialisation: uniform in +-1 / sqrt(inputs).
_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Head(nn.Module):
    """What every head says of itself.

    Attributes:
        pixel_outputs: outputs beside `landmarks`, f32[b, 98], in pixels of the input like them.
        outputs: further ones, f32[b, 98], without a unit.
        loss_inputs: outputs beside `landmarks` that the loss has to take, as it alone trains them.
    """

    pixel_outputs: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ()
    loss_inputs: ClassVar[tuple[str, ...]] = ()

    def start_at(self, mean_shape: Float[ndarray, "98 2"]) -> Mapping[str, Any]:
        """The head's parameters that are not random, for predictions that start at a mean shape.

        Args:
            mean_shape: in pixels of a crop of `HEAD_SIZE`.
        """
        raise InputError(f"model.mean_shape: {type(self).__name__} can't start at a mean shape")


class RegressionHead(Head):
    """The coordinates by one dense layer on the pooled features."""

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], image_size: int
    ) -> dict[str, Float[Array, "b 98 *_"]]:
        """`landmarks` f32[b, 98, 2] in pixels of the input; (0, 0) is the first pixel's centre."""
        return {"landmarks": _points(features.mean(axis=(1, 2)), image_size)}

    def start_at(self, mean_shape: Float[ndarray, "98 2"]) -> Mapping[str, Any]:
        return {"points": {"bias": mean_shape.ravel().astype(np.float32)}}


class LaplaceHead(RegressionHead):
    """The coordinates, and the scale of each point's error, which the laplace loss learns."""

    pixel_outputs: ClassVar[tuple[str, ...]] = ("scale",)
    loss_inputs: ClassVar[tuple[str, ...]] = ("scale",)

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], image_size: int
    ) -> dict[str, Float[Array, "b 98 *_"]]:
        """`landmarks` f32[b, 98, 2] and `scale` f32[b, 98], the mean absolute error of x and of y
        to expect, in pixels of the input."""
        pooled = features.mean(axis=(1, 2))
        scale = nn.Dense(NUM_LANDMARKS, kernel_init=_kernel_init, name="scale")(pooled)
        scale = nn.softplus(scale + _FIRST_SCALE) + _MIN_SCALE
        return {
            "landmarks": _points(pooled, image_size),
            "scale": scale * (image_size / HEAD_SIZE),
        }


def _points(pooled, image_size):
    points = nn.Dense(2 * NUM_LANDMARKS, kernel_init=_kernel_init, name="points")(pooled)
    return points.reshape(-1, NUM_LANDMARKS, 2) * (image_size / HEAD_SIZE)


# What predictions.npz and landmarks.json call something else.
_RESERVED = {"box", "image_name", "line", "loss", "nme", "pose", "score", "target"}


def check_outputs(head: Head, outputs: Mapping[str, Any]) -> None:
    """Raises InputError unless the head gives what it declares, under names that are free."""
    declared = {"landmarks", *head.pixel_outputs, *head.outputs}
    if set(outputs) != declared or declared & _RESERVED:
        raise InputError(
            f"model.head: {type(head).__name__} gives {sorted(outputs)} and declares "
            f"{sorted(declared)} in pixel_outputs and outputs; they have to be the same, and none "
            f"of {sorted(_RESERVED)}"
        )


HEADS: dict[str, type[Head]] = {"regression": RegressionHead, "laplace": LaplaceHead}
