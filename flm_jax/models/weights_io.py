"""Reads files of named tensors: safetensors, and PyTorch's where torch is installed."""

import importlib
import json
import struct
from pathlib import Path

import numpy as np
from numpy import ndarray

from flm_jax.errors import InputError

# https://github.com/huggingface/safetensors, "Format"; what NumPy has. BF16 it has not.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def read_tensors(path: str | Path) -> dict[str, ndarray]:
    """The tensors of a `.safetensors`, or of a `.pth` or `.pt` that holds a state dict.

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


def _read_safetensors(path: Path) -> dict[str, ndarray]:
    """Eight bytes of the header's length, the header in JSON, then the tensors' bytes."""
    content = path.read_bytes()
    tensors = {}
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        data = memoryview(content)[8 + length :]
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if end > len(data):
                raise ValueError(f"'{name}' ends after the file does")
            values = np.frombuffer(data[begin:end], _DTYPES[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"model.pretrained={path}: not a safetensors file of NumPy's types, or a damaged one "
            f"({error})"
        ) from None
    return tensors


def _read_torch(path: Path) -> dict[str, ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise InputError(
            f"model.pretrained={path}: torch is not installed, and reading it needs it; install "
            "torch, or give a .safetensors file"
        ) from None
    try:
        # Weights only: unpickling anything else would run the file's code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except Exception as error:
        raise InputError(
            f"model.pretrained={path}: not a state dict of tensors, or a damaged one "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
