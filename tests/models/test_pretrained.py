"""Weights of torchvision's ResNet-50, against what torchvision itself computes from them."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import record_resnet50 as recording
import safetensors.numpy
from support.networks import torch_tensors

from flm_jax.errors import InputError
from flm_jax.models import pretrained, weights_io
from flm_jax.models.resnet import ResNet


def load_backbone(variables, tensors):
    return pretrained.load_backbone(variables, tensors, ResNet.torch_name)


@functools.cache
def recorded():
    activations, shapes = recording.read_recording()
    return activations, recording.make_weights(shapes)


def variable_shapes():
    images = jnp.zeros((1, 64, 64, 3))
    return jax.eval_shape(lambda: ResNet().init(jax.random.key(0), images, train=False))


@functools.cache
def apply():
    """The backbone with all that is between, compiled once."""
    return jax.jit(
        lambda variables, images: ResNet().apply(
            variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )


def activations(variables):
    """Every stage's output, and the pooled features."""
    features, state = apply()(variables, recording.make_picture())
    outputs = {
        name: value["__call__"][0]
        for name, value in state["intermediates"].items()
        if name != "__call__"
    }
    last = {"layer1": "layer1_2", "layer2": "layer2_3", "layer3": "layer3_5", "layer4": "layer4_2"}
    stages = {"bn1": outputs["bn1"]} | {stage: outputs[name] for stage, name in last.items()}
    return stages | {"pooled": features.mean(axis=(1, 2), keepdims=True)}


def errors(tensors):
    """Each stage's largest deviation from the recording, relative to the stage's values."""
    found = activations(load_backbone(variable_shapes(), tensors))
    expected, _ = recorded()
    assert set(found) == set(expected) == set(recording.STAGES)
    return {
        stage: np.abs(found[stage] - values).max() / np.sqrt((values**2).mean())
        for stage, values in expected.items()
    }


def test_every_stage_agrees_with_torchvision():
    _, tensors = recorded()
    for stage, error in errors(tensors).items():
        assert error < 1e-4, stage


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("bn1.bias", "bn1.running_mean"),
        ("layer2.1.bn1.weight", "layer2.1.bn1.running_var"),
        ("layer4.0.bn3.weight", "layer4.0.downsample.1.weight"),
    ],
)
def test_exchanged_batch_norm_tensors_are_noticed(a, b):
    _, tensors = recorded()
    found = errors({**tensors, a: tensors[b], b: tensors[a]})
    assert found["pooled"] > 1e-4
    assert found["layer4"] > 1e-3


def test_torchvision_still_computes_what_was_recorded():
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    found, shapes = recording.torchvision_activations()
    expected, recorded_shapes = recording.read_recording()
    assert shapes == recorded_shapes
    for stage, values in expected.items():
        np.testing.assert_allclose(found[stage], values, rtol=1e-4, atol=1e-4 * values.std())


def test_every_tensor_but_the_classifier_is_used_once():
    _, tensors = recorded()
    variables = variable_shapes()
    paths = [
        [key.key for key in path] for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]
    ]
    names = [ResNet.torch_name(path) for path in paths]
    unused = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert len(set(names)) == len(names)
    assert set(names) == set(tensors) - unused - {"fc.weight", "fc.bias"}


def small():
    """A ResNet of one stage, and the tensors of torchvision's names that fit it."""
    images = jnp.zeros((1, 32, 32, 3))
    model = ResNet(stage_sizes=(1,), width=4)
    variables = model.init(jax.random.key(3), images, train=False)
    return variables, torch_tensors(variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer1.0.bn2.running_var"), "lacks 'layer1.0.bn2.running_var'"),
        (lambda t: t.update(extra=np.zeros(3)), "no place for 1 tensors of the file: extra"),
        (lambda t: t.update({"layer2.0.conv1.weight": t["conv1.weight"]}), "layer2.0.conv1.weight"),
        (lambda t: t.update({"bn1.bias": np.zeros(5)}), r"'bn1.bias' has the shape \(5,\)"),
        (lambda t: t.update({"bn1.bias": np.full(4, np.nan)}), "'bn1.bias' holds numbers that are"),
        (
            lambda t: t.update({"conv1.weight": t["conv1.weight"].transpose(2, 3, 1, 0)}),
            r"'conv1.weight' has the shape \(7, 7, 3, 4\), which gives .* expects \(7, 7, 3, 4\)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, message):
    variables, tensors = small()
    change(tensors)
    with pytest.raises(InputError, match=f"model.pretrained: .*{message}"):
        load_backbone(variables, tensors)


def test_the_classifier_and_the_counts_are_left_out_of_a_network_of_any_depth():
    variables, tensors = small()
    tensors |= {"fc.weight": np.zeros((10, 16)), "fc.bias": np.zeros(10)}
    tensors |= {"bn1.num_batches_tracked": np.array(3)}
    loaded = load_backbone(variables, tensors)
    for before, after in zip(jax.tree.leaves(variables), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(after, np.asarray(before) + 1)
        assert after.dtype == np.float32


def test_a_backbone_is_read_as_it_was_written():
    variables = load_backbone(variable_shapes(), recorded()[1])
    content = weights_io.to_safetensors(pretrained.name_tensors(variables, ResNet.torch_name))
    found = load_backbone(variable_shapes(), safetensors.numpy.load(content))
    # Kernels are in half precision.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), found, variables)
    assert len(content) < 50e6
