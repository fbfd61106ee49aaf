"""What was made fast for the CPU computes what the plain network computes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from support.networks import FACE_LOSS, SIZE, make_batch

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


def parameters(model, state, batches):
    """The parameters after a step of SGD on each batch, on one device."""
    state, device = jax.tree.map(jnp.copy, state), jax.devices()[:1]
    schedule = optax.constant_schedule(0.1)
    step = steps.pmap_train_step(model, optax.sgd(0.1), FACE_LOSS, schedule, devices=device)
    for batch in batches:
        state, _ = step(state, put_on_devices(batch, device))
    return jax.tree.map(np.array, state.params)


def test_ten_steps_are_the_plain_ones(monkeypatch):
    """In single precision. Each layer's own test compares it in double precision."""
    model = LandmarkRegressor(resnet.ResNet((1, 1), width=16, axis_name=AXIS))
    key, devices = jax.random.key(0), replicated(jax.devices()[:1])
    start = create_train_state(model, optax.sgd(0), key, SIZE, devices)
    batches = [make_batch(8, seed) for seed in range(10)]
    fast = parameters(model, start, batches)
    make_plain(monkeypatch)
    plain = parameters(model, start, batches)
    norm = float(optax.tree.norm(plain))
    assert distance(fast, plain) <= 1e-4 * norm
    assert distance(start.params, plain) > 1e-3 * norm  # They have gone somewhere.


def distance(a, b):
    return float(optax.tree.norm(jax.tree.map(np.subtract, a, b)))
