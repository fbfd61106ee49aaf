"""The 3x3 convolution against JAX's own, value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.networks import plain_convolution

from flm_jax.models.layers.convolution import convolve


@pytest.mark.parametrize("channels", [(3, 4), (64, 65)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (6, 8), (7, 5), (14, 15)])
def test_the_gradients_are_those_of_the_plain_convolution(size, stride, channels):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, *size, channels[0])))
        kernel = jnp.asarray(rng.normal(size=(3, 3, *channels)))
        expected, plain_vjp = jax.vjp(lambda x, k: plain_convolution(x, k, stride), x, kernel)
        found, vjp = jax.vjp(
            lambda x, k: convolve(x, k, (stride, stride), [(1, 1), (1, 1)]), x, kernel
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        gradient = jnp.asarray(rng.normal(size=expected.shape))
        for a, b in zip(vjp(gradient), plain_vjp(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def lower(batch, size, channels, dtype=jnp.float32, gradient=False):
    """The convolution, or its input gradient, for the CPU."""
    x = jax.ShapeDtypeStruct((batch, *size, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), dtype)

    def forward(x, kernel):
        return convolve(x, kernel, (1, 1), [(1, 1), (1, 1)])

    def backward(x, kernel):
        return jax.vjp(lambda x: forward(x, kernel), x)[1](x)

    return jax.jit(backward if gradient else forward).lower(x, kernel)


@pytest.mark.parametrize("gradient", [False, True])
def test_wide_convolutions_of_many_pixels_take_fewer_multiplications(gradient):
    def per_channel(channels):
        cost = lower(2, (16, 16), channels, gradient=gradient).compile().cost_analysis()
        return cost["flops"] / channels**2

    assert per_channel(64) < 0.7 * per_channel(32)


@pytest.mark.parametrize(
    ("batch", "size", "channels", "settings"),
    [
        (2, (16, 16), 63, {}),
        (1, (7, 9), 64, {}),
        (1, (16, 16), 64, {"gradient": True}),
        (64, (2, 16), 64, {}),  # XLA's slow kind, which takes fifty times as long.
        (64, (16, 2), 64, {}),
        (2, (16, 16), 64, {"dtype": jnp.bfloat16}),  # It has no digits to lose.
    ],
)
def test_where_nothing_is_won_it_is_one_convolution(batch, size, channels, settings):
    text = lower(batch, size, channels, **settings).as_text()
    assert text.count("stablehlo.convolution") == 1


def test_an_exported_one_takes_any_number_of_images():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 64, 64)), jnp.float32)
    images = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 5, 5, 64"), jnp.float32)
    step = jax.jit(lambda x: convolve(x, kernel, (1, 1), [(1, 1), (1, 1)]))
    exported = export.export(step, platforms=["cpu", "cuda", "tpu"])(images)
    for batch in (1, 4):
        x = jnp.asarray(rng.normal(size=(batch, 5, 5, 64)), jnp.float32)
        np.testing.assert_allclose(
            exported.call(x), plain_convolution(x, kernel, 1), rtol=1e-4, atol=1e-3
        )


def test_what_it_can_not_do_is_an_error():
    x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match="strides"):
        convolve(x, kernel, (3, 3), [(1, 1), (1, 1)])
    with pytest.raises(ValueError, match="padding"):
        convolve(x, kernel, (1, 1), [(0, 1), (0, 1)])
