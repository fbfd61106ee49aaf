"""Heads, from a backbone's last feature map to landmarks and what is predicted beside them.

A head is a Flax module `(features, image_size) -> outputs` with the attributes of `Head`. Nothing
else in the program knows a head by name: the network, the loss, the steps, prediction, evaluation
and export ask these attributes. A new one is a class here and an entry in `HEADS`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
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

# Probabilities of the loss stay so far from 0 and 1, whose logarithms have no bound.
_MIN_PROBABILITY = 1e-6

# torch.nn.Linear's initialisation: uniform in +-1 / sqrt(inputs).
_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Head(nn.Module):
    """What every head says of itself, and the visibility that any may predict.

    Attributes:
        visibility: the weight, in pixels of the loss, of each point's visibility: the mean binary
            cross-entropy where it is known; 0: it is not predicted.
        pixel_outputs: outputs beside `landmarks`, f32[b, 98], in pixels of the input like them.
        own_outputs: further ones, f32[b, 98], without a unit.
        loss_inputs: outputs beside `landmarks` that the loss has to take, as it alone trains them.
        training_outputs: outputs of any shape for `loss` alone, which nobody else gets to see.
    """

    visibility: float = 0.0

    pixel_outputs: ClassVar[tuple[str, ...]] = ()
    own_outputs: ClassVar[tuple[str, ...]] = ()
    loss_inputs: ClassVar[tuple[str, ...]] = ()
    training_outputs: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs without a unit, `visibility` in [0, 1] among them where it is predicted."""
        return (*self.own_outputs, "visibility") if self.visibility else self.own_outputs

    def start_at(self, mean_shape: Float[ndarray, "98 2"]) -> Mapping[str, Any]:
        """The head's parameters that are not random, for predictions that start at a mean shape.

        Args:
            mean_shape: in pixels of a crop of `HEAD_SIZE`.
        """
        raise InputError(f"model.mean_shape: {type(self).__name__} can't start at a mean shape")

    def loss(
        self, outputs: Mapping[str, Array], batch: Mapping[str, Array], image_size: int
    ) -> Float[Array, " b"]:
        """Each face's loss beside that of its points: the visibility's.

        Args:
            outputs: of the head.
            batch: landmarks f32[b, 98, 2] in pixels of the input, and visible i8[b, 98]: 1, 0 or,
                where it is unknown, -1.
            image_size: of the input.
        """
        if not self.visibility:
            return jnp.zeros(outputs["landmarks"].shape[0], jnp.float32)
        visible, known = batch["visible"] == 1, batch["visible"] >= 0
        found = jnp.where(visible, outputs["visibility"], 1 - outputs["visibility"])
        # -ln p(what is), where that is known
        entropy = -jnp.log(jnp.maximum(found, _MIN_PROBABILITY))
        return self.visibility * jnp.where(known, entropy, 0).mean(axis=1)

    def _visibility(self, features: Float[Array, "b *cells n"]) -> dict[str, Float[Array, "b 98"]]:
        """The output `visibility`, where it is predicted, from what `_visibility_logits` takes."""
        if not self.visibility:
            return {}
        return {"visibility": nn.sigmoid(self._visibility_logits(features))}

    def _visibility_logits(
        self, features: Float[Array, "b *cells n"]
    ) -> Float[Array, "b *cells 98"]:
        """From flat features."""
        return nn.Dense(NUM_LANDMARKS, kernel_init=_kernel_init, name="visibility")(features)


class RegressionHead(Head):
    """The coordinates by one dense layer on the pooled features."""

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], image_size: int
    ) -> dict[str, Float[Array, "b 98 *_"]]:
        """`landmarks` f32[b, 98, 2] in pixels of the input; (0, 0) is the first pixel's centre."""
        pooled = features.mean(axis=(1, 2))
        return {"landmarks": _points(pooled, image_size), **self._visibility(pooled)}

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
            **self._visibility(pooled),
        }


class AnchorHead(Head):
    """Each cell of the last feature map votes for every point, from where it stands.

    Xiong et al., "A2J: Anchor-to-Joint Regression Network for 3D Articulated Pose Estimation from a
    Single Depth Image", ICCV 2019: the cells are anchors; each predicts its offset from every point
    and the weight of that vote, and a point is the mean of its votes. With equal weights, which it
    starts with, it is `RegressionHead`. Visibility is voted on likewise, with weights of its own.
    """

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], image_size: int
    ) -> dict[str, Float[Array, "b 98 *_"]]:
        """`landmarks` f32[b, 98, 2] in pixels of the input; (0, 0) is the first pixel's centre."""
        batch, height, width, _ = features.shape
        cells = features.reshape(batch, height * width, -1)
        offsets = nn.Dense(2 * NUM_LANDMARKS, kernel_init=_kernel_init, name="offsets")(cells)
        offsets = offsets.reshape(batch, -1, NUM_LANDMARKS, 2) * (image_size / HEAD_SIZE)
        weights = _vote_weights(cells, "weights")
        rows, columns = np.indices((height, width)) + 0.5
        centres = np.stack([columns / width, rows / height], axis=-1) * image_size - 0.5
        votes = offsets + jnp.asarray(centres.reshape(-1, 1, 2), jnp.float32)
        return {
            "landmarks": (weights[..., None] * votes).sum(axis=1),
            **self._visibility(cells),
        }

    def _visibility_logits(self, features: Float[Array, "b cells n"]) -> Float[Array, "b 98"]:
        """From those of the cells."""
        weights = _vote_weights(features, "visibility_weights")
        return (weights * super()._visibility_logits(features)).sum(axis=1)

    def start_at(self, mean_shape: Float[ndarray, "98 2"]) -> Mapping[str, Any]:
        offset = mean_shape - (HEAD_SIZE - 1) / 2  # from the mean of the cells' centres
        return {"offsets": {"bias": offset.ravel().astype(np.float32)}}


class SimCCHead(Head):
    """Each coordinate by a distribution over bins along x and along y.

    Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation",
    ECCV 2022: a 1x1 convolution makes one small map of each point, and two dense layers turn it
    into bins. The coordinate is the expectation, as in integral regression (Sun et al., ECCV 2018).

    Attributes:
        bins_per_pixel: of the input.
        margin: how far the bins reach beyond the input on each side, in sides of it.
        std: of the Gaussian around the target that the distribution is trained towards, in sides
            of the input.
        weight: of that divergence in the loss, in pixels.
    """

    bins_per_pixel: float = 2.0
    margin: float = 0.25
    std: float = 0.01
    weight: float = 1.0

    own_outputs: ClassVar[tuple[str, ...]] = ("confidence",)
    training_outputs: ClassVar[tuple[str, ...]] = ("x_logits", "y_logits")

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], image_size: int
    ) -> dict[str, Float[Array, "b 98 *_"]]:
        """`landmarks` f32[b, 98, 2] in pixels of the input, `confidence` f32[b, 98], which is the
        probability of the likeliest pixel in x times that in y, and the logits f32[b, 98, bins]."""
        centres = self._centres(image_size)
        flat = nn.Dense(NUM_LANDMARKS, name="maps")(features)  # a 1x1 convolution
        flat = flat.reshape(flat.shape[0], -1, NUM_LANDMARKS).swapaxes(1, 2)
        logits = [nn.Dense(len(centres), name=f"{axis}_bins")(flat) for axis in "xy"]
        bins = [jax.nn.softmax(each, axis=-1) for each in logits]
        peaks = [self.bins_per_pixel * each.max(axis=-1) for each in bins]
        return {
            "landmarks": jnp.stack([each @ centres for each in bins], axis=-1),
            "confidence": jnp.minimum(peaks[0], 1) * jnp.minimum(peaks[1], 1),
            "x_logits": logits[0],
            "y_logits": logits[1],
            **self._visibility(features.mean(axis=(1, 2))),
        }

    def loss(
        self, outputs: Mapping[str, Array], batch: Mapping[str, Array], image_size: int
    ) -> Float[Array, " b"]:
        """Besides the visibility's: the cross-entropy to a Gaussian around each coordinate."""
        centres = self._centres(image_size)
        total = super().loss(outputs, batch, image_size)
        for axis, name in enumerate(("x_logits", "y_logits")):
            target = jnp.clip(batch["landmarks"][..., axis], centres[0], centres[-1])
            distance = (centres - target[..., None]) / (self.std * image_size)
            wanted = jax.nn.softmax(-0.5 * distance**2, axis=-1)
            entropy = -(wanted * jax.nn.log_softmax(outputs[name], axis=-1)).sum(axis=-1)
            total += self.weight * entropy.mean(axis=1) / 2
        return total

    def _centres(self, image_size):
        """Of the bins, in pixels of the input."""
        spanned = self.std * image_size * self.bins_per_pixel
        if spanned < 0.5:
            raise InputError(
                f"model.head: {self.bins_per_pixel:g} bins a pixel are too few for an input of "
                f"{image_size} px and std={self.std:g}, which spans {spanned:.2g} bins: expected "
                "at least 0.5"
            )
        count = round(image_size * (1 + 2 * self.margin) * self.bins_per_pixel)
        start = -self.margin * image_size - 0.5
        return jnp.asarray(start + (np.arange(count) + 0.5) / self.bins_per_pixel, jnp.float32)


def _vote_weights(cells, name):
    """Of each cell for each point, f32[b, cells, 98]; equal at first."""
    dense = nn.Dense(NUM_LANDMARKS, kernel_init=nn.initializers.zeros, name=name)
    return nn.softmax(dense(cells), axis=1)


def _points(pooled, image_size):
    points = nn.Dense(2 * NUM_LANDMARKS, kernel_init=_kernel_init, name="points")(pooled)
    return points.reshape(-1, NUM_LANDMARKS, 2) * (image_size / HEAD_SIZE)


# What predictions.npz and landmarks.json call something else.
_RESERVED = {"box", "image_name", "line", "loss", "nme", "pose", "score", "target"}


def check_outputs(head: Head, outputs: Mapping[str, Any]) -> None:
    """Raises InputError unless the head gives what it declares, under names that are free."""
    declared = {"landmarks", *head.pixel_outputs, *head.outputs, *head.training_outputs}
    if set(outputs) != declared or declared & _RESERVED:
        raise InputError(
            f"model.head: {type(head).__name__} gives {sorted(outputs)} and declares "
            f"{sorted(declared)}; they have to be the same, and none of {sorted(_RESERVED)}"
        )


HEADS: dict[str, type[Head]] = {
    "regression": RegressionHead,
    "laplace": LaplaceHead,
    "anchors": AnchorHead,
    "simcc": SimCCHead,
}
