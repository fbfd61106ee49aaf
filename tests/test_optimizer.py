import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax import optimizer
from flm_jax.errors import InputError


def rates(name, steps, **settings):
    schedule = optimizer.make_schedule(name, learning_rate=0.1, num_steps=100, **settings)
    return [float(schedule(step)) for step in steps]


def test_constant_stays():
    np.testing.assert_allclose(rates("constant", [0, 50, 99]), 0.1)


def test_cosine_warms_up_and_decays_to_its_end():
    at = rates("cosine", [0, 5, 10, 55, 100], warmup=0.1, final=0.01)
    np.testing.assert_allclose(at, [0, 0.05, 0.1, 0.0505, 0.001], atol=1e-6)


def test_cosine_without_warm_up_starts_at_the_peak():
    assert rates("cosine", [0], warmup=0.0, final=0.0) == pytest.approx([0.1])


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_steps_drop_at_their_fractions(warmup):
    settings = {"warmup": warmup, "drops": (0.5, 0.8), "factor": 0.1}
    at = rates("steps", [49, 51, 79, 81], **settings)
    np.testing.assert_allclose(at, [0.1, 0.01, 0.01, 0.001], rtol=1e-5)


def test_adam_moves_by_the_learning_rate_at_first():
    schedule = optimizer.make_schedule("constant", learning_rate=1e-3, num_steps=10)
    adam = optimizer.make_optimizer("adam", schedule=schedule, b1=0.9, b2=0.999, eps=1e-8)
    params = {"w": jnp.ones(3)}
    updates, _ = adam.update({"w": jnp.array([5.0, -0.2, 1.0])}, adam.init(params), params)
    np.testing.assert_allclose(updates["w"], [-1e-3, 1e-3, -1e-3], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rates("cosin", [0]), "schedule.name=cosin: expected one of constant, cosine"),
        (lambda: rates("cosine", [0], warmup=0.1), r"config\.schedule: .*'final'"),
        (
            lambda: optimizer.make_optimizer("adm", schedule=lambda step: 1.0),
            "optimizer.name=adm: expected one of adam",
        ),
        (
            lambda: optimizer.make_optimizer("adam", schedule=lambda step: 1.0, beta=1.0),
            r"config\.optimizer: .*'beta'",
        ),
    ],
)
def test_unknown_names_and_settings_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
