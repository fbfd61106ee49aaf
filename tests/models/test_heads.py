"""Heads: what they decode, and the losses that are their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flm_jax.errors import InputError
from flm_jax.models.heads import HEADS, AnchorHead, RegressionHead, SimCCHead
from flm_jax.models.resnet import ResNet

SIZE = 32


def outputs_of(head, features=None, seed=0):
    features = jnp.ones((2, 2, 2, 3)) if features is None else features
    variables = head.init(jax.random.key(seed), features, SIZE)
    return head.apply(variables, features, SIZE)


def simcc_loss(head, points):
    """Of logits that say `points` f32[2, 98, 2] sharply."""
    outputs = outputs_of(head)
    centres = np.asarray(head._centres(SIZE))
    logits = [-(((centres - points[..., axis, None]) / 0.32) ** 2) / 2 for axis in range(2)]
    targets = jnp.full((2, 98, 2), 10.0)
    outputs |= {"x_logits": jnp.asarray(logits[0]), "y_logits": jnp.asarray(logits[1])}
    return float(head.loss(outputs, {"landmarks": targets}, SIZE).mean())


def test_simcc_is_trained_towards_the_coordinate():
    head = SimCCHead()
    at = [simcc_loss(head, np.full((2, 98, 2), value)) for value in (8.0, 10.0, 12.0)]
    assert at[1] < min(at[0], at[2]) - 5


def test_simcc_says_the_expectation_of_its_bins():
    head = SimCCHead(bins_per_pixel=1.0, margin=0.25, std=0.05)
    outputs = outputs_of(head)
    centres = np.asarray(head._centres(SIZE))
    np.testing.assert_allclose(centres, np.arange(-8, 40))  # the pixels' own centres, and beyond
    for axis, name in enumerate(("x_logits", "y_logits")):
        expected = jax.nn.softmax(outputs[name]) @ centres
        np.testing.assert_allclose(outputs["landmarks"][..., axis], expected, atol=1e-4)
    assert ((outputs["confidence"] > 0) & (outputs["confidence"] <= 1)).all()


@pytest.mark.parametrize("settings", [{"bins_per_pixel": 0.25}, {"std": 0.001}])
def test_too_few_bins_are_refused(settings):
    with pytest.raises(InputError, match="bins a pixel are too few for an input of 32 px"):
        outputs_of(SimCCHead(**settings))


def anchors(weights, seed=0):
    """The points of a map of 2 x 4 cells by an `AnchorHead` whose weights depend so much on it."""
    head, features = AnchorHead(), jax.random.normal(jax.random.key(seed), (1, 2, 4, 3))
    params = head.init(jax.random.key(1), features, SIZE)["params"]
    params["weights"]["kernel"] = jnp.full_like(params["weights"]["kernel"], weights)
    return head.apply({"params": params}, features, SIZE)["landmarks"][0], features, params


def test_anchors_of_equal_weight_are_the_regression():
    points, features, params = anchors(0.0)
    dense = {"points": {**params["offsets"], "bias": params["offsets"]["bias"] + 112 - 0.5 * 7}}
    expected = RegressionHead().apply({"params": dense}, features, SIZE)["landmarks"][0]
    np.testing.assert_allclose(points, expected, atol=1e-4)


def test_the_anchor_of_most_weight_says_where_the_points_are():
    points, features, params = anchors(1000.0)
    row, column = np.unravel_index(features[0].sum(-1).argmax(), (2, 4))
    offset = features[0, row, column] @ params["offsets"]["kernel"] + params["offsets"]["bias"]
    centre = jnp.array([8 * column + 3.5, 16 * row + 7.5])
    np.testing.assert_allclose(points, centre + offset.reshape(98, 2) / 7, atol=1e-4)


def test_the_anchor_of_most_weight_says_what_is_visible():
    head, features = AnchorHead(visibility=1.0), jax.random.normal(jax.random.key(3), (1, 2, 4, 3))
    params = head.init(jax.random.key(1), features, SIZE)["params"]
    dense = params["visibility"]

    def visibility():
        return head.apply({"params": params}, features, SIZE)["visibility"][0]

    logits = (features.reshape(8, 3) @ dense["kernel"]) + dense["bias"]
    np.testing.assert_allclose(visibility(), nn.sigmoid(logits.mean(0)), atol=1e-5)
    votes = params["visibility_weights"]
    votes["kernel"] = jnp.full_like(votes["kernel"], 1000.0)
    chosen = features.reshape(8, 3).sum(-1).argmax()
    np.testing.assert_allclose(visibility(), nn.sigmoid(logits[chosen]), atol=1e-4)


def test_anchors_start_at_the_mean_shape():
    shape = np.random.default_rng(0).uniform(0, 223, (98, 2))
    head, features = AnchorHead(), jnp.zeros((1, 2, 4, 3))
    params = head.init(jax.random.key(1), features, 224)["params"]
    params["offsets"]["bias"] = head.start_at(shape)["offsets"]["bias"]
    points = head.apply({"params": params}, features, 224)["landmarks"][0]
    np.testing.assert_allclose(points, shape, atol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_visibility_is_learned_where_it_is_known(name):
    head = HEADS[name](visibility=3.0)
    outputs = outputs_of(head)
    assert "visibility" in head.outputs
    outputs["visibility"] = jnp.full((2, 98), 0.8)
    visible = np.full((2, 98), -1, np.int8)
    batch = {"landmarks": jnp.zeros((2, 98, 2)), "visible": visible}
    unknown = head.loss(outputs, batch, SIZE)
    visible[0, :49], visible[1, :49] = 1, 0
    known = head.loss(outputs, batch, SIZE)
    np.testing.assert_allclose(known - unknown, -3.0 / 2 * np.log([0.8, 0.2]), rtol=1e-4)
    assert "visibility" not in HEADS[name]().outputs


def test_the_plain_loss_is_that_of_the_points_alone():
    head = RegressionHead()
    assert (head.loss(outputs_of(head), {}, SIZE) == 0).all()


@pytest.mark.parametrize(("last_stride", "side"), [(0, 2), (32, 2), (16, 4), (8, 8), (4, 16)])
def test_the_last_map_is_as_fine_as_asked_for(last_stride, side):
    network = ResNet((1, 1, 1, 1), False, 2, last_stride=last_stride)
    images = jnp.zeros((1, 64, 64, 3))
    shape = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), images, train=False))
    assert shape[0].shape == (1, side, side, 16)


@pytest.mark.parametrize("last_stride", [2, 12])
def test_a_stride_that_no_stage_has_is_refused(last_stride):
    network = ResNet((1,), False, 2, last_stride=last_stride)
    with pytest.raises(InputError, match=f"last_stride={last_stride}: expected a power of two"):
        network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
