"""Convolutions that XLA's CPU back end would compute slowly, written as matrix products there.

On other platforms they are XLA's own. Measured on two cores, 64 images, gradients included: a 3x3
convolution on a map of 2x2 pixels is 38 times as fast as a product, on 7x7 pixels 1.4 times, and
from 8x8 pixels on XLA's is as fast or faster. A 1x1 convolution's gradient is 2 to 10 times as
fast.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Sides of the output up to which a product of gathered patches is faster.
_SMALL_MAP = 7


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c k"],
    strides: tuple[int, int],
    padding: Any,
    **_: Any,
) -> Float[Array, "b _h _w k"]:
    """A 3x3 convolution padded by one pixel of zeros: `nn.Conv`'s `conv_general_dilated`."""
    if padding != [(1, 1), (1, 1)] or kernel.shape[:2] != (3, 3):
        raise ValueError(f"padding={padding}, kernel {kernel.shape}: expected 3x3 and 1 px")
    by_xla = partial(_by_xla, strides=strides, padding=padding)
    if max(-(-x.shape[1] // strides[0]), -(-x.shape[2] // strides[1])) > _SMALL_MAP:
        return by_xla(x, kernel)
    by_product = partial(_by_product, strides=strides)
    return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)


def _by_xla(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_product(x, kernel, strides):
    height, width, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        padded[:, row : row + height : strides[0], column : column + width : strides[1]]
        for row in range(3)
        for column in range(3)
    ]
    patches = jnp.concatenate(taps, axis=-1)
    y = patches.reshape(-1, 9 * channels) @ kernel.reshape(9 * channels, -1)
    return y.reshape(*patches.shape[:3], -1)


class PointwiseConv(nn.Module):
    """A 1x1 convolution, with `nn.Conv`'s parameter.

    Two matrices rather than a product over the last axis of four, whose gradient XLA transposes.
    """

    features: int
    stride: int
    dtype: DTypeLike
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        kernel = self.param("kernel", self.kernel_init, (1, 1, x.shape[-1], self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)

        def by_product(x, kernel):
            x = x[:, :: self.stride, :: self.stride]
            return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)

        by_xla = partial(_by_xla, strides=(self.stride, self.stride), padding="VALID")
        return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)
