"""The export folder, whose files are whole at any time."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flm_jax.errors import InputError
from flm_jax.export import page
from flm_jax.runtime.partial_folder import partial_folder


def write(
    folder: Path, files: Mapping[str, bytes], model: bytes, metadata: Mapping[str, Any]
) -> str | None:
    """Writes the files and the browser page beside the folder, then moves each into its place.

    A write that is interrupted, or fails for want of space, leaves the folder as it was.

    Args:
        folder: where to; other files there stay.
        files: their contents by name.
        model: the page's ONNX model.
        metadata: of `metadata.describe`.

    Returns:
        Why the page lacks onnxruntime-web, and what to do; None if it has it.

    Raises:
        InputError: the folder can't be written.
    """
    vendor = Path("browser/vendor")
    problem = None
    try:
        with partial_folder(folder) as partial:
            for name, content in files.items():
                (partial / name).write_bytes(content)
            page.write(partial / "browser", model, metadata)
            if not page.has_runtime(folder / vendor):
                problem = page.fetch_runtime(partial / vendor)
            for path in partial.rglob("*"):
                if path.is_file():
                    target = folder / path.relative_to(partial)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror or error}") from error
    return problem and f"{folder / vendor}: {problem}"
