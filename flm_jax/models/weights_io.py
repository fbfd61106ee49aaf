"""Files of named tensors: safetensors, and PyTorch's where torch is installed."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # Gives NumPy the bfloat16 that safetensors looks for.
import numpy as np
import safetensors.numpy
from numpy import ndarray

from flm_jax.errors import InputError


def read_tensors(path: str | Path) -> dict[str, ndarray]:
    """The tensors of a `.safetensors` file, or of a `.pth` or `.pt` file with a state dict.

    bfloat16 becomes float32.

    Raises:
        InputError: the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model.pretrained={path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt"):
        return _read_torch(path)
    raise InputError(f"model.pretrained={path}: expected a .safetensors, .pth or .pt file")


def to_safetensors(tensors: Mapping[str, ndarray]) -> bytes:
    """The content of a `.safetensors` file."""
    return bytes(safetensors.numpy.save(dict(tensors)))


def _read_safetensors(path: Path) -> dict[str, ndarray]:
    try:
        tensors = safetensors.numpy.load_file(path)
    except Exception as error:  # A type that NumPy lacks raises one of several.
        raise InputError(
            f"model.pretrained={path}: not a safetensors file of types that NumPy has, or a "
            f"damaged one ({error})"
        ) from None
    return {
        name: values.astype(np.float32) if values.dtype == ml_dtypes.bfloat16 else values
        for name, values in tensors.items()
    }


def _read_torch(path: Path) -> dict[str, ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise InputError(
            f"model.pretrained={path}: reading it needs torch, which is not installed; install "
            "torch, or give a .safetensors file"
        ) from None
    try:
        # weights_only: unpickling anything else could run code of the file's author.
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model.pretrained={path}: not a state dict of tensors, or a damaged one ({reason})"
        ) from None
