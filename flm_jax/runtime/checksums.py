"""What arrays and descriptions are recognised by: shape, dtype and a checksum."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their names, `params/backbone/...`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def shape(leaf: Any) -> list:
    """Dtype and shape of an array, or of what has the shape of one, as JSON has them."""
    return [str(leaf.dtype), list(leaf.shape)]


def describe(leaf: Any) -> list:
    """`shape` and the checksum of its values."""
    return [*shape(leaf), zlib.crc32(np.asarray(leaf).tobytes())]


def checksum(content: Any) -> int:
    """The checksum of what JSON can hold, whatever the order of its keys."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def differences(found: Mapping[str, Sequence], expected: Mapping[str, Sequence]) -> str:
    """The arrays whose `shape` differs, or that only one side has; '' if there are none.

    Lines `name: found -> expected`, at most ten, and one with how many more there are.

    Args:
        found: `shape` of each, or `describe`, by the names of `leaves`.
        expected: `shape` of each.
    """
    shapes = {name: entry[:2] for name, entry in found.items()}
    names = [*expected, *(name for name in shapes if name not in expected)]
    rows = [
        f"  {name}: {shapes.get(name, '(none)')} -> {expected.get(name, '(none)')}"
        for name in names
        if shapes.get(name) != expected.get(name)
    ]
    more = [f"  and {len(rows) - 10} more"] if len(rows) > 10 else []
    return "\n".join(rows[:10] + more)
