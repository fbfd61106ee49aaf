"""The landmark network as an ONNX model, written node by node from its folded variables.

The graph follows `resnet.py` and `landmark_regressor.py`, whose variables say how many blocks of
which kind there are. The interface is the network's own: normalised pictures with the channels
last go in, landmarks in pixels of them come out.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy import ndarray
from onnx import TensorProto, helper, numpy_helper

from flm_jax.errors import InputError
from flm_jax.landmarks import NUM_LANDMARKS
from flm_jax.models.network import FIRST_SCALE, HEAD_SIZE, LEAST_SCALE

INPUT, LANDMARKS, SCALE = "images", "landmarks", "scale"

# Old enough for the runtimes of phones and browsers, new enough for all that is used here.
_OPSET, _IR_VERSION = 17, 8


def landmark_graph(
    variables: Mapping[str, Any],
    image_size: int,
    *,
    half: bool = False,
) -> onnx.ModelProto:
    """The ONNX model of a `LandmarkRegressor` with `folded=True`, checked by onnx.checker.

    Its input is `images` f32[batch, s, s, 3]; its outputs are `landmarks` f32[batch, 98, 2] and,
    where the network predicts it, `scale` f32[batch, 98]. The batch is of any size.

    Args:
        variables: of `fold_batch_norm`, as NumPy arrays.
        image_size: s.
        half: whether the kernels are stored in half precision; the computation is single all the
            same, as few processors have another.

    Raises:
        InputError: the variables are not of a ResNet with a head for 98 points.
    """
    graph = _Graph(half)
    params = variables["params"]
    _check(params)
    x = graph.add("Transpose", INPUT, perm=[0, 3, 1, 2])
    x = _resnet(graph, x, params["backbone"])
    ratio = graph.constant("pixels_of_224", np.float32(image_size / HEAD_SIZE))
    points = graph.dense(x, "head", params["head"])
    shape = graph.constant("landmarks_shape", np.array([0, NUM_LANDMARKS, 2]))  # 0: as it comes
    points = graph.add("Reshape", points, shape)
    graph.add("Mul", points, ratio, output=LANDMARKS)
    outputs = [_value(LANDMARKS, "batch", NUM_LANDMARKS, 2)]
    if "scale" in params:
        scale = graph.dense(x, "scale", params["scale"])
        scale = graph.add("Add", scale, graph.constant("first_scale", np.float32(FIRST_SCALE)))
        scale = graph.add("Softplus", scale)
        scale = graph.add("Add", scale, graph.constant("least_scale", np.float32(LEAST_SCALE)))
        graph.add("Mul", scale, ratio, output=SCALE)
        outputs.append(_value(SCALE, "batch", NUM_LANDMARKS))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "landmark_regressor",
            [_value(INPUT, "batch", image_size, image_size, 3)],
            outputs,
            graph.constants,
        ),
        producer_name="flm_jax",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Writes the model's `metadata_props`."""
    helper.set_model_props(model, dict(metadata))


class _Graph:
    """Nodes and constants, in the order of the computation."""

    def __init__(self, half: bool):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._half = half

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def kernel(self, name: str, values: ndarray) -> str:
        if not self._half:
            return self.constant(name, np.ascontiguousarray(values))
        stored = self.constant(f"{name}_half", values.astype(np.float16))
        return self.add("Cast", stored, output=name, to=TensorProto.FLOAT)

    def conv(self, x: str, name: str, layer: Mapping[str, ndarray], stride: int) -> str:
        """A convolution with (k - 1) / 2 pixels of zeros on every side, as `resnet._conv` pads."""
        kernel = layer["kernel"].transpose(3, 2, 0, 1)  # height, width, in, out -> ONNX's order
        return self.add(
            "Conv",
            x,
            self.kernel(f"{name}/kernel", kernel),
            self.constant(f"{name}/bias", layer["bias"]),
            strides=[stride] * 2,
            pads=[(kernel.shape[2] - 1) // 2] * 4,
        )

    def dense(self, x: str, name: str, layer: Mapping[str, ndarray]) -> str:
        kernel = self.kernel(f"{name}/kernel", layer["kernel"])
        return self.add("Gemm", x, kernel, self.constant(f"{name}/bias", layer["bias"]))


def _resnet(graph: _Graph, x: str, params: Mapping[str, Any]) -> str:
    x = graph.add("Relu", graph.conv(x, "conv1", params["conv1"], 2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    blocks = sorted(
        tuple(map(int, found.groups())) for found in map(_BLOCK.fullmatch, params) if found
    )
    for stage, index in blocks:
        name = f"layer{stage}_{index}"
        stride = 2 if stage > 1 and index == 0 else 1
        x = _block(graph, x, name, params[name], stride)
    return graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)


_BLOCK = re.compile(r"layer(\d+)_(\d+)")


def _block(graph: _Graph, x: str, name: str, params: Mapping[str, Any], stride: int) -> str:
    """A basic block strides in its first convolution, a bottleneck in its second."""
    bottleneck = "conv3" in params
    strides = [1, stride, 1] if bottleneck else [stride, 1]
    y = x
    for i, own in enumerate(strides, start=1):
        y = graph.conv(y, f"{name}/conv{i}", params[f"conv{i}"], own)
        if i < len(strides):
            y = graph.add("Relu", y)
    if "downsample_conv" in params:
        x = graph.conv(x, f"{name}/downsample_conv", params["downsample_conv"], stride)
    return graph.add("Relu", graph.add("Add", y, x))


def _value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _check(params: Mapping[str, Any]) -> None:
    if missing := {"backbone", "head"} - set(params):
        raise InputError(f"the network has no {' and no '.join(sorted(missing))}")
    points = params["head"]["bias"].size / 2
    if points != NUM_LANDMARKS:
        raise InputError(f"the network's head gives {points:g} points, not {NUM_LANDMARKS}")
