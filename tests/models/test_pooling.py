"""The max pool against Flax's own, value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.models.layers.pooling import max_pool


def plain(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


@pytest.mark.parametrize("size", [(2, 2), (6, 8), (7, 5), (8, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_value_and_gradient_are_those_of_the_plain_pool(size, ties):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, *size, 3))
        x = jnp.asarray(np.maximum(np.round(x), 0) if ties else x)
        expected, plain_vjp = jax.vjp(plain, x)
        found, vjp = jax.vjp(max_pool, x)
        np.testing.assert_array_equal(found, expected)
        gradient = jnp.asarray(rng.normal(size=expected.shape))
        np.testing.assert_allclose(vjp(gradient)[0], plain_vjp(gradient)[0], rtol=1e-9, atol=1e-12)


def test_what_is_not_a_number_stays_so():
    x = jnp.ones((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    np.testing.assert_array_equal(max_pool(x), plain(x))
    assert jnp.isnan(max_pool(x)).any()
