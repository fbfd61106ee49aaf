"""A 3x3 convolution that is fast on the CPU too.

XLA's CPU back end has two kinds of convolution. The slow one takes up to a hundred times as long,
and is what it chooses for images smaller than the kernel (the last stage of a ResNet, for inputs of
64 pixels and less) and for the input gradient of a strided convolution. The fast one runs near the
machine's peak, so that only fewer multiplications make it faster (`winograd`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flm_jax.models.layers.winograd import convolve_rows_by_winograd


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c k"],
    strides: tuple[int, int],
    padding: Any,
    **settings: Any,
) -> Float[Array, "b _h _w k"]:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, for 3x3 kernels and one pixel of zeros
    on every side, with a stride of 1 or 2."""
    stride = strides[0]
    if padding != [(1, 1), (1, 1)] or strides not in ((1, 1), (2, 2)):
        raise ValueError(f"padding={padding}, strides={strides}: expected 1 px, and 1 or 2")
    return _convolve(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, stride):
    if stride == 2 or not _winograd_pays(x, kernel, pixels_per_channel=1):
        return _plain(x, kernel, stride)
    return jax.lax.platform_dependent(
        x, kernel, cpu=convolve_rows_by_winograd, default=partial(_plain, stride=1)
    )


def _forward(x, kernel, stride):
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
    x, kernel = residuals
    (kernel_gradient,) = jax.vjp(lambda kernel: _plain(x, kernel, stride), kernel)[1](gradient)
    of_stride = {1: _input_gradient_of_stride_1, 2: _input_gradient_of_stride_2}[stride]
    input_gradient = jax.lax.platform_dependent(
        gradient,
        kernel,
        x,
        cpu=of_stride,
        default=lambda gradient, kernel, x: jax.vjp(lambda x: _plain(x, kernel, stride), x)[1](
            gradient
        )[0],
    )
    return input_gradient, kernel_gradient


_convolve.defvjp(_forward, _backward)


def _plain(x, kernel, stride, padding=((1, 1), (1, 1))):
    if x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]:
        # XLA would take the padding back into the convolution, if it could.
        x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
        padding = ((0, 0), (0, 0))
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _winograd_pays(x, kernel, pixels_per_channel):
    """Measured on two cores with AVX-512, for 8 to 512 channels and batches of 1 to 128 images.

    Fewer channels leave too little to multiply for all the sums before and after; and the sums of
    the kernel's rows are made at every call, for as many pixels as there are in the batch.
    """
    batch, height, width, _ = x.shape
    channels = min(kernel.shape[2:])
    return (
        isinstance(batch, int)  # An exported network's may be any number.
        and x.dtype.itemsize >= 4  # bfloat16 has no digits to lose.
        and channels >= 64
        and min(height, width) >= 3
        and batch * height * width >= pixels_per_channel * channels
    )


def _input_gradient_of_stride_1(gradient, kernel, x):
    kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    # The sums take longer here, as they transpose the kernel too.
    if _winograd_pays(gradient, kernel, pixels_per_channel=6):
        return convolve_rows_by_winograd(gradient, kernel)
    return _plain(gradient, kernel, 1)


def _input_gradient_of_stride_2(gradient, kernel, x):
    """A convolution for each of the four phases of the input's pixels.

    An output j looks at the inputs 2j - 1, 2j and 2j + 1 by the rows 0, 1 and 2 of the kernel. So
    the gradient of an even input 2j is that of output j, by row 1; of an odd one, 2j + 1, those of
    outputs j and j + 1, by rows 2 and 0. The same holds for columns.
    """
    batch, height, width, channels = x.shape
    kernel = kernel.swapaxes(2, 3)
    even, odd = kernel[1:2], kernel[::-2]
    phases = []
    for rows in (even, odd):
        for taps in (rows[:, 1:2], rows[:, ::-2]):
            padding = [(0, size - 1) for size in taps.shape[:2]]
            phases.append(_plain(gradient, taps, 1, padding))
    found = jnp.stack([jnp.stack(phases[:2], axis=3), jnp.stack(phases[2:], axis=3)], axis=2)
    rows, columns = gradient.shape[1:3]
    return found.reshape(batch, 2 * rows, 2 * columns, channels)[:, :height, :width]
