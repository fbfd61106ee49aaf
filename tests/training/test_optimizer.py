import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.errors import InputError
from flm_jax.training import optimizer


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


PARAMS = {
    "backbone": {
        "conv": {"kernel": jnp.ones(2)},
        "bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    },
    "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
}


def run(gradients, rate=0.1, **settings):
    """The parameters after an update by each of the gradients."""
    schedule = rate if callable(rate) else lambda step: rate
    chain = optimizer.make_optimizer(schedule=schedule, **settings)
    params, state = PARAMS, chain.init(PARAMS)
    for gradient in gradients:
        updates, state = chain.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def like(value):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), PARAMS)


ADAMW = {"name": "adamw", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.5}
SGD = {"name": "sgd"}


def test_decay_moves_kernels_alone():
    params = run([like(0.0)], **ADAMW)
    np.testing.assert_allclose(params["backbone"]["conv"]["kernel"], 1 - 0.1 * 0.5)
    np.testing.assert_allclose(params["head"]["kernel"], 1 - 0.1 * 0.5)
    for leaf in (*params["backbone"]["bn"].values(), params["head"]["bias"]):
        np.testing.assert_array_equal(leaf, 1)


def test_the_backbone_follows_its_own_rate():
    params = run([like(1.0)], **SGD, backbone_lr_scale=0.25)
    np.testing.assert_allclose(params["head"]["kernel"], 0.9)
    for leaf in jax.tree.leaves(params["backbone"]):
        np.testing.assert_allclose(leaf, 1 - 0.025)


def test_large_gradients_are_clipped_as_a_whole_and_small_ones_are_not():
    # Ten numbers of 3 have the norm 3 sqrt(10).
    params = run([like(3.0)], **SGD, clip_norm=1.0)
    for leaf in jax.tree.leaves(params):
        np.testing.assert_allclose(leaf, 1 - 0.1 / np.sqrt(10), rtol=1e-6)
    params = run([like(0.1)], **SGD, clip_norm=1.0)
    np.testing.assert_allclose(params["head"]["bias"], 0.99, rtol=1e-6)


def test_accumulated_steps_make_the_update_of_their_mean():
    gradients = [like(value) for value in (1.0, 2.0, 6.0)]
    untouched = run(gradients[:2], **SGD, grad_accum_steps=3)
    jax.tree.map(np.testing.assert_array_equal, untouched, PARAMS)
    params = run(gradients, **SGD, grad_accum_steps=3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, run([like(3.0)], **SGD)
    )


def test_with_accumulation_the_schedule_still_counts_steps():
    gradients = [like(1.0)] * 6
    params = run(gradients, lambda step: jnp.where(step < 3, 0.1, 0.01), **SGD, grad_accum_steps=3)
    np.testing.assert_allclose(params["head"]["bias"], 1 - 0.1 - 0.01, rtol=1e-6)
