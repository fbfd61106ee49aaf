"""The network: a ResNet whose last layer gives the coordinates themselves."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flm_jax.landmarks import NUM_LANDMARKS
from flm_jax.models.resnet import ResNet

# torch.nn.Linear's initialisation: uniform in +-1 / sqrt(inputs).
_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# The head counts in pixels of a crop of this size, whatever the size of its input, so that a
# learning rate means the same at all of them.
HEAD_SIZE = 224

# Pixels of 224: where the scales start, and what they stay above, or a perfect point's weight would
# have no bound.
FIRST_SCALE, LEAST_SCALE = 10.0, 0.1


class LandmarkRegressor(nn.Module):
    """ResNet features -> 98 landmarks by one dense layer. `LandmarkRegressor()` has ResNet-50.

    Attributes:
        backbone: images f32[b, s, s, 3] -> features [b, c].
        uncertainty: whether every point also gets the scale of its error, for a loss that learns
            it; then a third number follows x and y.
    """

    backbone: nn.Module = dataclasses.field(default_factory=ResNet)
    uncertainty: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"], *, train: bool) -> Float[Array, "b 98 _c"]:
        """Landmarks (and scales) in pixels of the images, always float32 or wider."""
        features = self.backbone(images, train=train)
        # Rounding to bfloat16 would cost half a pixel at 224, so the last layer computes in full.
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        coordinates = nn.Dense(2 * NUM_LANDMARKS, kernel_init=_kernel_init, name="head")(features)
        outputs = coordinates.reshape(-1, NUM_LANDMARKS, 2)
        if self.uncertainty:
            scale = nn.Dense(NUM_LANDMARKS, kernel_init=_kernel_init, name="scale")(features)
            scale = nn.softplus(scale + FIRST_SCALE) + LEAST_SCALE
            outputs = jnp.concatenate([outputs, scale[..., None]], axis=-1)
        return outputs * (images.shape[1] / HEAD_SIZE)
