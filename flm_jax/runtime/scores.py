"""Validation losses of checkpoints, each in a small file with a checksum beside the arrays.

Not Orbax's own metrics: with those, one damaged file would keep the whole folder from opening.
"""

import json
import math
from pathlib import Path
from typing import Any

from flm_jax.runtime import work_folder
from flm_jax.runtime.checksums import checksum

NAME = "validation_loss"
FILE = "score.json"


def score(validation_loss: float) -> dict[str, Any]:
    """The content of the file; NaN, which would compare as the best, becomes infinity."""
    loss = validation_loss if math.isfinite(validation_loss) else math.inf
    return {NAME: loss, "crc32": checksum(loss)}


def read(checkpoint: Path) -> float:
    """The validation loss of a checkpoint; infinite if it is missing or damaged."""
    try:
        content = json.loads((checkpoint / NAME / FILE).read_bytes())
        return content[NAME] if content["crc32"] == checksum(content[NAME]) else math.inf
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def write(checkpoint: Path, validation_loss: float) -> None:
    """Replaces the validation loss of a checkpoint."""
    content = json.dumps(score(validation_loss))
    work_folder.write_atomically(checkpoint / NAME / FILE, lambda path: path.write_text(content))
