"""The ONNX model of any network, converted from its jaxpr.

The converter knows operations and no network. A new backbone or head is exported as it is, as long
as JAX traces it to operations that have a rule in `_RULES`; any other is an error that names it.

JAX's networks here have their channels last and ONNX's convolutions want them first. A tensor
therefore carries its order of axes along: a convolution leaves its output with the channels first,
elementwise operations follow their inputs, and a transpose is written only where an operation needs
another order than it finds. A ResNet gets one in all, at its input.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
import onnx
from jax.extend import core
from numpy import ndarray
from onnx import TensorProto, helper, numpy_helper

from flm_jax.errors import InputError

INPUT = "images"

# Old enough for the runtimes of phones and browsers, new enough for all that is used here.
_OPSET, _IR_VERSION = 17, 8


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
        InputError: `apply` uses an operation without a rule here.
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
    arguments = [*arrays.values(), _Tensor(INPUT, (0, 1, 2, 3))]
    for name, value in zip(sorted(shapes), graph.inline(closed, arguments), strict=True):
        order = tuple(range(len(shapes[name].shape)))
        graph.nodes.append(helper.make_node("Identity", [graph.name(value, order)], [name], name))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [_value_info(INPUT, images)],
            [_value_info(name, shapes[name]) for name in sorted(shapes)],
            graph.constants,
        ),
        producer_name="flm_jax",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def with_half_kernels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the kernels of convolutions and matrix products stored in half precision.

    It still computes in single precision, as few processors have another.
    """
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


def _value_info(name: str, array: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
    shape = [dim if isinstance(dim, int) else str(dim) for dim in array.shape]
    return helper.make_tensor_value_info(name, kind, shape)


class _Tensor(NamedTuple):
    """What the model computes. Its axis i is axis order[i] of the array in JAX."""

    name: str
    order: tuple[int, ...]


# A NumPy array is known at conversion, in JAX's order.
_Value = _Tensor | ndarray


class _Graph:
    """Nodes and constants, in the order of the computation."""

    def __init__(self, arrays: Mapping[str, ndarray]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = {id(array): name for name, array in arrays.items()}

    def inline(self, closed: core.ClosedJaxpr, arguments: Sequence[_Value]) -> list[_Value]:
        """Converts each operation; returns the outputs."""
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
        if kind == "optimization_barrier":
            return values
        static = all(isinstance(dim, int) for var in eqn.outvars for dim in var.aval.shape)
        if static and not any(isinstance(value, _Tensor) for value in values):
            return [np.asarray(eqn.primitive.bind(*values, **eqn.params))]
        if kind not in _RULES:
            raise _unsupported(eqn)
        return [_RULES[kind](self, eqn, *values)]

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, values: Any, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def name(self, value: _Value, order: Sequence[int]) -> str:
        """The name of the value with its axes in that order; a scalar has none."""
        if isinstance(value, _Tensor):
            if value.order in (tuple(order), ()):
                return value.name
            return self.add("Transpose", value.name, perm=[value.order.index(i) for i in order])
        if value.ndim == 0:
            return self.constant(value.reshape(()))
        return self.constant(value.transpose(order), self._names.pop(id(value), ""))

    def shape(self, dims: Sequence[Any]) -> str:
        """The name of a shape for Reshape, which works out what depends on the batch."""
        return self.constant(np.array([dim if isinstance(dim, int) else -1 for dim in dims]))


def _unsupported(eqn) -> InputError:
    return InputError(
        f"the network can't be converted to ONNX: there is no rule for {eqn.primitive.name} in "
        f"flm_jax/export/onnx.py that covers {str(eqn.params)[:300]}; add one, or write the head or "
        "backbone without it"
    )


# ------------------------------------------------------------------------------ the rules
# (graph, equation, its inputs) -> its output


def _elementwise(*kinds: str, extra: tuple[float, ...] = ()) -> Callable[..., _Tensor]:
    """Nodes one after the other: the first takes all the inputs, and `extra` constants."""

    def rule(graph, eqn, *values):
        order = max((value.order for value in values if isinstance(value, _Tensor)), key=len)
        dtype = eqn.invars[0].aval.dtype
        values = [*values, *(np.asarray(number, dtype) for number in extra)]
        name = graph.add(kinds[0], *(graph.name(value, order) for value in values))
        for kind in kinds[1:]:
            name = graph.add(kind, name)
        return _Tensor(name, order)

    return rule


def _max(graph, eqn, *values):
    """A ReLU by its own name, which runtimes fuse into the convolution before it."""
    for value, other in (values, values[::-1]):
        if isinstance(value, ndarray) and value.ndim == 0 and value == 0:
            return _elementwise("Relu")(graph, eqn, other)
    return _elementwise("Max")(graph, eqn, *values)


def _select(graph, eqn, which, *cases):
    if len(cases) != 2:
        raise _unsupported(eqn)
    return _elementwise("Where")(graph, eqn, which, *reversed(cases))


def _integer_pow(graph, eqn, x):
    return _elementwise("Pow", extra=(eqn.params["y"],))(graph, eqn, x)


def _cast(graph, eqn, x):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return _Tensor(graph.add("Cast", x.name, to=kind), x.order)


def _convolution(graph, eqn, x, kernel):
    params = eqn.params
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise _unsupported(eqn)
    lhs, rhs, out = params["dimension_numbers"]
    output = graph.add(
        "Conv",
        graph.name(x, lhs),
        graph.name(kernel, rhs),
        strides=params["window_strides"],
        pads=np.transpose(params["padding"]).ravel().tolist(),
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return _Tensor(output, tuple(out))


def _max_pool(graph, eqn, x):
    params = eqn.params
    window, padding = params["window_dimensions"], params["padding"]
    order = sorted(range(len(window)), key=lambda axis: window[axis] > 1)  # the pooled ones last
    pooled = order[2:]
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if dilated or any(window[axis] > 1 or any(padding[axis]) for axis in order[:2]):
        raise _unsupported(eqn)
    output = graph.add(
        "MaxPool",
        graph.name(x, order),
        kernel_shape=[window[axis] for axis in pooled],
        strides=[params["window_strides"][axis] for axis in pooled],
        pads=[padding[axis][end] for end in (0, 1) for axis in pooled],
    )
    return _Tensor(output, tuple(order))


def _dot(graph, eqn, x, kernel):
    """A sum over one axis of each, as a dense layer has it."""
    ((x_axes, kernel_axes), batch_axes) = eqn.params["dimension_numbers"]
    kernel_rank = len(eqn.invars[1].aval.shape)
    if len(x_axes) != 1 or any(batch_axes) or kernel_rank > 2:
        raise _unsupported(eqn)
    free = [axis for axis in range(len(eqn.invars[0].aval.shape)) if axis not in x_axes]
    columns = [axis for axis in range(kernel_rank) if axis not in kernel_axes]
    inputs = graph.name(x, [*free, *x_axes]), graph.name(kernel, [*kernel_axes, *columns])
    return _in_order(eqn, graph.add("MatMul", *inputs))


def _reduce_sum(graph, eqn, x):
    axes, order = _reduced(eqn, x)
    return _Tensor(graph.add("ReduceSum", x.name, graph.constant(axes), keepdims=0), order)


def _reduce_max(graph, eqn, x):
    axes, order = _reduced(eqn, x)
    return _Tensor(graph.add("ReduceMax", x.name, axes=axes, keepdims=0), order)


def _reduced(eqn, x):
    """The tensor's axes that go, and the order of those that stay."""
    axes = [x.order.index(axis) for axis in eqn.params["axes"]]
    left = [axis for axis in x.order if axis not in eqn.params["axes"]]
    return axes, tuple(sorted(left).index(axis) for axis in left)


def _reshape(graph, eqn, x):
    shape = graph.shape(eqn.outvars[0].aval.shape)
    return _in_order(eqn, graph.add("Reshape", _straight(graph, x), shape))


def _broadcast(graph, eqn, x):
    shape = eqn.params["shape"]
    aligned: list[Any] = [1] * len(shape)
    for axis, dim in zip(eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape, strict=True):
        aligned[axis] = dim
    name = graph.add("Reshape", _straight(graph, x), graph.shape(aligned))
    if aligned != list(shape):
        batch = graph.add("Shape", INPUT, start=0, end=1)
        dims = [graph.constant([dim]) if isinstance(dim, int) else batch for dim in shape]
        name = graph.add("Expand", name, graph.add("Concat", *dims, axis=0))
    return _in_order(eqn, name)


def _transpose(graph, eqn, x):
    permutation = eqn.params["permutation"]
    return _Tensor(x.name, tuple(permutation.index(axis) for axis in x.order))


def _concatenate(graph, eqn, *values):
    order = next(value.order for value in values if isinstance(value, _Tensor))
    names = [graph.name(value, order) for value in values]
    return _Tensor(graph.add("Concat", *names, axis=order.index(eqn.params["dimension"])), order)


def _slice(graph, eqn, x):
    params = eqn.params
    starts, ends = params["start_indices"], params["limit_indices"]
    return _cut(graph, eqn, x, starts, ends, params["strides"] or [1] * len(starts))


def _gather(graph, eqn, x, indices):
    """Slicing, as JAX writes it for a batch of any size: x[..., :2] and x[..., 0]."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(indices, ndarray) or indices.ndim != 1 or numbers.operand_batching_dims:
        raise _unsupported(eqn)
    starts = [0] * len(sizes)
    for axis, start in zip(numbers.start_index_map, indices.tolist(), strict=True):
        starts[axis] = start
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    return _reshape(graph, eqn, _cut(graph, eqn, x, starts, ends, [1] * len(sizes)))


def _cut(graph, eqn, x, starts, ends, steps):
    whole = [(0, dim, 1) for dim in eqn.invars[0].aval.shape]
    cuts = zip(starts, ends, steps, strict=True)
    parts = {axis: cut for axis, cut in enumerate(cuts) if cut != whole[axis]}
    if not parts:
        return x
    first, last, every = (list(numbers) for numbers in zip(*parts.values(), strict=True))
    settings = first, last, [x.order.index(axis) for axis in parts], every
    return _Tensor(graph.add("Slice", x.name, *map(graph.constant, settings)), x.order)


def _pad(graph, eqn, x, filling):
    config = eqn.params["padding_config"]
    if any(interior for _, _, interior in config):
        raise _unsupported(eqn)
    pads = [config[axis][end] for end in (0, 1) for axis in x.order]
    return _Tensor(graph.add("Pad", x.name, graph.constant(pads), graph.name(filling, ())), x.order)


def _straight(graph, x):
    return graph.name(x, range(len(x.order) if isinstance(x, _Tensor) else x.ndim))


def _in_order(eqn, name):
    return _Tensor(name, tuple(range(len(eqn.outvars[0].aval.shape))))


_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}

_RULES: dict[str, Callable[..., _Tensor]] = {
    "abs": _elementwise("Abs"),
    "add": _elementwise("Add"),
    "div": _elementwise("Div"),
    "eq": _elementwise("Equal"),
    "exp": _elementwise("Exp"),
    "ge": _elementwise("GreaterOrEqual"),
    "gt": _elementwise("Greater"),
    "integer_pow": _integer_pow,
    "le": _elementwise("LessOrEqual"),
    "log": _elementwise("Log"),
    "log1p": _elementwise("Add", "Log", extra=(1,)),
    "logistic": _elementwise("Sigmoid"),
    "lt": _elementwise("Less"),
    "max": _max,
    "min": _elementwise("Min"),
    "mul": _elementwise("Mul"),
    "ne": _elementwise("Equal", "Not"),
    "neg": _elementwise("Neg"),
    "rsqrt": _elementwise("Sqrt", "Reciprocal"),
    "select_n": _select,
    "sqrt": _elementwise("Sqrt"),
    "sub": _elementwise("Sub"),
    "tanh": _elementwise("Tanh"),
    "convert_element_type": _cast,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
    "dot_general": _dot,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
}
