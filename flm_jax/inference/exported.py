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
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX file of --mode export")
    return describe_session(open_session(path.read_bytes(), path), path)


def open_session(content: bytes, place: Any) -> Any:
    """A session of onnxruntime, on a GPU where it has one."""
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
            content, providers=[name for name in providers if name in available]
        )
    except Exception as error:  # onnxruntime's own have no other base class
        raise InputError(f"{place}: not a network that onnxruntime can run: {error}") from None


def describe_session(session: Any, place: Any) -> dict[str, Any]:
    """The keywords of `LandmarkPredictor` for a session of an exported network."""
    try:
        metadata = {
            key: json.loads(value)
            for key, value in session.get_modelmeta().custom_metadata_map.items()
        }
        source, crop = metadata["input"], metadata["crop"]
        settings = {name: crop[name] for name in ("margin", "factor", "square")}
        box = crop["box"]
        pixel_outputs = metadata["pixel_outputs"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{place}: not a network of --mode export: its metadata lack {error}"
        ) from None
    names = [output.name for output in session.get_outputs()]
    return {
        "network": lambda images: dict(
            zip(names, session.run(names, {source["name"]: images}), strict=True)
        ),
        "image_size": source["size"],
        "crop": settings,
        "batch_size": _BATCH_SIZE,
        "box": box,
        "pixel_outputs": pixel_outputs,
        "compiled": False,
    }
