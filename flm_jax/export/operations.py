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


def _elementwise(*kinds: str) -> Callable[..., Tensor]:
    """The rule for nodes in a row, the first of which takes all the inputs."""

    def rule(graph, eqn, *values):
        order = max((value.order for value in values if isinstance(value, Tensor)), key=len)
        name = graph.add(kinds[0], *(graph.name(value, order) for value in values))
        for kind in kinds[1:]:
            name = graph.add(kind, name)
        return Tensor(name, order)

    return rule


def _max(graph, eqn, *values):
    """A ReLU by its name, which runtimes fuse with the convolution before it."""
    x, least = values
    if isinstance(least, ndarray) and least.ndim == 0 and least == 0:
        return _elementwise("Relu")(graph, eqn, x)
    return _elementwise("Max")(graph, eqn, *values)


def _log1p(graph, eqn, x):
    return _elementwise("Add", "Log")(graph, eqn, x, np.ones((), eqn.invars[0].aval.dtype))


def _select(graph, eqn, which, otherwise, value):
    return _elementwise("Where")(graph, eqn, which, value, otherwise)


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


def _reduce_sum(graph, eqn, x):
    axes, order = _reduced(eqn, x)
    return Tensor(graph.add("ReduceSum", x.name, graph.constant(axes), keepdims=0), order)


def _reduce_max(graph, eqn, x):
    axes, order = _reduced(eqn, x)
    return Tensor(graph.add("ReduceMax", x.name, axes=axes, keepdims=0), order)


def _reduced(eqn, x):
    """The tensor's axes that go, and the order of those that stay."""
    left = [axis for axis in x.order if axis not in eqn.params["axes"]]
    axes = [x.order.index(axis) for axis in eqn.params["axes"]]
    return axes, tuple(sorted(left).index(axis) for axis in left)


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


def _stack(graph, eqn, *values):
    axis, shape = eqn.params["axis"], list(eqn.outvars[0].aval.shape)
    names = [_reshaped(graph, value, [*shape[:axis], 1, *shape[axis + 1 :]]) for value in values]
    return _in_order(eqn, graph.add("Concat", *names, axis=axis))


def _gather(graph, eqn, x, starts):
    """A slice such as x[..., :2] or x[..., 0] of a batch of any size."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(starts, ndarray) or starts.ndim != 1 or numbers.operand_batching_dims:
        raise unsupported(eqn)
    axes = numbers.start_index_map
    ends = [start + sizes[axis] for start, axis in zip(starts, axes, strict=True)]
    cut = starts, ends, [x.order.index(axis) for axis in axes]
    name = graph.add(
        "Slice", x.name, *(graph.constant(np.asarray(values, np.int64)) for values in cut)
    )
    return _reshape(graph, eqn, Tensor(name, x.order))


def _reshaped(graph, x, shape):
    """The name of x in that shape; Reshape itself works out what depends on the batch."""
    dims = np.array([dim if isinstance(dim, int) else -1 for dim in shape])
    rank = len(x.order) if isinstance(x, Tensor) else x.ndim
    return graph.add("Reshape", graph.name(x, range(rank)), graph.constant(dims))


def _in_order(eqn, name):
    return Tensor(name, tuple(range(len(eqn.outvars[0].aval.shape))))


RULES: dict[str, Callable[..., Tensor]] = {
    # By the same name in both.
    **{
        name: _elementwise(name.capitalize())
        for name in ("abs", "add", "div", "exp", "log", "min", "mul", "neg", "sqrt", "sub", "tanh")
    },
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _dot,
    "eq": _elementwise("Equal"),
    "gather": _gather,
    "ge": _elementwise("GreaterOrEqual"),
    "gt": _elementwise("Greater"),
    "le": _elementwise("LessOrEqual"),
    "log1p": _log1p,
    "logistic": _elementwise("Sigmoid"),
    "lt": _elementwise("Less"),
    "max": _max,
    "ne": _elementwise("Equal", "Not"),
    "reduce_max": _reduce_max,
    "reduce_sum": _reduce_sum,
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rsqrt": _elementwise("Sqrt", "Reciprocal"),
    "select_n": _select,
    "squeeze": _reshape,
    "stack": _stack,
    "transpose": _transpose,
}
