"""A head and a backbone that the package does not know go through every mode."""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from support.launches import read_state
from support.networks import load_evaluation, make_config

from flm_jax.config import build
from flm_jax.models.heads import HEADS, Head
from flm_jax.models.network import BACKBONES
from flm_jax.modes import export, predict, train


class ToyBackbone(nn.Module):
    """One strided convolution, without batch norm."""

    width: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(self.width, (4, 4), 4, padding="VALID", dtype=self.dtype, name="conv")(images)
        return nn.relu(x)

    @staticmethod
    def fold_batch_norm(params, batch_stats):
        return params

    @staticmethod
    def torch_name(path):
        return ".".join(path[1:])


class ToyHead(Head):
    """Points from the flattened map, with a radius in pixels and a confidence."""

    pixel_outputs: ClassVar[tuple[str, ...]] = ("radius",)
    own_outputs: ClassVar[tuple[str, ...]] = ("confidence",)

    @nn.compact
    def __call__(self, features, image_size):
        flat = features.reshape(features.shape[0], -1)
        points = nn.Dense(196, name="points")(flat).reshape(-1, 98, 2)
        confidence = nn.sigmoid(nn.Dense(98, name="confidence")(flat))
        radius = jnp.full_like(confidence, 2.0)
        return {
            "landmarks": image_size / 2 * (1 + jnp.tanh(points)),
            "radius": radius,
            "confidence": confidence,
        }


@pytest.fixture
def config(faces_root, monkeypatch):
    monkeypatch.setitem(BACKBONES, "toy", ToyBackbone)
    monkeypatch.setitem(HEADS, "toy", ToyHead)
    config = make_config(faces_root)
    config.num_epochs = 1
    config.ema_decay = 0.9
    config.model.backbone = ConfigDict({"name": "toy", "width": 3})
    config.model.head = ConfigDict({"name": "toy"})
    return config


def test_a_toy_head_and_backbone_train_evaluate_predict_and_export(
    config, test_records, faces_root, tmp_path
):
    train.run(config, tmp_path)  # Ends with the evaluation.
    figures, arrays = load_evaluation(tmp_path)
    assert np.isfinite(figures["nme"])
    assert ((arrays["confidence"] > 0) & (arrays["confidence"] < 1)).all()
    for record, radius in zip(test_records, arrays["radius"], strict=True):
        width, height = record.box[2:] - record.box[:2] + 20
        np.testing.assert_allclose(radius, 2 * np.sqrt(width * height) / 32, rtol=1e-5)

    boxes = faces_root / "WFLW_annotations/list_98pt_rect_attr_train_test"
    predict.run(
        config,
        tmp_path,
        input=str(faces_root / "WFLW_images"),
        output=str(tmp_path / "predicted"),
        boxes=str(boxes / "list_98pt_rect_attr_test.txt"),
    )
    assert (tmp_path / "predicted" / "landmarks.json").is_file()

    export.run(config, tmp_path)  # Refuses files that differ from the network by 0.01 px.
    config.model.pretrained = str(tmp_path / "export/landmarks.safetensors")
    splits = build.read_splits(config, tmp_path)
    given = build.starting_values(config, build.build_model(config), splits.training)
    _, state = read_state(tmp_path)
    found, expected = given["params"]["backbone"], state["ema"]["params"]["backbone"]
    in_half_precision = partial(np.testing.assert_allclose, rtol=1e-3)
    jax.tree.map(in_half_precision, found, expected)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "export" / "landmarks.onnx")
    images = np.zeros((3, 32, 32, 3), np.float32)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    assert {name: values.shape for name, values in found.items()} == {
        "landmarks": (3, 98, 2),
        "radius": (3, 98),
        "confidence": (3, 98),
    }


def test_a_head_that_gives_other_outputs_than_it_declares_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyHead, "outputs", ())
    with pytest.raises(ValueError, match=r"ToyHead gives .*'confidence'.* and declares"):
        train.run(config, tmp_path)


@pytest.mark.parametrize("section", ["backbone", "head"])
def test_an_unknown_choice_is_named_with_the_known_ones(config, section, tmp_path):
    config.model[section].name = "tyo"
    with pytest.raises(ValueError, match=f"model.{section}.name=tyo: expected one of re.*, toy"):
        train.run(config, tmp_path)
