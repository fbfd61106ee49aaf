"""Batch norm in closed form is Flax's, and stays finite where a channel is constant."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.models.layers.batch_norm import BatchNorm

SETTINGS = {"momentum": 0.9, "epsilon": 1e-5}
AXIS = "devices"


def make_inputs(shape=(4, 2, 5, 5, 3), dtype=np.float64):
    """Input and weights of the output, for four devices; the channels differ in mean and spread."""
    rng = np.random.default_rng(0)
    x = rng.normal([5, -1, 0], [0.5, 3, 1], shape)
    return x.astype(dtype), rng.normal(size=shape).astype(dtype)


def make_variables(dtype=np.float64):
    params = {"scale": np.array([0.5, -2, 3], dtype), "bias": np.array([1, 0, -1], dtype)}
    stats = {"mean": np.array([4, 0, 0.5], dtype), "var": np.array([1, 2, 3], dtype)}
    return {"params": params, "batch_stats": stats}


def differentiate(kind, variables, x, weights, axis_name=AXIS):
    """Output, running statistics, and the gradients of parameters (summed) and input, of the sum
    of outputs times weights."""
    norm = kind(use_running_average=False, dtype=x.dtype, axis_name=axis_name, **SETTINGS)

    def loss(params, x, weights):
        given = {**variables, "params": params}
        y, updated = norm.apply(given, x, mutable=["batch_stats"])
        return (y * weights).sum(), (y, updated["batch_stats"])

    def step(x, weights):
        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (params, of_x), output = grad(variables["params"], x, weights)
        return (jax.lax.psum(params, AXIS), of_x), output

    return jax.tree.map(np.array, jax.vmap(step, axis_name=AXIS)(x, weights))


@pytest.mark.parametrize("axis_name", [AXIS, None])
def test_output_statistics_and_gradients_are_flax_ones(axis_name):
    with jax.enable_x64(True):
        variables, (x, weights) = make_variables(), make_inputs()
        found = differentiate(BatchNorm, variables, x, weights, axis_name)
        expected = differentiate(nn.BatchNorm, variables, x, weights, axis_name)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, found, expected)


def test_it_starts_with_flax_variables():
    settings = {"use_running_average": False, "dtype": jnp.float32, "axis_name": AXIS, **SETTINGS}
    x = jnp.ones((2, 3))
    found, expected = (
        kind(**settings).init(jax.random.key(0), x) for kind in (BatchNorm, nn.BatchNorm)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with jax.enable_x64(True):
        found = BatchNorm(**settings).init(jax.random.key(0), x)
    assert {array.dtype for array in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_half_precision_keeps_statistics_and_gradients_of_parameters_in_float32():
    x, weights = (jnp.asarray(array, jnp.bfloat16) for array in make_inputs())
    variables = make_variables(np.float32)
    (params, of_x), (y, stats) = differentiate(BatchNorm, variables, x, weights)
    wide = (array.astype(jnp.float32) for array in (x, weights))
    expected = differentiate(BatchNorm, variables, *wide)[1][1]
    assert y.dtype == of_x.dtype == jnp.bfloat16
    assert {array.dtype for array in jax.tree.leaves((params, stats))} == {np.dtype(np.float32)}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), stats, expected)


def test_a_constant_channel_stays_finite():
    values = np.linspace(1e3, 2e3, 50, dtype=np.float32)  # Rounding makes some variances negative.
    for value in values:
        x = np.full((4, 2, 5, 5, 3), value)
        found = differentiate(BatchNorm, make_variables(np.float32), x, np.ones_like(x))
        assert all(np.isfinite(array).all() for array in jax.tree.leaves(found))
