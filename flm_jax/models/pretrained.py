"""Trained networks as named tensors and back: backbones as PyTorch has them, heads as Flax has.

`weights_io` reads and writes the files that hold them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy import ndarray

from flm_jax.errors import InputError

_HEAD = "head."

# Tensors that a backbone does not use: a head, the classifier and batch norm's step counter.
_UNUSED = re.compile(r"head\..*|fc\.(weight|bias)|.*\.num_batches_tracked")

# Kernels: height, width, in, out here; out, in, height, width there.
_TO_TORCH, _FROM_TORCH = (3, 2, 0, 1), (2, 3, 1, 0)

# The network that comes with the package: `model.pretrained=drawn`.
DRAWN = Path(__file__).parent.parent / "weights/landmarks.safetensors"


def name_tensors(
    variables: Mapping[str, Any], torch_name: Callable[[Sequence[str]], str]
) -> dict[str, ndarray]:
    """What `load_backbone` reads, with kernels in half precision.

    Args:
        variables: the backbone's `params` and `batch_stats`.
        torch_name: the backbone's, from a variable's path to a tensor's name.
    """
    tensors = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(dict(variables))[0]:
        values = np.asarray(leaf, np.float32)
        if values.ndim == 4:
            values = np.ascontiguousarray(values.transpose(_TO_TORCH)).astype(np.float16)
        tensors[torch_name([key.key for key in path])] = values
    return tensors


def load_backbone(
    variables: Mapping[str, Any],
    tensors: Mapping[str, ndarray],
    torch_name: Callable[[Sequence[str]], str],
) -> dict[str, Any]:
    """The backbone's variables with the values of a trained network.

    Args:
        variables: the backbone's `params` and `batch_stats`, arrays or their shapes.
        tensors: of the same network in PyTorch, by name.
        torch_name: the backbone's, from a variable's path to a tensor's name.

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
            values = values.transpose(_FROM_TORCH)
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


def name_head(params: Mapping[str, Any]) -> dict[str, ndarray]:
    """What `load_head` reads, with kernels in half precision.

    Args:
        params: the head's.
    """
    return {
        _HEAD + name: np.asarray(leaf, np.float16 if np.ndim(leaf) > 1 else np.float32)
        for name, leaf in flatten_dict(dict(params), sep=".").items()
    }


def load_head(params: Mapping[str, Any], tensors: Mapping[str, ndarray]) -> dict[str, Any]:
    """Those of a head's parameters that are among the tensors by name and shape.

    Another head, and outputs that the trained one did not have, are left out.

    Args:
        params: the head's, arrays or their shapes.
        tensors: of a network, by name.

    Returns:
        A part of the same tree, of NumPy arrays in float32.

    Raises:
        InputError: a tensor holds numbers that are not finite.
    """
    found = {}
    for name, leaf in flatten_dict(dict(params), sep=".").items():
        values = tensors.get(_HEAD + name)
        if values is None or values.shape != leaf.shape:
            continue
        if not np.isfinite(values).all():
            raise InputError(f"model.pretrained: '{_HEAD}{name}' holds numbers that are not finite")
        found[name] = np.asarray(values, np.float32)
    return unflatten_dict(found, sep=".")
