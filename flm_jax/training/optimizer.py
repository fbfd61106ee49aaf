"""The learning rate's schedule and the optax chain."""

from collections.abc import Callable
from functools import partial

import jax
import optax

from flm_jax.errors import InputError, check_keywords


def make_schedule(name: str, *, learning_rate: float, num_steps: int, **settings) -> optax.Schedule:
    """The learning rate of every step.

    Args:
        name: `constant`; `cosine` (settings: `warmup`, `final`); or `steps` (settings: `warmup`,
            `drops`, `factor`). Lengths are fractions of the training.
        learning_rate: the peak.
        num_steps: steps of the whole training.
        **settings: `warmup`, the share in which the rate rises linearly from 0; `final`, the share
            of the peak at the end; `drops`, the shares at which the rate is multiplied by `factor`.
    """
    if name not in SCHEDULES:
        raise InputError(f"schedule.name={name}: expected one of {', '.join(SCHEDULES)}")
    check_keywords("schedule", SCHEDULES[name], learning_rate, num_steps, **settings)
    warmup = settings.get("warmup", 0.0)
    if not 0 <= warmup < 1:
        raise InputError(f"schedule.warmup={warmup}: expected a share of the training in [0, 1)")
    return SCHEDULES[name](learning_rate, num_steps, **settings)


def make_optimizer(
    name: str,
    *,
    schedule: optax.Schedule,
    clip_norm: float = 0.0,
    backbone_lr_scale: float = 1.0,
    grad_accum_steps: int = 1,
    **hyperparameters: float,
) -> optax.GradientTransformation:
    """Optax's own optimiser with the schedule, and what stands around it.

    Args:
        name: `adam`, `adamw` (whose decay leaves out biases and batch norm) or `sgd`.
        schedule: the learning rate of every step.
        clip_norm: the largest norm that the gradients keep; 0: any.
        backbone_lr_scale: the backbone's learning rate as a share of the head's.
        grad_accum_steps: steps whose mean gradient makes one update, for devices that hold no
            larger batch.
        **hyperparameters: of the optimiser.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer.name={name}: expected one of {', '.join(OPTIMIZERS)}")
    check_keywords("optimizer", OPTIMIZERS[name], schedule, **hyperparameters)
    # The optimiser counts its updates, the schedule steps.
    chain = [OPTIMIZERS[name](lambda count: schedule(count * grad_accum_steps), **hyperparameters)]
    if clip_norm:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if backbone_lr_scale != 1:
        chain.append(optax.masked(optax.scale(backbone_lr_scale), _backbone))
    optimizer = optax.chain(*chain) if len(chain) > 1 else chain[0]
    if grad_accum_steps > 1:
        return optax.MultiSteps(optimizer, grad_accum_steps).gradient_transformation()
    return optimizer


def _kernels(params):
    """Which leaves are kernels."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _backbone(params):
    """Which leaves are the backbone's."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "backbone", params)


def _constant(peak, num_steps):
    return optax.constant_schedule(peak)


def _cosine(peak, num_steps, *, warmup, final):
    return optax.warmup_cosine_decay_schedule(
        init_value=peak if warmup == 0 else 0.0,
        peak_value=peak,
        warmup_steps=round(warmup * num_steps),
        decay_steps=num_steps,
        end_value=final * peak,
    )


def _steps(peak, num_steps, *, warmup, drops, factor):
    warmup_steps = round(warmup * num_steps)
    decay = optax.piecewise_constant_schedule(
        peak, {round(drop * num_steps) - warmup_steps: factor for drop in drops}
    )
    if warmup_steps == 0:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps]
    )


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "steps": _steps,
}
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": partial(optax.adamw, mask=_kernels),  # no decay of biases and batch norm
    "sgd": optax.sgd,
}
