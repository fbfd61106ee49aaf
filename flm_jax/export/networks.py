"""Exported networks: written by jax.export, and run from any exported file."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import numpy as np
import onnxruntime
from jaxtyping import Float
from numpy import ndarray

from flm_jax.export.onnx import INPUT

# (variables, images f32[b, s, s, 3]) -> outputs by name, `landmarks` among them.
Apply = Callable[[Any, Any], Mapping[str, Any]]

# Normalised images f32[b, s, s, 3] -> outputs by name.
Network = Callable[[Float[ndarray, "b s s 3"]], Mapping[str, Any]]


def serialise(apply: Apply, variables: Any, image_size: int) -> bytes:
    """The network as jax.export writes it, for CPUs, GPUs and TPUs and a batch of any size."""
    shape = jax.export.symbolic_shape(f"batch, {image_size}, {image_size}, 3")
    exported = jax.export.export(
        jax.jit(lambda images: apply(variables, images)), platforms=("cpu", "cuda", "tpu")
    )(jax.ShapeDtypeStruct(shape, np.float32))
    return bytes(exported.serialize())


def run_serialised(content: bytes) -> Network:
    """The network of `serialise`."""
    return jax.jit(jax.export.deserialize(bytearray(content)).call)


def run_onnx(content: bytes) -> Network:
    """The network of an ONNX file, in onnxruntime on the CPU."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {INPUT: images}), strict=True))
