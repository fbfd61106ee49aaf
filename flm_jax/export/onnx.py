"""The ONNX model of any network, converted from its jaxpr.

The converter knows operations and no network. A new backbone or head is exported as it is, as long
as it is made of the operations in `operations.RULES`; any other is an error that names it.

Flax has channels last, ONNX's convolutions want them first. Each tensor therefore carries the order
of its axes: a convolution leaves channels first, elementwise operations keep the order they find,
and a Transpose is written only where an operation needs another one. A ResNet gets one, at its
input, and onnxruntime optimises it to the same graph as one written by hand.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
import onnx
from jax.extend import core
from numpy import ndarray
from onnx import TensorProto, helper, numpy_helper

from flm_jax.export.operations import RULES, Tensor, Value, unsupported

INPUT = "images"

# Old enough for the runtimes of phones and browsers, new enough for all that is used here.
_OPSET, _IR_VERSION = 17, 8

# Operations that hold others.
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}


def convert(
    apply: Callable[[Any, Any], Mapping[str, Any]], variables: Any, image_size: int
) -> onnx.ModelProto:
    """The ONNX model of `apply`, for a batch of any size, checked by onnx.checker.

    Args:
        apply: (variables, images f32[batch, s, s, 3]) -> arrays by name, which are the model's
            outputs. Its input is called `images`.
        variables: a tree of arrays.
        image_size: s.

    Raises:
        InputError: `apply` uses an operation without a rule.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, 3), np.float32)
    closed, shapes = jax.make_jaxpr(apply, return_shape=True)(variables, images)
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }
    graph = _Graph(arrays)
    found = graph.inline(closed, [*arrays.values(), Tensor(INPUT, (0, 1, 2, 3))])
    names = sorted(shapes)  # as JAX flattens a dict
    for name, value in zip(names, found, strict=True):
        source = graph.name(value, range(len(shapes[name].shape)))
        graph.nodes.append(helper.make_node("Identity", [source], [name], name))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [_value_info(INPUT, images)],
            [_value_info(name, shapes[name]) for name in names],
            graph.constants,
        ),
        producer_name="flm_jax",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def with_half_kernels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the kernels of convolutions and matrix products stored in half precision. It
    computes in single precision all the same, as few processors have another."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    kernels = {node.input[1] for node in half.graph.node if node.op_type in ("Conv", "MatMul")}
    casts = []
    for tensor in half.graph.initializer:
        if (name := tensor.name) in kernels:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    onnx.checker.check_model(half, full_check=True)
    return half


def to_bytes(model: onnx.ModelProto, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The model's file, with the metadata as JSON in its `metadata_props`."""
    helper.set_model_props(
        model, {key: json.dumps(value) for key, value in (metadata or {}).items()}
    )
    return model.SerializeToString()


def _value_info(name: str, array: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
    shape = [dim if isinstance(dim, int) else str(dim) for dim in array.shape]
    return helper.make_tensor_value_info(name, kind, shape)


class _Graph:
    """Nodes in the order of the computation, and constants.

    Args:
        arrays: the network's variables by name.
    """

    def __init__(self, arrays: Mapping[str, ndarray]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = {id(array): name for name, array in arrays.items()}

    def inline(self, closed: core.ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Converts the operations one by one and returns the outputs."""
        jaxpr = closed.jaxpr
        consts = map(np.asarray, closed.consts)
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(atom):
            return np.asarray(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            known.update(zip(eqn.outvars, self._convert(eqn, values), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _convert(self, eqn, values):
        kind = eqn.primitive.name
        if kind in _CALLS:
            return self.inline(eqn.params.get("jaxpr") or eqn.params["call_jaxpr"], values)
        if kind in ("stop_gradient", "optimization_barrier"):
            return values
        if platforms := eqn.params.get("branches_platforms"):  # jax.lax.platform_dependent
            return self.inline(eqn.params["branches"][platforms.index(None)], values[1:])
        static = all(isinstance(dim, int) for var in eqn.outvars for dim in var.aval.shape)
        if static and not any(isinstance(value, Tensor) for value in values):
            return [np.asarray(eqn.primitive.bind(*values, **eqn.params))]
        if kind not in RULES:
            raise unsupported(eqn)
        return [RULES[kind](self, eqn, *values)]

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, values: Any, name: str = "") -> str:
        """Adds a constant and returns its name."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def name(self, value: Value, order: Sequence[int]) -> str:
        """The name of the value with its axes in that order; scalars have no axes."""
        if isinstance(value, Tensor):
            if value.order in (tuple(order), ()):
                return value.name
            return self.add("Transpose", value.name, perm=[value.order.index(i) for i in order])
        values = value.transpose(order) if value.ndim else value
        return self.constant(values, self._names.pop(id(value), ""))
