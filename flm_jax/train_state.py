"""What training changes, as one pytree of arrays."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key


@flax.struct.dataclass
class TrainState:
    """The state after `step` completed updates.

    Attributes:
        step: i32[].
        params: the network's parameters, float32.
        batch_stats: batch norm's running means and variances, float32.
        opt_state: the optimiser's.

    The leaves are untyped because JAX also maps the tree over shapes, shardings and numbers.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def train_state_shapes(
    model: nn.Module, optimizer: optax.GradientTransformation, image_size: int
) -> TrainState:
    """The shapes and dtypes of `create_train_state`'s leaves, without computing anything."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda: create_train_state(model, optimizer, key, image_size))


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    image_size: int,
    sharding: jax.sharding.Sharding | None = None,
) -> TrainState:
    """The state before the first step, placed as `sharding` says; only `key` decides it.

    Compiled as a whole: operation by operation a ResNet-50 takes ten times as long.
    """

    def create(key):
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(variables["params"]),
        )

    return jax.jit(create, out_shardings=sharding)(key)
