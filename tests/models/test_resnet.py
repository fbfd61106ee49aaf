"""ResNet, against an independent computation in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import random_variables

from flm_jax.models.network import LandmarkRegressor
from flm_jax.models.resnet import ResNet


def conv(x, kernel, stride):
    """Cross-correlation with (k - 1) / 2 pixels of zeros on every side, as torch pads."""
    size = kernel.shape[0]
    margin = (size - 1) // 2
    x = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], kernel)


def max_pool(x):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max(axis=(-2, -1))


def reference_resnet(images, variables, stage_sizes, bottleneck):
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, path):
        weights, running = params, stats
        for name in path:
            weights, running = weights[name], running[name]
        x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        return x * weights["scale"] + weights["bias"]

    x = conv(images, params["conv1"]["kernel"], 2)
    x = max_pool(np.maximum(norm(x, ["bn1"]), 0))
    for stage, count in enumerate(stage_sizes):
        for index in range(count):
            name = f"layer{stage + 1}_{index}"
            block = params[name]
            stride = 2 if stage and not index else 1
            strides = [1, stride, 1] if bottleneck else [stride, 1]
            y = x
            for i, s in enumerate(strides, start=1):
                y = norm(conv(y, block[f"conv{i}"]["kernel"], s), [name, f"bn{i}"])
                y = np.maximum(y, 0) if i < len(strides) else y
            if "downsample_conv" in block:
                x = conv(x, block["downsample_conv"]["kernel"], stride)
                x = norm(x, [name, "downsample_bn"])
            x = np.maximum(x + y, 0)
    return x


@pytest.mark.parametrize("bottleneck", [False, True])
def test_features_agree_with_a_numpy_network(bottleneck):
    stage_sizes = (1, 2, 1)
    # Of even size: only there does Flax's 'SAME' differ from torch's symmetric padding.
    model = ResNet(stage_sizes=stage_sizes, bottleneck=bottleneck, width=4)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = random_variables(model, images)
    features = model.apply(variables, images, train=False)
    expected = reference_resnet(np.asarray(images, np.float64), variables, stage_sizes, bottleneck)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_folded_batch_norm_gives_the_same_landmarks(bottleneck):
    settings = {"stage_sizes": (1, 2), "bottleneck": bottleneck, "width": 4}
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 3)), jnp.float32)
    model = LandmarkRegressor(ResNet(**settings))
    folded_model = LandmarkRegressor(ResNet(**settings, folded=True))
    variables = random_variables(model, images)
    folded = model.fold_batch_norm(variables)
    expected = model.apply(variables, images, train=False)["landmarks"]
    np.testing.assert_allclose(
        folded_model.apply(folded, images, train=False)["landmarks"], expected, rtol=1e-4, atol=1e-3
    )
    shapes = jax.eval_shape(lambda: folded_model.init(jax.random.key(0), images, train=False))
    assert jax.tree.map(np.shape, folded) == jax.tree.map(np.shape, shapes)


def test_resnet50_has_the_published_number_of_parameters():
    images = jnp.zeros((1, 64, 64, 3))
    init = partial(LandmarkRegressor().init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_909_636


def small(**settings):
    return LandmarkRegressor(ResNet(stage_sizes=(1, 1), bottleneck=False, width=4, **settings))


@pytest.mark.parametrize("size", [32, 224])
def test_the_head_counts_in_pixels_of_224(size):
    images = jnp.zeros((2, size, size, 3))
    variables = jax.tree.map(jnp.zeros_like, small().init(jax.random.key(0), images, train=False))
    bias = np.random.default_rng(0).uniform(0, 224, 196).astype(np.float32)
    variables["params"]["head"]["points"]["bias"] = jnp.asarray(bias)
    landmarks = small().apply(variables, images, train=False)["landmarks"]
    np.testing.assert_allclose(landmarks[1], bias.reshape(98, 2) * size / 224, rtol=1e-6)


def test_bfloat16_computes_with_float32_parameters_statistics_and_output():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = small().init(jax.random.key(0), images, train=False)
    exact, _ = small().apply(variables, images, train=True, mutable=["batch_stats"])
    half, updated = small(dtype=jnp.bfloat16).apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    own = small(dtype=jnp.bfloat16).init(jax.random.key(0), images, train=False)
    for leaf in jax.tree.leaves((own, updated)):
        assert leaf.dtype == jnp.float32
    half, exact = half["landmarks"], exact["landmarks"]
    assert half.dtype == jnp.float32
    assert not np.array_equal(half, exact)
    np.testing.assert_allclose(half, exact, atol=0.05)
