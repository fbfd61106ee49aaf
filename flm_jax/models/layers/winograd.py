"""A 3x3 convolution with half the multiplications, for the CPU.

F(4, 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), along
the rows: six products give four outputs of a filter of three taps, which otherwise take twelve.
Along the columns it stays a convolution: both ways would take a quarter of the multiplications, but
so many more passes over memory that ResNet-50 tta next to nothing more, and more digits are lost.
Here float32 is 1e-6 of the outputs' root mean square off, a plain convolution 3e-7.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# y = OUTPUT @ ((KERNEL @ k) * (INPUT @ x)) for six inputs x, three taps k and four outputs y.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_STEP = len(_OUTPUT)


def convolve_rows_by_winograd(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c k"]
) -> Float[Array, "b h w k"]:
    """The convolution with a stride of 1 and one pixel of zeros on every side."""
    batch, height, width, _ = x.shape
    tiles = -(-height // _STEP)
    padded = jnp.pad(x, ((0, 0), (1, tiles * _STEP + 1 - height), (0, 0), (0, 0)))
    end = (tiles - 1) * _STEP + 1
    rows = [padded[:, row : row + end : _STEP] for row in range(len(_INPUT))]
    products = [
        jax.lax.conv_general_dilated(
            _sum(of_rows, rows),
            _sum(of_taps, kernel)[None],
            (1, 1),
            ((0, 0), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for of_rows, of_taps in zip(_INPUT, _KERNEL, strict=True)
    ]
    outputs = jnp.stack([_sum(of_products, products) for of_products in _OUTPUT], axis=2)
    return outputs.reshape(batch, tiles * _STEP, width, -1)[:, :height]


def _sum(weights, arrays):
    return sum(weight * array for weight, array in zip(weights, arrays, strict=True) if weight)
