"""A trained ResNet's weights, as torchvision and timm name and lay them out, in Flax's variables.

Both libraries store the same names for the plain ResNets: `layer1.0.conv2.weight` and so on. Their
tensors come as NumPy arrays; `flm_jax.models.weights_io` reads them.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpy import ndarray

from flm_jax.errors import InputError

# Nothing of the network: the classifier, and batch norm's count of steps.
_UNUSED = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def load_backbone(variables: Mapping[str, Any], tensors: Mapping[str, ndarray]) -> dict[str, Any]:
    """The backbone's variables with the values of a trained network.

    Args:
        variables: `params` and `batch_stats` of `ResNet`, arrays or their shapes.
        tensors: of a torchvision or timm ResNet of the same size, by name.

    Returns:
        The same tree, of NumPy arrays in float32.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or holds no finite numbers.
    """
    used = set()

    def load(path, leaf):
        name = torch_name([key.key for key in path])
        used.add(name)
        if name not in tensors:
            raise InputError(f"model.pretrained: the file lacks '{name}'")
        values = np.asarray(tensors[name], np.float32)
        if values.ndim == 4:
            values = values.transpose(2, 3, 1, 0)  # out, in, height, width -> Flax's order
        if values.shape != leaf.shape:
            raise InputError(
                f"model.pretrained: '{name}' has the shape {tensors[name].shape}, which gives "
                f"{values.shape} here; model.backbone expects {leaf.shape}"
            )
        if not np.isfinite(values).all():
            raise InputError(f"model.pretrained: '{name}' holds numbers that are not finite")
        return values

    loaded = jax.tree_util.tree_map_with_path(load, dict(variables))
    if left := sorted(name for name in set(tensors) - used if not _UNUSED.fullmatch(name)):
        raise InputError(
            f"model.pretrained: model.backbone has no place for {len(left)} tensors of the file: "
            f"{', '.join(left[:8])}"
        )
    return loaded


def torch_name(path: list[str]) -> str:
    """The tensor's name: params layer1_0 downsample_bn scale -> layer1.0.downsample.1.weight."""
    *modules, leaf = path[1:]
    renamed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    names = [renamed.get(name, name.replace("_", ".")) for name in modules]
    return ".".join([*names, _LEAVES[leaf]])
