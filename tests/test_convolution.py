"""The 3x3 convolution against JAX's own, value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.models.convolution import convolve


def plain(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (6, 8), (7, 5)])
def test_the_gradients_are_those_of_the_plain_convolution(size, stride):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)))
        expected, plain_vjp = jax.vjp(lambda x, k: plain(x, k, stride), x, kernel)
        found, vjp = jax.vjp(
            lambda x, k: convolve(x, k, (stride, stride), [(1, 1), (1, 1)]), x, kernel
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        gradient = jnp.asarray(rng.normal(size=expected.shape))
        for a, b in zip(vjp(gradient), plain_vjp(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_what_it_can_not_do_is_an_error():
    x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match="strides"):
        convolve(x, kernel, (3, 3), [(1, 1), (1, 1)])
    with pytest.raises(ValueError, match="padding"):
        convolve(x, kernel, (1, 1), [(0, 1), (0, 1)])
