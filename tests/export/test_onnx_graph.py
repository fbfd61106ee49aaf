import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from support.networks import random_variables

from flm_jax.errors import InputError
from flm_jax.export.onnx_graph import landmark_graph, set_metadata
from flm_jax.models.network import LandmarkRegressor
from flm_jax.models.resnet import ResNet, fold_batch_norm

BASIC = {"stage_sizes": (1, 2), "bottleneck": False, "width": 8}
BOTTLENECK = {"stage_sizes": (2, 1, 1), "bottleneck": True, "width": 4}


def make_network(backbone, size, uncertainty=False):
    model = LandmarkRegressor(ResNet(**backbone), uncertainty=uncertainty)
    variables = random_variables(model, jnp.zeros((1, size, size, 3)))
    return model, variables, jax.tree.map(np.asarray, fold_batch_norm(variables))


def run(model, images):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


@pytest.mark.parametrize("uncertainty", [False, True])
@pytest.mark.parametrize("size", [32, 45])  # an odd size tells a padding from another
@pytest.mark.parametrize("backbone", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_the_graph_computes_what_the_unfolded_network_does(backbone, size, uncertainty):
    model, variables, folded = make_network(backbone, size, uncertainty)
    graph = landmark_graph(folded, size)
    for count in (1, 3):  # The batch is of any size.
        images = np.random.default_rng(count).uniform(-1, 1, (count, size, size, 3))
        images = images.astype(np.float32)
        expected = np.asarray(model.apply(variables, jnp.asarray(images), train=False))
        found = run(graph, images)
        assert np.ptp(expected[..., :2]) > 1
        np.testing.assert_allclose(found["landmarks"], expected[..., :2], rtol=1e-4, atol=1e-3)
        assert set(found) == ({"landmarks", "scale"} if uncertainty else {"landmarks"})
        if uncertainty:
            np.testing.assert_allclose(found["scale"], expected[..., 2], rtol=1e-4, atol=1e-3)


def test_half_kernels_halve_the_file_and_change_little():
    _, _, folded = make_network({**BASIC, "width": 32}, 32)
    single, half = landmark_graph(folded, 32), landmark_graph(folded, 32, half=True)
    assert half.ByteSize() < 0.55 * single.ByteSize()
    images = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    expected, found = run(single, images)["landmarks"], run(half, images)["landmarks"]
    assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_metadata_is_in_the_model():
    _, _, folded = make_network(BASIC, 32)
    model = landmark_graph(folded, 32)
    set_metadata(model, {"crop": '{"margin": 10.0}'})
    model = onnx.load_from_string(model.SerializeToString())
    assert {prop.key: prop.value for prop in model.metadata_props} == {"crop": '{"margin": 10.0}'}


def test_a_head_for_other_points_is_refused():
    _, _, folded = make_network(BASIC, 32)
    folded["params"]["head"] = {"kernel": np.zeros((16, 136)), "bias": np.zeros(136)}
    with pytest.raises(InputError, match="head gives 68 points, not 98"):
        landmark_graph(folded, 32)
