import contextlib
import dataclasses
import functools
import logging
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.networks import FACE_LOSS, SIZE, in_float64, make_batch

from flm_jax.models.heads import LaplaceHead
from flm_jax.models.network import LandmarkRegressor
from flm_jax.models.resnet import ResNet
from flm_jax.runtime.devices import AXIS, put_on_devices, replicated, split_over_devices
from flm_jax.training import step as steps
from flm_jax.training.losses import make_face_loss
from flm_jax.training.state import TrainState, create_train_state

ADAM = optax.adam(1e-3)


def make_model(dtype=jnp.float32):
    return LandmarkRegressor(
        ResNet(stage_sizes=(1, 1), bottleneck=False, width=4, dtype=dtype, axis_name=AXIS)
    )


@functools.cache
def make_state():
    return create_train_state(make_model(), ADAM, jax.random.key(0), SIZE, replicated())


def fresh_state():
    """A copy, for the step that takes its state's memory."""
    return jax.tree.map(jnp.copy, make_state())


def pmap_on(devices, function, out_axes, **settings):
    return jax.pmap(
        partial(function, **settings),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=out_axes,
        devices=jax.devices()[:devices],
    )


def train(devices, state, batches, model):
    step = pmap_on(
        devices,
        steps.train_step,
        (None, None),
        model=model,
        optimizer=ADAM,
        face_loss=FACE_LOSS,
        schedule=optax.constant_schedule(1e-3),
    )
    losses = []
    for batch in batches:
        state, scalars = step(state, split_over_devices(batch, devices))
        losses.append(float(scalars["loss"]))
    return state, losses


def test_eight_devices_compute_what_one_does():
    initial = make_state()  # Not under enable_x64: other tests use it too.
    with jax.enable_x64(True):
        model = make_model(jnp.float64)
        state = in_float64(initial)
        # Unequal numbers of masked faces on the devices: means of means would show.
        batches = [make_batch(seed=seed) for seed in range(5)]
        for batch in batches:
            batch["mask"][[0, 1, 5]] = 0
        batches = [in_float64(batch) for batch in batches]
        one, one_losses = train(1, state, batches, model)
        eight, eight_losses = train(8, state, batches, model)
    np.testing.assert_allclose(one_losses, eight_losses, rtol=0, atol=1e-8)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
    assert one.params["head"]["points"]["kernel"].dtype == np.float64
    assert int(one.step) == 5


def test_training_fits_a_batch():
    schedule = optax.constant_schedule(0.1)
    adam, model = optax.adam(schedule), make_model()
    step = steps.pmap_train_step(model, adam, FACE_LOSS, schedule)
    state = create_train_state(model, adam, jax.random.key(1), SIZE, replicated())
    batch = split_over_devices(make_batch(), 8)
    losses = []
    for _ in range(30):
        state, scalars = step(state, batch)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert float(scalars["learning_rate"]) == pytest.approx(0.1)


def test_the_loss_is_the_mean_over_unmasked_faces():
    batch = make_batch()
    batch["mask"][3:] = 0
    _, losses = train(8, make_state(), [batch], make_model())
    model = LandmarkRegressor(ResNet(stage_sizes=(1, 1), bottleneck=False, width=4))
    predictions, _ = model.apply(
        make_state().variables, jnp.asarray(batch["image"]), train=True, mutable=["batch_stats"]
    )
    expected = FACE_LOSS(predictions, batch)[:3].mean()
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_predictions_of_all_devices_come_back_in_the_batch_order():
    state, batch = make_state(), make_batch()
    step = steps.pmap_eval_step(make_model(), FACE_LOSS)
    output = step(state.variables, put_on_devices(batch))
    outputs = make_model().apply(state.variables, jnp.asarray(batch["image"]), train=False)
    expected = outputs["landmarks"]
    assert output["landmarks"].shape == (8, 2, 98, 2)
    np.testing.assert_allclose(
        np.reshape(output["landmarks"], (16, 98, 2)), expected, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(np.ravel(output["index"]), np.arange(16))
    np.testing.assert_allclose(np.ravel(output["loss"]), FACE_LOSS(outputs, batch), rtol=1e-4)


def test_a_second_step_does_not_compile_again():
    step = steps.pmap_train_step(make_model(), ADAM, FACE_LOSS, optax.constant_schedule(1e-3))
    state = fresh_state()
    batch = put_on_devices(make_batch())
    state, _ = step(state, batch)
    with jax.log_compiles(True), captured_compilations() as compiled:
        step(state, batch)
    assert not compiled


@contextlib.contextmanager
def captured_compilations():
    """The messages of JAX's compilations, as they come."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: (
        records.append(record.getMessage()) if "Compiling" in record.getMessage() else None
    )
    logging.getLogger("jax").addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger("jax").removeHandler(handler)


def test_options_that_this_compiler_lacks_are_left_out():
    assert steps._known({"xla_cpu_no_such_option": True}) == {}
    assert steps._known({"xla_cpu_enable_fast_math": False}) != {}


def test_a_placed_batch_travels_no_more():
    step = steps.pmap_train_step(make_model(), ADAM, FACE_LOSS, optax.constant_schedule(1e-3))
    state, _ = step(fresh_state(), put_on_devices(make_batch()))
    batch = put_on_devices(make_batch(seed=1))
    with jax.transfer_guard("disallow"):
        _, scalars = step(state, batch)
    assert np.isfinite(float(scalars["loss"]))


def test_the_mapped_steps_lower_for_tpu():
    """What stands in for a run on a TPU: the very steps of the program are legal there."""
    model, schedule = make_model(), optax.constant_schedule(1e-3)
    state, batch = make_state(), split_over_devices(make_batch(), 8)
    for step, argument in (
        (steps.pmap_train_step(model, ADAM, FACE_LOSS, schedule), state),
        (steps.pmap_eval_step(model, FACE_LOSS), state.variables),
    ):
        exported = jax.export.export(step, platforms=["tpu"])(argument, batch)
        assert exported.platforms == ("tpu",)
        assert exported.nr_devices == 8
        assert re.search("all_reduce|all_gather", exported.mlir_module())


def test_the_state_starts_the_same_from_the_same_key():
    again = create_train_state(make_model(), ADAM, jax.random.key(0), SIZE)
    assert isinstance(again, TrainState)
    for x, y in zip(jax.tree.leaves(make_state()), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)


def ema_state(given=None):
    return create_train_state(
        make_model(), ADAM, jax.random.key(0), SIZE, replicated(), with_ema=True, given=given
    )


def test_averages_follow_parameters_and_statistics():
    schedule = optax.constant_schedule(0.05)
    adam = optax.adam(schedule)
    step = steps.pmap_train_step(make_model(), adam, FACE_LOSS, schedule, 0.5)
    state = create_train_state(
        make_model(), adam, jax.random.key(0), SIZE, replicated(), with_ema=True
    )
    expected = jax.tree.map(np.array, state.variables)
    for index in range(4):
        state, _ = step(state, split_over_devices(make_batch(seed=index), 8))
        # The memory grows with the steps, (1 + n) / (10 + n), to the decay.
        kept = min(0.5, (2 + index) / (11 + index))
        expected = jax.tree.map(
            lambda mean, value, kept=kept: kept * mean + (1 - kept) * np.array(value),
            expected,
            state.variables,
        )
    for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    moved = [
        np.abs(np.array(a) - b).max()
        for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.variables), strict=True)
    ]
    assert min(moved) > 0


def test_evaluation_uses_the_averages():
    state, batch = ema_state(), split_over_devices(make_batch(), 8)
    evaluate = steps.pmap_eval_step(make_model(), FACE_LOSS)
    expected = evaluate(state.eval_variables, batch)["landmarks"]
    spoilt = dataclasses.replace(state, params=jax.tree.map(jnp.zeros_like, state.params))
    np.testing.assert_array_equal(evaluate(spoilt.eval_variables, batch)["landmarks"], expected)
    plain = dataclasses.replace(spoilt, ema={})
    assert np.abs(evaluate(plain.eval_variables, batch)["landmarks"] - expected).max() > 0.01


def test_given_values_are_where_training_starts():
    bias = np.arange(196, dtype=np.float32)
    state = ema_state({"params": {"head": {"points": {"bias": bias}}}})
    np.testing.assert_array_equal(state.params["head"]["points"]["bias"], bias)
    np.testing.assert_array_equal(state.ema["params"]["head"]["points"]["bias"], bias)
    kernel = make_state().params["head"]["points"]["kernel"]
    np.testing.assert_array_equal(state.params["head"]["points"]["kernel"], kernel)
    with pytest.raises(ValueError, match="leaves that the network has not"):
        ema_state({"params": {"haed": {"bias": bias}}})


def test_a_network_of_uncertainty_learns_the_size_of_its_errors():
    """Random targets around a mean: the scales approach the spread of each coordinate."""
    model = LandmarkRegressor(make_model().backbone, LaplaceHead())
    loss = make_face_loss("laplace", reference_size=224, image_size=SIZE, head_outputs=("scale",))
    schedule = optax.cosine_decay_schedule(0.2, 150)
    adam = optax.adam(schedule)
    step = steps.pmap_train_step(model, adam, loss, schedule)
    middle = {"params": {"head": {"points": {"bias": np.full(196, 112, np.float32)}}}}
    state = create_train_state(model, adam, jax.random.key(1), SIZE, replicated(), given=middle)
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(98) < 49, 0.3, 3.0)[:, None]
    for _ in range(150):
        batch = make_batch()
        batch["image"] = np.zeros_like(batch["image"])
        batch["landmarks"] = (16 + rng.laplace(0, 1, (16, 98, 2)) * spread).astype(np.float32)
        state, _ = step(state, split_over_devices(batch, 8))
    output = steps.pmap_eval_step(model, loss)(state.variables, put_on_devices(batch))
    assert output["scale"].shape == (8, 2, 98)
    scale = np.asarray(output["scale"]).reshape(16, 98).mean(axis=0)
    assert np.median(scale[:49]) == pytest.approx(0.3, rel=0.3)
    assert np.median(scale[49:]) == pytest.approx(3.0, rel=0.3)


def kink_loss(outputs, landmarks):
    """Zero everywhere, without a slope: a gradient that is not finite under a loss that is."""
    predictions = outputs["landmarks"]
    return jnp.sqrt(jnp.abs(predictions - jax.lax.stop_gradient(predictions))).sum((-2, -1))


def too_large_loss(outputs, landmarks):
    return FACE_LOSS(outputs, landmarks) * jnp.inf


@pytest.mark.parametrize("face_loss", [kink_loss, too_large_loss])
def test_a_step_that_is_not_finite_changes_the_step_alone(face_loss):
    schedule = optax.constant_schedule(1e-3)
    batch = put_on_devices(make_batch())
    after = {}
    for skip in (False, True):
        step = steps.pmap_train_step(make_model(), ADAM, face_loss, schedule, skip_nonfinite=skip)
        after[skip], scalars = step(fresh_state(), batch)
        assert not np.isfinite([scalars["loss"], scalars["gradient_norm"]]).all()
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after[False].params))
    assert after[True].step == make_state().step + 1
    kept = dataclasses.replace(after[True], step=make_state().step)
    jax.tree.map(np.testing.assert_array_equal, kept, make_state())


def test_to_skip_changes_no_step_that_is_finite():
    schedule = optax.constant_schedule(1e-3)
    batch = put_on_devices(make_batch())
    states = []
    for skip in (False, True):
        step = steps.pmap_train_step(make_model(), ADAM, FACE_LOSS, schedule, skip_nonfinite=skip)
        states.append(step(fresh_state(), batch)[0])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *states)
