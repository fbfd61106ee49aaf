"""Batch norm (Ioffe and Szegedy, ICML 2015) with its gradient in closed form.

Automatic differentiation stores every intermediate and reduces over the batch once for each. The
closed form stores only the input and needs two reductions.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over all axes but the last, with its variables: `scale` and `bias`, and the
    running `mean` and (biased) `var` of `batch_stats`, float32 whatever `dtype` is.

    Attributes:
        use_running_average: normalises by the running statistics, and leaves them as they are.
        momentum: of the running statistics.
        epsilon: added to the variance.
        dtype: of the output.
        axis_name: the mapped axis whose devices share their statistics; None for each its own.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if self.use_running_average:
            y = _normalize(x, running_mean.value, running_var.value, scale, bias, self.epsilon)
            return y.astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, var = batch_norm(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * value
        return y.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Float[Array, "*b c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "*b c"], Float[Array, " c"], Float[Array, " c"]]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, the mean and the (biased) variance, of the
    batch over all axes but the last, and over the devices of `axis_name`. In float32 at least.

    The mean and the variance are for the running ones: no gradient comes back through them.
    """
    return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x, scale, bias, epsilon, axis_name):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    mean, mean_of_squares = _over_devices((wide.mean(axes), (wide * wide).mean(axes)), axis_name)
    var = jnp.maximum(mean_of_squares - mean * mean, 0)
    y = _normalize(x, mean, var, scale, bias, epsilon)
    return (y, mean, var), (x, mean, var, scale)


def _backward(epsilon, axis_name, residuals, gradients):
    """With n = (x - mean) / std: dx = scale / std * (dy - mean(dy) - n * mean(dy * n))."""
    x, mean, var, scale = residuals
    dy = gradients[0]
    wide = x.astype(dy.dtype)
    axes = tuple(range(x.ndim - 1))
    rstd = jax.lax.rsqrt(var + epsilon)
    dbias = dy.sum(axes)
    dscale = (dy * (wide - mean)).sum(axes) * rstd
    count = x.size // x.shape[-1]
    mean_dy, mean_dyn = _over_devices((dbias / count, dscale / count), axis_name)
    slope = -mean_dyn * rstd
    dx = scale * rstd * (dy + slope * wide - (mean_dy + slope * mean))
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_forward, _backward)


def _normalize(x, mean, var, scale, bias, epsilon):
    slope = scale * jax.lax.rsqrt(var + epsilon)
    return x * slope + (bias - mean * slope)


def _over_devices(means, axis_name):
    return means if axis_name is None else jax.lax.pmean(means, axis_name)
