"""One update and one evaluation, as pure functions, and their mapping over the devices.

A batch is a dict of image f32[b, s, s, 3], landmarks f32[b, 98, 2] (pixels of the image), visible
i8[b, 98] (1, 0, or -1 where it is unknown) and mask f32[b] (1 = a face, 0 = padding); for
evaluation, of index i32[b] and image_from_crop f32[b, 2, 3] too. All sums run over the mapped axis
`AXIS`, so that N devices compute what one would on the whole batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from flm_jax.models.network import LandmarkRegressor
from flm_jax.runtime.devices import AXIS
from flm_jax.training.losses import FaceLoss
from flm_jax.training.state import TrainState

Batch = dict[str, Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: LandmarkRegressor,
    optimizer: optax.GradientTransformation,
    face_loss: FaceLoss,
    schedule: optax.Schedule,
    ema_decay: float = 0.0,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update by the mean loss over the faces of the global batch.

    Where the state keeps averages, they follow by `ema_decay`.

    Returns:
        The next state, and the same on all devices: `loss` before the update, `gradient_norm` and
        `learning_rate`.
    """

    def loss_sum(params):
        outputs, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            for_loss=True,
            mutable=["batch_stats"],
        )
        losses = face_loss(outputs, batch)
        return (losses * batch["mask"]).sum(), updated.get("batch_stats", {})

    (loss, batch_stats), gradients = jax.value_and_grad(loss_sum, has_aux=True)(state.params)
    # Sums over faces and devices, divided once: a mean of means would weigh the faces unequally.
    loss, gradients, count = jax.lax.psum((loss, gradients, batch["mask"].sum()), AXIS)
    gradients = jax.tree.map(lambda gradient: gradient / count, gradients)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    scalars = {
        "loss": loss / count,
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(schedule(state.step)),
    }
    state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=state.ema,
    )
    return _update_ema(state, ema_decay), scalars


def _update_ema(state: TrainState, decay: float) -> TrainState:
    if not state.ema:
        return state
    # A shorter memory at first, as TensorFlow's ExponentialMovingAverage has it with `num_updates`:
    # the random start would weigh on the average for 1 / (1 - decay) steps.
    kept = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(
        lambda mean, value: value + kept.astype(value.dtype) * (mean - value),
        state.ema,
        state.variables,
    )
    return dataclasses.replace(state, ema=ema)


def eval_step(
    variables: dict[str, Any],
    batch: Batch,
    *,
    model: LandmarkRegressor,
    face_loss: FaceLoss | None = None,
) -> dict[str, Array]:
    """The network's outputs for the global batch, gathered on every device in the batch's order.

    Args:
        variables: what the model takes.
        batch: a device's share; `image` suffices without a loss.
        model: images -> outputs, perhaps with batch norm folded.
        face_loss: outputs and batch -> f32[b/d].

    Returns:
        The outputs as [d, b/d, ...] for the d devices, `landmarks` f32[d, b/d, 98, 2] in pixels of
        the images among them; `loss` f32[d, b/d] where there is one; and `index`, `mask` and
        `image_from_crop` as they came.
    """
    for_loss = face_loss is not None
    outputs: Any = model.apply(variables, batch["image"], train=False, for_loss=for_loss)
    if face_loss is not None:
        loss = face_loss(outputs, batch)
        outputs = {**model.without_training_outputs(outputs), "loss": loss}
    passed = {name: batch[name] for name in ("index", "mask", "image_from_crop") if name in batch}
    return jax.lax.all_gather({**outputs, **passed}, AXIS)


def pmap_train_step(
    model: LandmarkRegressor,
    optimizer: optax.GradientTransformation,
    face_loss: FaceLoss,
    schedule: optax.Schedule,
    ema_decay: float = 0.0,
    *,
    skip_nonfinite: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """`train_step` on all devices, or on some; the state is donated. Batches are `[d, b/d, ...]`.

    With `skip_nonfinite`, a step whose loss or gradient is not finite changes the step alone.
    """
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        face_loss=face_loss,
        schedule=schedule,
        ema_decay=ema_decay,
    )
    if skip_nonfinite:
        step = _skip_non_finite(step)
    if jax.process_count() > 1:
        step = _with_stop(step)
    return _pmap(step, _CPU_TRAINING, out_axes=(None, None), donate_argnums=0, devices=devices)


def _with_stop(step):
    """Of several processes: the largest of `stop` i32[b] in their batches becomes a scalar."""

    def asking(state, batch):
        new, scalars = step(state, batch)
        return new, {**scalars, "stop": jax.lax.pmax(batch["stop"].max(), AXIS)}

    return asking


def _skip_non_finite(step):
    def guarded(state, batch):
        new, scalars = step(state, batch)
        finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(scalars["gradient_norm"])
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return kept.replace(step=new.step), scalars

    return guarded


def pmap_eval_step(
    model: LandmarkRegressor, face_loss: FaceLoss | None = None
) -> Callable[[dict[str, Any], Batch], dict[str, Array]]:
    """`eval_step` on all devices. Batches are `[d, b/d, ...]`."""
    step = partial(eval_step, model=model, face_loss=face_loss)
    return _pmap(step, _CPU_EVALUATION, out_axes=None)


def _pmap(step, cpu_options, out_axes, donate_argnums=(), devices=None):
    """`jax.pmap` over the batch, with the compiler's options on a CPU."""
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=out_axes,
        donate_argnums=donate_argnums,
        devices=devices,
    )
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return mapped
    options = _known(cpu_options)
    return jax.jit(mapped, donate_argnums=donate_argnums, compiler_options=options)


# XLA's CPU back end leaves reductions to YNNPACK only when told so: ResNet-50's train step is 1.4
# times as fast. Elementwise operations stay with XLA, which fuses more of them: YNNPACK would keep
# the arrays between them, twice as much memory in all.
_CPU_TRAINING = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}

# YNNPACK gets nothing here: with a reduction it would take the convolutions before it too, and its
# own are slower than XLA's, or than oneDNN's, where XLA_FLAGS ask for those (docs/performance.md).
_CPU_EVALUATION = {"xla_cpu_experimental_ynn_fusion_type": ""}


def _known(options):
    """The options, if this XLA has them all: they come and go with its versions."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
