"""Winograd's form of the 3x3 convolution against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import plain_convolution

from flm_jax.models.layers.winograd import convolve_rows_by_winograd


@pytest.mark.parametrize("height", range(1, 10))
def test_winograds_rows_are_the_plain_convolution(height):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, height, 5, 3)))
        kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)))
        found, expected = convolve_rows_by_winograd(x, kernel), plain_convolution(x, kernel, 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_winograds_rows_lose_less_than_a_digit_of_float32():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 16, 16, 64)), rng.normal(size=(3, 3, 64, 64))
    with jax.enable_x64(True):
        exact = np.asarray(plain_convolution(jnp.asarray(x), jnp.asarray(kernel), 1))
    x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)

    def error(convolve):
        return np.sqrt(np.mean((np.asarray(convolve(x, kernel)) - exact) ** 2))

    assert error(convolve_rows_by_winograd) < 10 * error(
        lambda x, kernel: plain_convolution(x, kernel, 1)
    )
