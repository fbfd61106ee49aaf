"""Where arrays live: the state whole on every device, a batch split over them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flm_jax.errors import InputError

AXIS = "batch"  # The mapped axis of training and evaluation steps.


def replicated(devices: Sequence[jax.Device] | None = None) -> NamedSharding:
    """The sharding of a state: whole on every device, of all or of those given.

    A state placed otherwise is moved, and costs the train step a second compilation.
    """
    return NamedSharding(Mesh(np.array(devices or jax.devices()), (AXIS,)), PartitionSpec())


def split_over_devices(batch: dict[str, Any], num_devices: int) -> dict[str, Any]:
    """This process's batch `[b, ...]` as `[d, b/d, ...]`, without a copy."""
    return {
        name: values.reshape(num_devices, -1, *values.shape[1:]) for name, values in batch.items()
    }


def put_on_devices(
    batch: dict[str, Any], devices: Sequence[jax.Device] | None = None
) -> dict[str, jax.Array]:
    """This process's batch `[b, ...]` on its devices, or on those given, as `[d, b/d, ...]`.

    Returns at once; the copy goes on in the background.
    """
    devices = devices or jax.local_devices()
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.device_put(split_over_devices(batch, len(devices)), sharding)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raises InputError unless the devices divide the batch."""
    if batch_size % num_devices or batch_size < 1:
        nearest = max(1, round(batch_size / num_devices)) * num_devices
        raise InputError(
            f"batch_size={batch_size} does not divide over {num_devices} devices; "
            f"--config.batch_size={nearest} does"
        )


def gathered(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a mapped step gives, `[d, b/d, ...]` of all devices, as `[b, ...]` on the host."""
    return {
        name: np.asarray(values).reshape(-1, *values.shape[2:]) for name, values in outputs.items()
    }
