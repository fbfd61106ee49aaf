"""The network that comes with the package, in onnxruntime, without JAX."""

import contextlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from support.launches import ROOT

from flm_jax import __main__ as program
from flm_jax.drawing.picture import draw_picture
from flm_jax.errors import InputError
from flm_jax.inference.exported import SHIPPED, load_exported
from flm_jax.inference.predictor import LandmarkPredictor

RECORDED = ROOT / "tests/recordings/shipped.npz"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The path of a drawn image of one face, and the face."""
    picture = draw_picture(np.random.default_rng(3), max_faces=1)
    path = tmp_path_factory.mktemp("drawn") / "face.png"
    cv2.imwrite(str(path), picture.image[..., ::-1])
    return path, picture


def test_the_shipped_network_says_what_was_recorded(drawn):
    """Recorded by running this test as a program."""
    _, picture = drawn
    found = LandmarkPredictor.load()(picture.image, picture.faces[0].box[None])
    recorded = np.load(RECORDED)["landmarks"]
    np.testing.assert_allclose(found, recorded, atol=0.05)
    eyes = np.linalg.norm(picture.faces[0].landmarks[60] - picture.faces[0].landmarks[72])
    errors = np.linalg.norm(found[0] - picture.faces[0].landmarks, axis=1)
    assert errors.mean() < 0.1 * eyes
    assert SHIPPED.stat().st_size <= 12e6


# JAX and what stands on it can't be imported, as if they were not installed.
WITHOUT_JAX = """
import sys
for name in ("jax", "flax", "optax", "orbax", "grain", "ml_collections"):
    sys.modules[name] = None
from flm_jax.__main__ import main
main(sys.argv[1:])
"""


def test_one_command_puts_points_on_an_image_without_jax(drawn, tmp_path):
    path, picture = drawn
    command = [sys.executable, "-c", WITHOUT_JAX, str(path), "--output", str(tmp_path / "points")]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (entry,) = json.loads((tmp_path / "points/landmarks.json").read_text())
    (face,) = entry["faces"]
    assert entry["image"] == str(path)
    assert face["score"] > 0.5
    visibility = np.array(face["visibility"])
    assert visibility.shape == (98,)
    assert ((visibility >= 0) & (visibility <= 1)).all()
    errors = np.linalg.norm(np.array(face["landmarks"]) - picture.faces[0].landmarks, axis=1)
    assert errors.mean() < 0.1 * np.ptp(picture.faces[0].landmarks[:, 0])
    assert (tmp_path / "points/overlays/face.png").is_file()
    assert (tmp_path / "points/landmarks.csv").read_text().startswith("image,frame,face,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "missing.jpg: no such file"),
        (["face.png", "--network", "missing.onnx"], "missing.onnx: no such file"),
        (["face.png", "--network", "face.png"], "face.png: not a network that onnxruntime"),
        ([], "expected an input, or --page DIR"),
        (["face.png", "--network", 300 * "x" + ".onnx"], "x.onnx: no such file"),
        (["face.png", "--side", "1000000000"], "side=1000000000: expected at most 8192 pixels"),
        (["face.png", "--threshold", "2"], "2: expected a number in [0, 1]"),
        (["face.png", "--smoothing", "nan", "1"], "nan: expected a number in [0, inf]"),
    ],
)
def test_what_cannot_be_used_is_named(drawn, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(drawn[0].parent)
    with pytest.raises(SystemExit) as stopped:
        program.main(arguments)
    assert message in f"{stopped.value.code} {capsys.readouterr().err}"


def test_the_home_folder_may_stand_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    names = ("output", "boxes", "network", "detector", "page")
    given = program._parser().parse_args(["~/x", *(f"--{name}=~/x" for name in names)])
    assert {getattr(given, name) for name in ("input", *names)} == {"/home/me/x"}


def test_a_full_disk_below_the_log_ends_no_prediction(drawn, tmp_path):
    command = [sys.executable, "-m", "flm_jax", str(drawn[0]), "--boxes=image"]
    with open("/dev/full", "w") as full:
        subprocess.run(
            [*command, f"--output={tmp_path}"], check=True, cwd=ROOT, stdout=full, stderr=full
        )


def test_a_network_of_something_else_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", [value], [other])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "o.onnx")
    with pytest.raises(InputError, match="not a network of --mode export: its metadata lack 'in"):
        load_exported(tmp_path / "o.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "{}"}, "do not describe its network: KeyError 'size'"),
        ({"input": '{"name": "images", "size": 100}'}, "do not describe its network: Invalid"),
        ({"crop": '{"box": "foo", "margin": 0, "factor": 1, "square": false}'}, "KeyError 'foo'"),
        ({"crop": '{"box": "rectangle"}'}, "KeyError 'margin'"),
        *[
            ({"crop": f'{{"box": "rectangle", "square": true, {numbers}}}'}, "ValueError factor=")
            for numbers in (
                *('"margin": 0, "factor": NaN', '"margin": 0, "factor": -1'),
                '"margin": 1e308, "factor": 1',
            )
        ],
        ({"pixel_outputs": '["radius"]'}, "KeyError 'radius'"),
        ({"pixel_outputs": '["landmarks"]'}, "are not of 98 points"),
        ({"author": "me"}, None),
    ],
)
def test_metadata_describe_the_network_or_are_refused(tmp_path, change, message):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(SHIPPED)
    kept = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(model, kept | change)
    path = tmp_path / os.fsdecode(b"\xff.onnx")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        load_exported(path)


def test_an_exported_network_has_the_box_of_its_training(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(SHIPPED)
    kept = {item.key: item.value for item in model.metadata_props}
    crop = json.dumps(json.loads(kept["crop"]) | {"box": "landmarks"})
    onnx.helper.set_model_props(model, kept | {"crop": crop})
    onnx.save(model, tmp_path / "o.onnx")
    assert LandmarkPredictor.load(tmp_path / "o.onnx").box == "landmarks"


if __name__ == "__main__":
    picture = draw_picture(np.random.default_rng(3), max_faces=1)
    landmarks = LandmarkPredictor.load()(picture.image, picture.faces[0].box[None])
    np.savez(RECORDED, landmarks=landmarks)
