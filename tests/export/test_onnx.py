import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn
from support.networks import random_variables

from flm_jax.errors import InputError
from flm_jax.export.onnx import convert, to_bytes, with_half_kernels
from flm_jax.models.heads import HEADS
from flm_jax.models.network import LandmarkRegressor
from flm_jax.models.resnet import ResNet

BASIC = {"stage_sizes": (1, 1), "bottleneck": False, "width": 8}
BOTTLENECK = {"stage_sizes": (1, 1), "bottleneck": True, "width": 4}


def make_network(backbone, head, size):
    """The network as it is trained and as it is exported, as functions of variables and images."""
    trained, folded = (
        LandmarkRegressor(ResNet(**backbone, folded=folded), HEADS[head]())
        for folded in (False, True)
    )
    variables = random_variables(trained, jnp.zeros((1, size, size, 3)))

    def apply(variables, images):
        return folded.apply(variables, images, train=False)

    expected = jax.jit(lambda images: trained.apply(variables, images, train=False))
    return apply, jax.jit(trained.fold_batch_norm)(variables), expected


def run(model, images):
    session = onnxruntime.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def make_images(count, size):
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def check(model, expected, size, atol=1e-3):
    images = make_images(3, size)
    values = {name: np.asarray(value) for name, value in expected(images).items()}
    for count in (1, 3):  # The batch is of any size.
        found = run(model, images[:count])
        assert set(found) == set(values)
        for name, value in values.items():
            assert np.ptp(value) > 0.1
            np.testing.assert_allclose(found[name], value[:count], rtol=1e-4, atol=atol)


NETWORKS = [(BASIC, head, 45) for head in HEADS] + [(BOTTLENECK, "regression", 32)]


@pytest.mark.parametrize(("backbone", "head", "size"), NETWORKS)
def test_the_model_computes_what_the_trained_network_does(backbone, head, size):
    apply, variables, expected = make_network(backbone, head, size)
    model = convert(apply, variables, size)
    check(model, expected, size)
    # At the input; and where a head needs the map's places last.
    transposes = [node.op_type for node in model.graph.node].count("Transpose")
    assert transposes <= {"simcc": 4, "anchors": 2}.get(head, 1)
    assert {"params/backbone/conv1/kernel"} < {tensor.name for tensor in model.graph.initializer}


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)


def conv(x, kernel=KERNEL, **settings):
    settings = {"window_strides": (1, 1), "padding": "SAME", **settings}
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **settings)


FUNCTIONS = {
    "uneven padding": lambda x: conv(x, window_strides=(2, 1), padding=((0, 1), (2, 1))),
    "dilated groups": lambda x: conv(
        x, KERNEL[..., :1, :3], feature_group_count=3, rhs_dilation=(1, 2)
    ),
    "max pool": lambda x: nn.max_pool(x, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1))),
    "dense layer on a map": lambda x: conv(x).reshape(x.shape[0], -1, 12) @ KERNEL.reshape(12, 9),
    "a kernel on the left": lambda x: jnp.einsum(
        "bhwc,kh->bckw", x, KERNEL[:2].reshape(4, 18)[:, :6]
    ),
    "soft argmax": lambda x: (nn.softmax(9 * x, axis=2) * jnp.arange(6.0)[:, None]).sum(axis=2),
    "slices": lambda x: jnp.concatenate([x[..., :2], x[..., 2:], conv(x)[:, :, :, 1:3]], axis=3),
    "an index": lambda x: x[..., -1] - conv(x)[..., 0],
    "broadcasts": lambda x: jnp.where(x > 0.1, x, jnp.full_like(x, 2)) + jnp.arange(3.0),
    "comparisons": lambda x: sum(
        jnp.where(mask, x, i)
        for i, mask in enumerate([x < 0, x <= 0.5, x >= 0.3, x != 0, x == 0], start=1)
    ),
    "activations": lambda x: nn.softplus(x) + nn.sigmoid(x) * jnp.tanh(x) + nn.leaky_relu(x),
    "roots": lambda x: jnp.sqrt(jnp.abs(x)) + jax.lax.rsqrt(jnp.maximum(x, 0.5)),
    "logarithms": lambda x: jnp.log(jnp.maximum(0.5, x)) + jnp.minimum(jnp.log1p(x * x), 0.3),
    "means": lambda x: (x - x.mean(axis=(1, 3), keepdims=True)) / (1 - x.max(-1, keepdims=True)),
    "transposes": lambda x: x.transpose(0, 3, 1, 2).swapaxes(2, 3) + 2 * x.transpose(0, 3, 2, 1),
    "whole numbers": lambda x: (x * 9).astype(np.int32).astype(np.float32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name):
    def apply(_, images):
        return {"found": FUNCTIONS[name](images)}

    check(convert(apply, {}, 6), jax.jit(lambda images: apply({}, images)), 6, atol=1e-5)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general"),
    ],
)
def test_an_operation_without_a_rule_is_named(operation, name):
    with pytest.raises(InputError, match=rf"no rule in .*operations.py covers {name} with"):
        convert(lambda _, images: {"found": operation(images)}, {}, 6)


def test_half_kernels_halve_the_file_and_change_little():
    apply, variables, _ = make_network({**BASIC, "width": 32}, "regression", 32)
    single = convert(apply, variables, 32)
    half = with_half_kernels(single)
    assert half.ByteSize() < 0.55 * single.ByteSize()
    expected, found = (run(model, make_images(4, 32))["landmarks"] for model in (single, half))
    assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_metadata_is_in_the_model():
    model = convert(lambda _, images: {"found": images + 1}, {}, 6)
    model = onnx.load_from_string(to_bytes(model, {"crop": {"margin": 10.0}}))
    assert {prop.key: prop.value for prop in model.metadata_props} == {"crop": '{"margin": 10.0}'}
