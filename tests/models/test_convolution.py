"""Our convolutions against JAX's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.networks import plain_convolution

from flm_jax.models.layers.convolution import PointwiseConv, convolve


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 5), (14, 15)])
def test_the_gradients_are_those_of_the_plain_convolution(size, stride):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)))
        expected, plain_vjp = jax.vjp(lambda x, k: plain_convolution(x, k, stride), x, kernel)
        found, vjp = jax.vjp(
            lambda x, k: convolve(x, k, (stride, stride), [(1, 1), (1, 1)]), x, kernel
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        gradient = jnp.asarray(rng.normal(size=expected.shape))
        for a, b in zip(vjp(gradient), plain_vjp(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution_is_a_convolution(stride):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 5, 6, 3)), jnp.float32)
    init = nn.initializers.normal()
    ours = PointwiseConv(4, stride, jnp.float32, init)
    variables = ours.init(jax.random.key(0), images)
    expected = nn.Conv(4, (1, 1), stride, use_bias=False).apply(variables, images)
    np.testing.assert_allclose(ours.apply(variables, images), expected, rtol=1e-5, atol=1e-6)


def test_gpus_and_tpus_get_the_compilers_own_convolutions():
    """XLA has aborted on a GPU while fusing the reshapes around our products."""
    x, kernel = jnp.zeros((2, 4, 4, 3)), jnp.zeros((3, 3, 3, 4))
    pointwise = PointwiseConv(4, 2, jnp.float32, nn.initializers.zeros)
    variables = pointwise.init(jax.random.key(0), x)
    small = jax.jit(lambda x: convolve(x, kernel, (1, 1), [(1, 1), (1, 1)]))
    for function in (small, jax.jit(lambda x: pointwise.apply(variables, x))):
        for platform, products in (("cuda", 0), ("tpu", 0), ("cpu", 1)):
            text = function.trace(x).lower(lowering_platforms=(platform,)).as_text()
            assert text.count("stablehlo.dot_general") == products
            assert text.count("stablehlo.convolution") == 1 - products


def test_other_padding_is_refused():
    x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match="padding"):
        convolve(x, kernel, (1, 1), [(0, 1), (0, 1)])
