"""Exported networks in onnxruntime, and the one that comes with the package. No JAX."""

import json
from pathlib import Path
from typing import Any

from flm_jax.errors import InputError

# Learned from drawn faces alone (docs/model_card.md).
SHIPPED = Path(__file__).parent.parent / "weights/landmarks.onnx"

_BATCH_SIZE = 32


def load_exported(path: str | Path = SHIPPED) -> dict[str, Any]:
    """The keywords of `LandmarkPredictor` for an ONNX file that --mode export has written.

    Raises:
        InputError: there is no such file, it is another network, or onnxruntime is not installed.
    """
    session = open_session(path)
    metadata = read_metadata(session, path)
    names = [output.name for output in session.get_outputs()]
    source, crop = metadata["input"], metadata["crop"]
    return {
        "network": lambda images: dict(
            zip(names, session.run(names, {source["name"]: images}), strict=True)
        ),
        "image_size": source["size"],
        "crop": {name: crop[name] for name in ("margin", "factor", "square")},
        "batch_size": _BATCH_SIZE,
        "box": crop["box"],
        "pixel_outputs": metadata["pixel_outputs"],
        "compiled": False,
    }


def open_session(path: str | Path) -> Any:
    """A session of onnxruntime, on a GPU where it has one. Raises InputError as `load_exported`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX file of --mode export")
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise InputError(
            "onnxruntime is not installed: pip install 'flm-jax[predict]' (in a checkout: pip "
            "install -e '.[predict]')"
        ) from None
    available = onnxruntime.get_available_providers()
    providers = [f"{name}ExecutionProvider" for name in ("CUDA", "CPU")]
    try:
        return onnxruntime.InferenceSession(
            path, providers=[name for name in providers if name in available]
        )
    except Exception as error:  # onnxruntime's own have no other base class
        raise InputError(f"{path}: not a network that onnxruntime can run: {error}") from None


def read_metadata(session: Any, path: str | Path) -> dict[str, Any]:
    """What --mode export has written into a session's file; InputError if it is of another."""
    try:
        properties = session.get_modelmeta().custom_metadata_map
        metadata = {name: json.loads(value) for name, value in properties.items()}
    except ValueError:
        metadata = {}
    for name in ("input", "crop", "pixel_outputs"):
        if name not in metadata:
            raise InputError(f"{path}: not a network of --mode export: its metadata lack '{name}'")
    return metadata
