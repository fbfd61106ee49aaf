"""Descriptions of arrays by dtype, shape and checksum."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, `params/backbone/...`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def shape(leaf: Any) -> list:
    """[dtype, shape] of an array or a ShapeDtypeStruct, as JSON."""
    return [str(leaf.dtype), list(leaf.shape)]


def describe(leaf: Any) -> list:
    """[dtype, shape, CRC-32 of the values] of an array, as JSON."""
    return [*shape(leaf), zlib.crc32(np.asarray(leaf).tobytes())]


def checksum(content: Any) -> int:
    """The CRC-32 of a JSON value, whatever the order of its keys."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def differences(found: Mapping[str, Sequence], expected: Mapping[str, Sequence]) -> str:
    """Lines `name: found -> expected` for the arrays that differ in dtype or shape.

    At most ten, and one with the number of the others; '' if there are none.

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
