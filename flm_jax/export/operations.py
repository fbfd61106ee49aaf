"""How each of JAX's operations is written in ONNX.

A rule is a function (graph, equation of the jaxpr, its inputs) -> its output, which adds nodes to
the graph. A new operation is a rule here, an entry in `RULES`, and a line in its test.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from onnx import helper

from flm_jax.errors import InputError


class Tensor(NamedTuple):
    """What the model computes; its axis i is axis order[i] of JAX's array."""

    name: str
    order: tuple[int, ...]


# An array is known when the network is converted, and has JAX's order.
Value = Tensor | ndarray


def unsupported(eqn: Any) -> InputError:
    """The error that names an operation which no rule covers."""
    return InputError(
        f"the network can't be written as ONNX: no rule in flm_jax/export/operations.py covers "
        f"{eqn.primitive.name} with {str(eqn.params)[:300]}; add one, or do without this operation"
    )


def _elementwise(*kinds: str, constant: float | None = None) -> Callable[..., Tensor]:
    """The rule for nodes in a row, whose first takes all the inputs, and the constant."""

    def rule(graph, eqn, *values):
        order = max((value.order for value in values if isinstance(value, Tensor)), key=len)
        names = [graph.name(value, order) for value in values]
        if constant is not None:
            names.append(graph.constant(np.asarray(constant, eqn.invars[0].aval.dtype)))
        name = graph.add(kinds[0], *names)
        for kind in kinds[1:]:
            name = graph.add(kind, name)
        return Tensor(name, order)

    return rule


def _max(graph, eqn, *values):
    """A ReLU by its name, which runtimes fuse with the convolution before it."""
    for value, other in (values, values[::-1]):
        if isinstance(value, ndarray) and value.ndim == 0 and value == 0:
            return _elementwise("Relu")(graph, eqn, other)
    return _elementwise("Max")(graph, eqn, *values)


def _select(graph, eqn, which, *cases):
    if len(cases) != 2:
        raise unsupported(eqn)
    return _elementwise("Where")(graph, eqn, which, *reversed(cases))


def _integer_pow(graph, eqn, x):
    return _elementwise("Pow", constant=eqn.params["y"])(graph, eqn, x)


def _cast(graph, eqn, x):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return Tensor(graph.add("Cast", x.name, to=kind), x.order)


def _convolution(graph, eqn, x, kernel):
    params = eqn.params
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise unsupported(eqn)
    lhs, rhs, out = params["dimension_numbers"]  # as ONNX has them: batch, channels, space
    output = graph.add(
        "Conv",
        graph.name(x, lhs),
        graph.name(kernel, rhs),
        strides=params["window_strides"],
        pads=np.transpose(params["padding"]).ravel().tolist(),
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return Tensor(output, tuple(out))


def _max_pool(graph, eqn, x):
    params = eqn.params
    window, padding = params["window_dimensions"], params["padding"]
    axes = sorted(range(len(window)), key=lambda axis: window[axis] > 1)  # the pooled ones last
    pooled = axes[2:]
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if dilated or any(window[axis] > 1 or any(padding[axis]) for axis in axes[:2]):
        raise unsupported(eqn)
    output = graph.add(
        "MaxPool",
        graph.name(x, axes),
        kernel_shape=[window[axis] for axis in pooled],
        strides=[params["window_strides"][axis] for axis in pooled],
        pads=[padding[axis][end] for end in (0, 1) for axis in pooled],
    )
    return Tensor(output, tuple(axes))


def _dot(graph, eqn, x, y):
    """A sum over one axis of each, as in a dense layer; one of them is a vector or a matrix."""
    (x_axes, y_axes), batch_axes = eqn.params["dimension_numbers"]
    x_rank, y_rank = (len(var.aval.shape) for var in eqn.invars)
    if len(x_axes) != 1 or any(batch_axes) or min(x_rank, y_rank) > 2:
        raise unsupported(eqn)
    x_order = [*(axis for axis in range(x_rank) if axis not in x_axes), *x_axes]
    y_order = [*(axis for axis in range(y_rank) if axis not in y_axes), *y_axes]
    order = tuple(range(x_rank + y_rank - 2))
    if y_rank > 2:  # MatMul wants the matrix last.
        x, x_order, y, y_order = y, y_order, x, x_order
        order = (*order[x_rank - 1 :], *order[: x_rank - 1])
    return Tensor(graph.add("MatMul", graph.name(x, x_order), graph.name(y, y_order[::-1])), order)


def _reduce(kind: str, *, axes_are_input: bool) -> Callable[..., Tensor]:
    def rule(graph, eqn, x):
        axes = [x.order.index(axis) for axis in eqn.params["axes"]]
        if axes_are_input:
            name = graph.add(kind, x.name, graph.constant(axes), keepdims=0)
        else:
            name = graph.add(kind, x.name, axes=axes, keepdims=0)
        left = [axis for axis in x.order if axis not in eqn.params["axes"]]
        return Tensor(name, tuple(sorted(left).index(axis) for axis in left))

    return rule


def _reshape(graph, eqn, x):
    return _in_order(eqn, _reshaped(graph, x, eqn.outvars[0].aval.shape))


def _broadcast(graph, eqn, x):
    shape = eqn.params["shape"]
    aligned: list[Any] = [1] * len(shape)
    for axis, dim in zip(eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape, strict=True):
        aligned[axis] = dim
    name = _reshaped(graph, x, aligned)
    if aligned != list(shape):
        batch = graph.add("Shape", "images", start=0, end=1)
        dims = [graph.constant([dim]) if isinstance(dim, int) else batch for dim in shape]
        name = graph.add("Expand", name, graph.add("Concat", *dims, axis=0))
    return _in_order(eqn, name)


def _transpose(graph, eqn, x):
    permutation = eqn.params["permutation"]
    return Tensor(x.name, tuple(permutation.index(axis) for axis in x.order))


def _concatenate(graph, eqn, *values):
    order = next(value.order for value in values if isinstance(value, Tensor))
    names = [graph.name(value, order) for value in values]
    return Tensor(graph.add("Concat", *names, axis=order.index(eqn.params["dimension"])), order)


def _slice(graph, eqn, x):
    params = eqn.params
    starts, ends = params["start_indices"], params["limit_indices"]
    return _cut(graph, eqn, x, starts, ends, params["strides"] or [1] * len(starts))


def _gather(graph, eqn, x, indices):
    """x[..., :2] and x[..., 0], which JAX traces to this for a batch of any size."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(indices, ndarray) or indices.ndim != 1 or numbers.operand_batching_dims:
        raise unsupported(eqn)
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
    return Tensor(graph.add("Slice", x.name, *map(graph.constant, settings)), x.order)


def _pad(graph, eqn, x, filling):
    config = eqn.params["padding_config"]
    if any(interior for _, _, interior in config):
        raise unsupported(eqn)
    pads = [config[axis][end] for end in (0, 1) for axis in x.order]
    return Tensor(graph.add("Pad", x.name, graph.constant(pads), graph.name(filling, ())), x.order)


def _reshaped(graph, x, shape):
    """The name of x in that shape; Reshape itself works out what depends on the batch."""
    dims = np.array([dim if isinstance(dim, int) else -1 for dim in shape])
    rank = len(x.order) if isinstance(x, Tensor) else x.ndim
    return graph.add("Reshape", graph.name(x, range(rank)), graph.constant(dims))


def _in_order(eqn, name):
    return Tensor(name, tuple(range(len(eqn.outvars[0].aval.shape))))


RULES: dict[str, Callable[..., Tensor]] = {
    "abs": _elementwise("Abs"),
    "add": _elementwise("Add"),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "div": _elementwise("Div"),
    "dot_general": _dot,
    "eq": _elementwise("Equal"),
    "exp": _elementwise("Exp"),
    "gather": _gather,
    "ge": _elementwise("GreaterOrEqual"),
    "gt": _elementwise("Greater"),
    "integer_pow": _integer_pow,
    "le": _elementwise("LessOrEqual"),
    "log": _elementwise("Log"),
    "log1p": _elementwise("Add", "Log", constant=1),
    "logistic": _elementwise("Sigmoid"),
    "lt": _elementwise("Less"),
    "max": _max,
    "min": _elementwise("Min"),
    "mul": _elementwise("Mul"),
    "ne": _elementwise("Equal", "Not"),
    "neg": _elementwise("Neg"),
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax", axes_are_input=False),
    "reduce_sum": _reduce("ReduceSum", axes_are_input=True),
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rsqrt": _elementwise("Sqrt", "Reciprocal"),
    "select_n": _select,
    "slice": _slice,
    "sqrt": _elementwise("Sqrt"),
    "square": _elementwise("Pow", constant=2),
    "squeeze": _reshape,
    "sub": _elementwise("Sub"),
    "tanh": _elementwise("Tanh"),
    "transpose": _transpose,
}
