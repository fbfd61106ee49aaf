"""What was made fast for the CPU computes what the plain network computes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from support.networks import FACE_LOSS, SIZE, in_float64, make_batch

from flm_jax.models import resnet
from flm_jax.models.network import LandmarkRegressor
from flm_jax.runtime.devices import AXIS, put_on_devices, replicated
from flm_jax.training import step as steps
from flm_jax.training.state import create_train_state


def make_plain(monkeypatch):
    """Flax's own layers, and XLA's own options."""

    def pointwise(features, stride, dtype, kernel_init, *, name):
        settings = {"dtype": dtype, "kernel_init": kernel_init}
        return nn.Conv(features, (1, 1), stride, use_bias=False, name=name, **settings)

    def max_pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    monkeypatch.setattr(resnet, "PointwiseConv", pointwise)
    monkeypatch.setattr(resnet, "BatchNorm", nn.BatchNorm)
    monkeypatch.setattr(resnet, "convolve", None)
    monkeypatch.setattr(resnet, "max_pool", max_pool)
    monkeypatch.setattr(steps, "_CPU_TRAINING", {})


def make_model(dtype=jnp.float32):
    backbone = resnet.ResNet((1, 1), width=64, dtype=dtype, axis_name=AXIS)
    return LandmarkRegressor(backbone)


def make_state():
    key, devices = jax.random.key(0), replicated(jax.devices()[:1])
    return create_train_state(make_model(), optax.sgd(0), key, SIZE, devices)


def train(state, batches, model, rate):
    """The parameters after a step of SGD on each batch, on one device."""
    state, device = jax.tree.map(jnp.copy, state), jax.devices()[:1]
    schedule = optax.constant_schedule(rate)
    step = steps.pmap_train_step(model, optax.sgd(rate), FACE_LOSS, schedule, devices=device)
    for batch in batches:
        state, _ = step(state, put_on_devices(batch, device))
    return jax.tree.map(np.array, state.params)


def test_a_step_has_the_plain_gradient_in_float64(monkeypatch):
    initial = make_state()
    with jax.enable_x64(True):
        start, batches = in_float64(initial), [in_float64(make_batch(8))]
        model = make_model(jnp.float64)
        fast = train(start, batches, model, 1.0)
        make_plain(monkeypatch)
        plain = train(start, batches, model, 1.0)
    before = jax.tree.map(np.array, initial.params)
    leaves = zip(*map(jax.tree.leaves, (before, fast, plain)), strict=True)
    for before, found, expected in leaves:
        assert found.dtype == np.float64
        gradient = np.linalg.norm(expected - before)
        assert gradient > 0
        assert np.linalg.norm(found - expected) <= 1e-9 * gradient


def test_ten_steps_are_the_plain_ones_in_float32(monkeypatch):
    start, batches = make_state(), [make_batch(8, seed) for seed in range(10)]
    fast = train(start, batches, make_model(), 0.1)
    make_plain(monkeypatch)
    plain = train(start, batches, make_model(), 0.1)
    norm = float(optax.tree.norm(plain))
    assert distance(fast, plain) <= 1e-4 * norm
    assert distance(start.params, plain) > 1e-3 * norm  # They have gone somewhere.


def distance(a, b):
    return float(optax.tree.norm(jax.tree.map(np.subtract, a, b)))
