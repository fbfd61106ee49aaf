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


@pytest.mark.parametrize("channels", [(3, 4), (64, 65)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (6, 8), (7, 5), (14, 15)])
def test_the_gradients_are_those_of_the_plain_convolution(size, stride, channels):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, *size, channels[0])))
        kernel = jnp.asarray(rng.normal(size=(3, 3, *channels)))
        expected, plain_vjp = jax.vjp(lambda x, k: plain(x, k, stride), x, kernel)
        found, vjp = jax.vjp(
            lambda x, k: convolve(x, k, (stride, stride), [(1, 1), (1, 1)]), x, kernel
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        gradient = jnp.asarray(rng.normal(size=expected.shape))
        for a, b in zip(vjp(gradient), plain_vjp(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def multiplications(size, channels, dtype=jnp.float32):
    """Of a forward pass on the CPU, as XLA counts them."""
    x = jax.ShapeDtypeStruct((2, *size, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), dtype)
    step = jax.jit(lambda x, k: convolve(x, k, (1, 1), [(1, 1), (1, 1)]))
    return step.lower(x, kernel).compile().cost_analysis()["flops"]


def test_wide_convolutions_of_many_pixels_take_fewer_multiplications():
    per_channel = multiplications((16, 16), 32) / 32**2
    assert multiplications((16, 16), 64) / 64**2 < 0.7 * per_channel


def test_bfloat16_which_has_no_digits_to_lose_takes_them_all():
    per_channel = multiplications((16, 16), 32, jnp.bfloat16) / 32**2
    assert multiplications((16, 16), 64, jnp.bfloat16) / 64**2 > 0.9 * per_channel


def test_what_it_can_not_do_is_an_error():
    x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match="strides"):
        convolve(x, kernel, (3, 3), [(1, 1), (1, 1)])
    with pytest.raises(ValueError, match="padding"):
        convolve(x, kernel, (1, 1), [(0, 1), (0, 1)])
