import contextlib
import dataclasses
import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.networks import FACE_LOSS, SIZE, in_float64, make_batch

from flm_jax.models.heads import LaplaceHead, SimCCHead
from flm_jax.models.network import LandmarkRegressor, variable_shapes
from flm_jax.models.resnet import ResNet
from flm_jax.runtime.devices import AXIS, put_on_devices, replicated, split_over_devices
from flm_jax.training import step as steps
from flm_jax.training.losses import make_face_loss
from flm_jax.training.state import create_train_state

SCHEDULE = optax.constant_schedule(0.05)
ADAM = optax.adam(SCHEDULE)


def make_model(dtype=jnp.float32, axis_name=AXIS):
    backbone = ResNet((1,), bottleneck=False, width=4, dtype=dtype, axis_name=axis_name)
    return LandmarkRegressor(backbone)


def make_step(face_loss=FACE_LOSS, **settings):
    return steps.pmap_train_step(make_model(), ADAM, face_loss, SCHEDULE, **settings)


def make_state(**settings):
    key = jax.random.key(0)
    return create_train_state(make_model(), ADAM, key, SIZE, replicated(), **settings)


def train(devices, state, batches, model):
    step = jax.pmap(
        functools.partial(
            steps.train_step, model=model, optimizer=ADAM, face_loss=FACE_LOSS, schedule=SCHEDULE
        ),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=jax.devices()[:devices],
    )
    losses = []
    for batch in batches:
        state, scalars = step(state, split_over_devices(batch, devices))
        losses.append(float(scalars["loss"]))
    return state, losses


def test_two_devices_compute_what_one_does_the_mean_over_unmasked_faces():
    initial = make_state()
    with jax.enable_x64(True):
        model, state = make_model(jnp.float64), in_float64(initial)
        # Unequal numbers of masked faces on the devices: means of means would show.
        batches = [make_batch(seed=seed) for seed in range(3)]
        for batch in batches:
            batch["mask"][[0, 1, 5]] = 0
        batches = [in_float64(batch) for batch in batches]
        one, one_losses = train(1, state, batches, model)
        two, two_losses = train(2, state, batches, model)
        plain = make_model(jnp.float64, axis_name=None)
        outputs, _ = plain.apply(
            state.variables, batches[0]["image"], train=True, mutable=["batch_stats"]
        )
        losses = np.asarray(FACE_LOSS(outputs, batches[0]))
    np.testing.assert_allclose(one_losses, two_losses, rtol=0, atol=1e-8)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
    assert one.params["head"]["points"]["kernel"].dtype == np.float64
    assert int(one.step) == 3
    expected = losses[np.asarray(batches[0]["mask"]) > 0].mean()
    assert one_losses[0] == pytest.approx(float(expected), rel=1e-8)


def test_training_fits_a_batch_compiles_once_and_moves_no_batch_that_is_placed():
    step, batch = make_step(), put_on_devices(make_batch())
    state, first = step(make_state(), batch)
    with (
        jax.log_compiles(True),
        captured_compilations() as compiled,
        jax.transfer_guard("disallow"),
    ):
        state, _ = step(state, batch)
    assert not compiled
    for _ in range(30):
        state, scalars = step(state, batch)
    assert float(scalars["loss"]) < 0.8 * float(first["loss"])
    assert float(scalars["learning_rate"]) == pytest.approx(0.05)


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


def test_predictions_of_all_devices_come_back_in_the_batch_order():
    state, batch = make_state(), make_batch()
    output = steps.pmap_eval_step(make_model(), FACE_LOSS)(state.variables, put_on_devices(batch))
    outputs = make_model().apply(state.variables, jnp.asarray(batch["image"]), train=False)
    assert output["landmarks"].shape == (2, 8, 98, 2)
    found = np.reshape(output["landmarks"], (16, 98, 2))
    np.testing.assert_allclose(found, outputs["landmarks"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.ravel(output["index"]), np.arange(16))
    expected = FACE_LOSS(outputs, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(np.ravel(output["loss"]), expected, rtol=1e-4)


def test_options_that_this_compiler_lacks_are_left_out():
    assert steps._known({"xla_cpu_no_such_option": True}) == {}
    assert steps._known({"xla_cpu_enable_fast_math": False}) != {}


def test_the_mapped_steps_lower_for_tpu():
    """What stands in for a run on a TPU: the very steps of the program are legal there."""
    state, batch = make_state(), split_over_devices(make_batch(), 2)
    for step, argument in (
        (make_step(), state),
        (steps.pmap_eval_step(make_model(), FACE_LOSS), state.variables),
    ):
        exported = jax.export.export(step, platforms=["tpu"])(argument, batch)
        assert exported.platforms == ("tpu",)
        assert exported.nr_devices == 2
        assert re.search("all_reduce|all_gather", exported.mlir_module())


def test_averages_follow_parameters_and_statistics_and_are_what_is_evaluated():
    step, state = make_step(ema_decay=0.5), make_state(with_ema=True)
    expected = jax.tree.map(np.array, state.variables)
    for index in range(4):
        state, _ = step(state, split_over_devices(make_batch(seed=index), 2))
        # The memory grows with the steps, (1 + n) / (10 + n), to the decay.
        kept = min(0.5, (2 + index) / (11 + index))
        expected = jax.tree.map(
            lambda mean, value, kept=kept: kept * mean + (1 - kept) * np.array(value),
            expected,
            state.variables,
        )
    for found, mean, last in zip(
        *map(jax.tree.leaves, (state.eval_variables, expected, state.variables)), strict=True
    ):
        np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)
        assert np.abs(found - np.array(last)).max() > 0
    assert dataclasses.replace(state, ema={}).eval_variables == state.variables


def test_given_values_are_where_training_starts():
    bias = np.arange(196, dtype=np.float32)
    state = make_state(with_ema=True, given={"params": {"head": {"points": {"bias": bias}}}})
    plain = make_state().params["head"]["points"]
    for params in (state.params, state.ema["params"]):
        np.testing.assert_array_equal(params["head"]["points"]["bias"], bias)
        np.testing.assert_array_equal(params["head"]["points"]["kernel"], plain["kernel"])
    with pytest.raises(ValueError, match="leaves that the network has not"):
        make_state(given={"params": {"haed": {"bias": bias}}})


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
    batch = make_batch()
    batch["image"] = np.zeros_like(batch["image"])
    for _ in range(150):
        batch["landmarks"] = (16 + rng.laplace(0, 1, (16, 98, 2)) * spread).astype(np.float32)
        state, _ = step(state, put_on_devices(batch))
        jax.block_until_ready(state)  # many steps in flight, on few cores, can deadlock on a CPU
    output = steps.pmap_eval_step(model, loss)(state.variables, put_on_devices(batch))
    scale = np.asarray(output["scale"]).reshape(16, 98).mean(axis=0)
    assert np.median(scale[:49]) == pytest.approx(0.3, rel=0.3)
    assert np.median(scale[49:]) == pytest.approx(3.0, rel=0.3)


def kink_loss(outputs, batch):
    """Zero everywhere, without a slope: a gradient that is not finite under a loss that is."""
    predictions = outputs["landmarks"]
    return jnp.sqrt(jnp.abs(predictions - jax.lax.stop_gradient(predictions))).sum((-2, -1))


def too_large_loss(outputs, batch):
    return FACE_LOSS(outputs, batch) * jnp.inf


@pytest.mark.parametrize("face_loss", [kink_loss, too_large_loss])
def test_a_step_that_is_not_finite_changes_the_step_alone(face_loss):
    step = make_step(face_loss, skip_nonfinite=True)
    after, scalars = step(make_state(), put_on_devices(make_batch()))
    assert not np.isfinite([scalars["loss"], scalars["gradient_norm"]]).all()
    assert int(after.step) == 1
    before = make_state()
    kept = dataclasses.replace(after, step=before.step)
    jax.tree.map(np.testing.assert_array_equal, kept, before)


def test_to_skip_changes_no_step_that_is_finite():
    batch = put_on_devices(make_batch())
    states = [make_step(skip_nonfinite=skip)(make_state(), batch)[0] for skip in (False, True)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *states)


def test_what_is_for_the_loss_alone_stays_in_the_step():
    head = SimCCHead(visibility=1.0)
    model = LandmarkRegressor(make_model().backbone, head)
    batch = jax.tree.map(lambda leaf: leaf[None], make_batch())
    batch["visible"] = np.zeros((1, 16, 98), np.int8)

    def face_loss(outputs, batch):
        return head.loss(outputs, batch, SIZE)

    def evaluate(variables, batch):
        step = functools.partial(steps.eval_step, model=model, face_loss=face_loss)
        return jax.vmap(step, in_axes=(None, 0), axis_name=AXIS)(variables, batch)

    found = jax.eval_shape(evaluate, variable_shapes(model, SIZE), batch)
    passed = {"index", "mask", "image_from_crop"}
    assert set(found) == passed | {"landmarks", "confidence", "visibility", "loss"}
