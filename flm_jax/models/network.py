"""The network: a backbone and a head, each chosen by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flm_jax.models.heads import Head, RegressionHead, check_outputs
from flm_jax.models.resnet import ResNet

# A backbone is a Flax module `(images, train) -> feature map` with the attributes `dtype`,
# `axis_name` and `folded`, and with `fold_batch_norm` and `torch_name` as `ResNet` has them.
BACKBONES: dict[str, type[nn.Module]] = {"resnet": ResNet}


class LandmarkRegressor(nn.Module):
    """Images -> 98 landmarks. `LandmarkRegressor()` is ResNet-50 with one dense layer.

    Attributes:
        backbone: images f32[b, s, s, 3] -> features [b, h, w, c].
        head: features -> outputs.
    """

    backbone: nn.Module = dataclasses.field(default_factory=ResNet)
    head: Head = dataclasses.field(default_factory=RegressionHead)

    def __call__(
        self, images: Float[Array, "b s s 3"], *, train: bool, for_loss: bool = False
    ) -> dict[str, Float[Array, "b 98 *_"]]:
        """`landmarks` f32[b, 98, 2] in pixels of the images, and what the head predicts beside;
        its `training_outputs` too with `for_loss`."""
        features = self.backbone(images, train=train)
        # Rounding to bfloat16 would cost half a pixel at 224, so the head computes in full.
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        outputs = self.head(features, images.shape[1])
        check_outputs(self.head, outputs)
        return outputs if for_loss else self.without_training_outputs(outputs)

    def without_training_outputs(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that are not for the head's loss alone."""
        hidden = self.head.training_outputs
        return {name: value for name, value in outputs.items() if name not in hidden}

    def fold_batch_norm(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The variables for a backbone with `folded=True`, which give what `variables` give with
        `train=False`. Arrays or shapes."""
        params, stats = variables["params"], variables.get("batch_stats", {})
        backbone: Any = self.backbone
        folded = backbone.fold_batch_norm(params["backbone"], stats.get("backbone", {}))
        return {"params": {**params, "backbone": folded}}


def variable_shapes(model: nn.Module, image_size: int) -> Any:
    """The shapes of the model's variables, without computing anything."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(
        lambda key, images: model.init(key, images, train=False), jax.random.key(0), images
    )
