"""What training changes, as one pytree of arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Key


@flax.struct.dataclass
class TrainState:
    """The state after `step` completed steps, which are updates where none are accumulated.

    Attributes:
        step: i32[].
        params: the network's parameters, float32.
        batch_stats: batch norm's running means and variances, float32; {} without batch norm.
        opt_state: the optimiser's.
        ema: exponential moving averages of `params` and `batch_stats`, or {}.

    The leaves are untyped because JAX also maps the tree over shapes, shardings and numbers.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """What validation and evaluation apply: the averages, where there are any."""
        return self.ema or self.variables


@dataclasses.dataclass
class Progress:
    """What a checkpoint holds of a run besides its state; the step then names the next batch.

    Attributes:
        fingerprint: of the training faces in their order.
        epoch_loss: the sum of the losses of this epoch's steps so far.
        epoch_skipped: how many of those steps were not finite and are not in the sum.
    """

    fingerprint: int
    epoch_loss: float = 0.0
    epoch_skipped: int = 0


def train_state_shapes(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_size: int,
    with_ema: bool = False,
) -> TrainState:
    """The shapes and dtypes of `create_train_state`'s leaves, without computing anything."""
    key = jax.random.key(0)
    return jax.eval_shape(
        lambda: create_train_state(model, optimizer, key, image_size, with_ema=with_ema)
    )


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    image_size: int,
    sharding: jax.sharding.Sharding | None = None,
    *,
    with_ema: bool = False,
    given: Mapping[str, Any] | None = None,
) -> TrainState:
    """The state before the first step, placed as `sharding` says; `key` and `given` decide it.

    Compiled as a whole: operation by operation a ResNet-50 takes ten times as long.

    Args:
        model: images -> landmarks.
        optimizer: of its parameters.
        key: of the random ones.
        image_size: the side of its input.
        sharding: where the leaves go.
        with_ema: whether moving averages are kept.
        given: a part of `params` and `batch_stats`, of the same shapes, to start from instead of
            random values: a pretrained backbone's, a head's bias.
    """

    def create(key, given):
        fresh = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        leaves, given = flatten_dict(fresh), flatten_dict(given)
        if unknown := sorted(set(given) - set(leaves)):
            raise ValueError(f"`given` has leaves that the network has not: {unknown}")
        variables = {"batch_stats": {}, **unflatten_dict({**leaves, **given})}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(variables["params"]),
            # Copies: the train step takes the memory of each leaf once.
            ema=jax.tree.map(jnp.copy, variables) if with_ema else {},
        )

    return jax.jit(create, out_shardings=sharding)(key, dict(given or {}))
