"""Whether the processes of a run are of the same mind before they compute together."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flm_jax.errors import InputError

_PACKAGE = Path(__file__).parent.parent


def check_alike(facts: Mapping[str, Any]) -> None:
    """Compares what is to be the same in every process; all of them call it.

    Args:
        facts: JSON values by their names; the versions of the code and of JAX are added.

    Raises:
        InputError: a process has other facts than the first; names them. On every process.
    """
    if jax.process_count() > 1:
        versions = {"the code's checksum": _code_checksum(), "JAX's version": jax.__version__}
        everyone = [json.loads(text) for text in _gather(json.dumps({**facts, **versions}))]
        if rows := _differences(everyone):
            raise InputError(
                "the processes of this run are not alike (process 0 -> another):\n"
                + "\n".join(rows)
                + "\nstart all of them with the same command, code and data"
            )


def _differences(everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    first = everyone[0]
    return [
        f"  {name}: {first.get(name, '(none)')} -> {other.get(name, '(none)')} in process {number}"
        for number, other in enumerate(everyone)
        for name in {**first, **other}
        if first.get(name) != other.get(name)
    ]


def _gather(text: str) -> list[str]:
    """The texts of all processes, in order."""
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def _code_checksum() -> int:
    total = 0
    for path in sorted(_PACKAGE.rglob("*.py")):
        total = zlib.crc32(path.read_bytes(), total)
    return total
