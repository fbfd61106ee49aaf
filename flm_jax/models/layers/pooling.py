"""The stem's max pool, with a gradient that is fast on the CPU too.

XLA scatters the gradient back to each window's maximum, which it searches anew. On the CPU that
takes ten times as long as the pool; here it takes a third of that.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int8

_TAPS = [(row, column) for row in range(3) for column in range(3)]


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """The largest of each 3x3 window, with a stride of 2 and one pixel of padding on every side.

    The gradient goes to a window's first maximum, as XLA has it.
    """
    return _plain(x) if x.shape[1] % 2 or x.shape[2] % 2 else _pool(x)


def _plain(x):
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@jax.custom_vjp
def _pool(x):
    return _plain(x)


def _forward(x):
    return _plain(x), x


def _backward(x, gradient):
    found = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=lambda x, gradient: _spread(_first_maximum(x), gradient),
        default=lambda x, gradient: jax.vjp(_plain, x)[1](gradient)[0],
    )
    return (found,)


_pool.defvjp(_forward, _backward)


def _first_maximum(x) -> Int8[Array, "b _h _w c"]:
    """The number of the tap that each window's maximum comes from."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    taps = [padded[:, row : row + height : 2, column : column + width : 2] for row, column in _TAPS]
    largest, place = taps[0], jnp.zeros(taps[0].shape, jnp.int8)
    for tap, value in enumerate(taps[1:], start=1):
        larger = value > largest
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.int8(tap), place)
    # Or else each of its uses would search the maximum anew.
    return jax.lax.optimization_barrier(place)


def _spread(place, gradient):
    """Each window's gradient at its maximum.

    Window i looks at the rows 2i - 1, 2i and 2i + 1. So an even row gets from window i alone, by
    tap 1, and an odd row 2i + 1 from windows i and i + 1, by taps 2 and 0. The same holds for
    columns.
    """
    batch, height, width, channels = gradient.shape
    one_more = ((0, 0), (0, 1), (0, 1), (0, 0))
    place = jnp.pad(place, one_more, constant_values=-1)
    gradient = jnp.pad(gradient, one_more)
    sources = {0: [(0, 1)], 1: [(0, 2), (1, 0)]}  # of an even and an odd row: window, tap

    def phase(rows, columns):
        parts = []
        for down, row in rows:
            for right, column in columns:
                window = (slice(None), slice(down, down + height), slice(right, right + width))
                hit = place[window] == _TAPS.index((row, column))
                parts.append(jnp.where(hit, gradient[window], 0))
        return sum(parts[1:], parts[0])

    phases = [
        jnp.stack([phase(rows, columns) for columns in sources.values()], axis=3)
        for rows in sources.values()
    ]
    found = jnp.stack(phases, axis=2)  # [b, row, its phase, column, its phase, c]
    return found.reshape(batch, 2 * height, 2 * width, channels)
