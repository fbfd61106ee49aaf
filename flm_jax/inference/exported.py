"""Exported networks in onnxruntime, and the one that comes with the package. No JAX."""

import contextlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from flm_jax.data.crop import BOXES, crop_map
from flm_jax.errors import InputError
from flm_jax.landmarks import NUM_LANDMARKS

# Learned from drawn faces alone (docs/model_card.md).
SHIPPED = Path(__file__).parent.parent / "weights/landmarks.onnx"

_BATCH_SIZE = 32
_CROP = ("margin", "factor", "square")  # keywords of `crop.crop_box`


def load_exported(path: str | Path = SHIPPED) -> dict[str, Any]:
    """The keywords of `LandmarkPredictor` for an ONNX file that --mode export has written.

    Raises:
        InputError: there is no such file, it is another network, or onnxruntime is not installed.
    """
    session = open_session(path)
    metadata = read_metadata(session, path)
    source, crop = metadata["input"], metadata["crop"]
    return {
        "network": partial(_run, session, source["name"]),
        "image_size": source["size"],
        "crop": {name: crop[name] for name in _CROP},
        "batch_size": _BATCH_SIZE,
        "box": crop["box"],
        "pixel_outputs": metadata["pixel_outputs"],
        "compiled": False,
    }


def open_session(path: str | Path) -> Any:
    """A session of onnxruntime, on a GPU where it has one. Raises InputError as `load_exported`."""
    if not os.path.isfile(path):
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
            Path(path).read_bytes(),  # It takes no name that is not UTF-8.
            providers=[name for name in providers if name in available],
        )
    except Exception as error:  # onnxruntime's own have no other base class
        raise InputError(f"{path}: not a network that onnxruntime can run: {error}") from None


def read_metadata(session: Any, path: str | Path) -> dict[str, Any]:
    """What --mode export has written into a session's file; InputError if it is of another, or
    does not describe the network."""
    metadata = {}
    for name, value in session.get_modelmeta().custom_metadata_map.items():
        with contextlib.suppress(ValueError):  # Another program's.
            metadata[name] = json.loads(value)
    for name in ("input", "crop", "pixel_outputs"):
        if name not in metadata:
            raise InputError(f"{path}: not a network of --mode export: its metadata lack '{name}'")
    try:
        source, crop, lengths = metadata["input"], metadata["crop"], metadata["pixel_outputs"]
        size = source["size"]
        if not (abs(crop["margin"]) <= 10_000 and 0 < crop["factor"] <= 100):
            raise ValueError(f"factor={crop['factor']}, margin={crop['margin']}")
        crop_map(np.arange(4.0), size, **{name: crop[name] for name in _CROP})
        found = _run(session, source["name"], np.zeros((1, size, size, 3), np.float32))
        shapes = {name: found[name].shape for name in ("landmarks", *lengths)}
        BOXES[crop["box"]]
    except Exception as error:  # onnxruntime's own have no other base class
        raise InputError(
            f"{path}: its metadata do not describe its network: {type(error).__name__} {error}"
        ) from None
    if shapes != {"landmarks": (1, NUM_LANDMARKS, 2), **dict.fromkeys(lengths, (1, NUM_LANDMARKS))}:
        raise InputError(f"{path}: its outputs {shapes} are not of {NUM_LANDMARKS} points")
    return metadata


def _run(session: Any, name: str, images: ndarray) -> dict[str, ndarray]:
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {name: images}), strict=True))
