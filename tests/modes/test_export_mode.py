import dataclasses
import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from support.networks import change, make_config, make_state, save_state, save_weights

from flm_jax import landmarks
from flm_jax.config import build
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.modes import evaluate, export

FILES = {"landmarks.onnx", "landmarks_fp16.onnx", "landmarks.jax", "landmarks.json"}
FILES |= {"landmarks.safetensors", "browser"}


@pytest.fixture(autouse=True)
def _no_npm(monkeypatch, tmp_path):
    """Nothing is fetched here: test_browser.py does that."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, faces_root):
    """An exported network's work folder, evaluated before, its config, and what the network itself
    finds in the test faces: images and points."""
    workdir = tmp_path_factory.mktemp("work")
    config = make_config(faces_root)
    model, variables = save_weights(config, workdir, head=40.0)
    evaluate.run(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(workdir))
        export.run(config, workdir)
    splits = build.read_splits(config, workdir)
    batches = list(build.evaluation_batches(config, splits.test, box="rectangle"))
    images = np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])
    apply = jax.jit(lambda images: model.apply(variables, images, train=False))
    return workdir, config, images, np.asarray(apply(images)["landmarks"])


@pytest.fixture
def unexported(exported, tmp_path):
    """The same weights in another work folder, and a config to change."""
    (tmp_path / "checkpoints").symlink_to(exported[0] / "checkpoints")
    return tmp_path, exported[1].copy_and_resolve_references()


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def test_an_exported_network_predicts_as_its_work_folder(exported, test_records):
    workdir, *_ = exported
    record = test_records[0]
    image, boxes = read_record_image(record)[..., ::-1], record.box[None]
    expected = LandmarkPredictor.load(workdir)(image, boxes)
    found = LandmarkPredictor.load(workdir / "export/landmarks.onnx")(image, boxes)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def read_metadata(workdir):
    return json.loads((workdir / "export/landmarks.json").read_text())


def test_the_comparison_states_what_is_so(exported):
    workdir, config, images, points = exported
    assert {path.name for path in (workdir / "export").iterdir()} == FILES
    comparison = read_metadata(workdir)["comparison"]
    assert (comparison["split"], comparison["num_faces"]) == ("test", 20)
    figures = json.loads((workdir / "evaluation.json").read_text())
    for name in ("network", "landmarks.onnx", "landmarks.jax"):
        assert comparison[name]["nme"] == pytest.approx(figures["nme"], rel=1e-4)
        assert comparison[name]["max_difference"]["landmarks"] < 1e-3
    single, half = (
        run_onnx(workdir / "export" / name, images)["landmarks"]
        for name in ("landmarks.onnx", "landmarks_fp16.onnx")
    )
    np.testing.assert_allclose(single, points, atol=1e-3)
    row = comparison["landmarks_fp16.onnx"]
    difference = row["max_difference"]["landmarks"]
    assert 0 < difference == pytest.approx(np.abs(half - points).max(), abs=1e-4)
    arrays = np.load(workdir / "predictions.npz")
    splits = build.read_splits(config, workdir)
    sides = np.stack([record.box[2:] - record.box[:2] + 20 for record in splits.test])
    moved = (half - points) * sides[:, None] / 32
    assert row["max_difference_image_px"] == pytest.approx(np.abs(moved).max(), rel=1e-2)
    nme = metrics.nme((arrays["landmarks"] + moved).astype(np.float32), arrays["target"])
    assert row["nme"] == pytest.approx(100 * nme.mean(), rel=1e-4)


def test_every_file_carries_how_to_use_the_network(exported):
    workdir, config, _, _ = exported
    metadata = read_metadata(workdir)
    assert metadata["input"]["size"] == 32
    assert metadata["crop"].items() >= {"box": "rectangle", **config.data.crop.to_dict()}.items()
    assert len(metadata["crop"]["margins"]) == 4
    assert [part["indices"] for part in metadata["landmarks"]["parts"]] == [
        list(part.indices) for part in landmarks.PARTS
    ]
    assert metadata["evaluation"] == json.loads((workdir / "evaluation.json").read_text())
    assert metadata["training"]["head"] == {"name": "regression", "visibility": 0.0}
    assert list(metadata["outputs"]) == ["landmarks"]
    for folder in (workdir, config.data.root):
        assert str(folder) not in json.dumps(metadata)
    for name in ("landmarks.onnx", "landmarks_fp16.onnx"):
        model = onnx.load(workdir / "export" / name)
        assert {prop.key: json.loads(prop.value) for prop in model.metadata_props} == metadata
    page = json.loads((workdir / "export/browser/model.json").read_text())
    assert page.pop("detector")["sides"] == [640, 320]
    assert page == metadata


WITHOUT_THE_PACKAGE = """
import sys
for name in ("flm_jax", "flax", "cv2", "onnx", "onnxruntime", "ml_collections"):
    sys.modules[name] = None  # not to be imported
import jax, numpy
from jax import export
with open(sys.argv[1], "rb") as file:
    network = export.deserialize(bytearray(file.read()))
for count in (1, 20):
    images = numpy.load(sys.argv[2])[:count]
    found = network.call(images)["landmarks"]
    assert found.shape == (count, 98, 2), found.shape
numpy.save(sys.argv[3], found)
"""


def test_landmarks_jax_runs_without_this_package(exported, tmp_path):
    workdir, _, images, points = exported
    np.save(tmp_path / "images.npy", images)
    arguments = [workdir / "export/landmarks.jax", tmp_path / "images.npy", tmp_path / "found.npy"]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), points, atol=1e-3)


def test_further_outputs_and_bfloat16_are_exported_in_single_precision(
    faces_root, tmp_path, capsys
):
    config = make_config(faces_root)
    config.loss = {"name": "laplace", "reference_size": 224}
    config.model.head.name = "laplace"
    config.model.dtype, config.data.box = "bfloat16", "landmarks"
    save_weights(config, tmp_path, head=40.0)  # so that bfloat16 would be seen
    export.run(config, tmp_path)
    metadata = read_metadata(tmp_path)
    assert metadata["outputs"]["scale"] == "f32[batch, 98]"
    assert metadata["crop"]["box"] == "landmarks"
    assert metadata["evaluation"] is None
    assert "no figures of step 0 there; --mode evaluate" in capsys.readouterr().out
    found = run_onnx(tmp_path / "export/landmarks.onnx", np.zeros((2, 32, 32, 3), np.float32))
    assert {name: values.shape for name, values in found.items()} == {
        "landmarks": (2, 98, 2),
        "scale": (2, 98),
    }
    difference = metadata["comparison"]["landmarks.onnx"]["max_difference"]
    assert difference["landmarks"] < 1e-3
    assert difference["scale"] < 1e-3


def test_without_the_data_drawn_faces_are_compared(unexported, capsys):
    workdir, config = unexported
    config.data.root = "elsewhere"
    export.run(config, workdir)
    assert read_metadata(workdir)["comparison"]["split"] == "drawn"
    assert "elsewhere: no faces there" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", "{}", "no", 100_000 * "["])
def test_strange_figures_cost_no_export(faces_root, tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    assert export._evaluation(make_config(faces_root), tmp_path, 0) is None


def test_figures_are_of_the_runs_that_are_averaged_and_name_no_folder(faces_root, tmp_path):
    config = make_config(faces_root)
    _, state = make_state(config)
    for run in ("a", "b"):
        save_state(tmp_path / run, config, state)
    averaged = change(config, "evaluate.average_with", (str(tmp_path / "b"),))
    evaluate.run(averaged, tmp_path / "a")
    figures = export._evaluation(averaged, tmp_path / "a", 0)
    assert figures["average_with"] == ["b"]
    assert str(tmp_path) not in json.dumps(figures)
    assert export._evaluation(config, tmp_path / "a", 0) is None


def test_nothing_is_written_where_a_file_differs(unexported, monkeypatch):
    workdir, config = unexported
    convert = export.onnx.convert

    def wrong(apply, variables, image_size):
        return convert(
            lambda *arguments: {"landmarks": apply(*arguments)["landmarks"] + 0.02},
            variables,
            image_size,
        )

    monkeypatch.setattr(export.onnx, "convert", wrong)
    with pytest.raises(AssertionError, match="landmarks.onnx differs from the network"):
        export.run(config, workdir)
    assert not (workdir / "export").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("modes.export", "export.networks", "export.onnx", "export.operations"):
        monkeypatch.delitem(sys.modules, f"flm_jax.{name}")
    for name in ("networks", "onnx"):
        monkeypatch.delattr(f"flm_jax.export.{name}")
    with pytest.raises(InputError, match=rf"needs the package {package}; pip install -e '.\[exp"):
        importlib.import_module("flm_jax.modes.export")


def test_images_that_cannot_be_read_are_left_out_of_the_comparison(faces_root, test_records):
    def network(images):
        return {"landmarks": np.zeros((len(images), 98, 2), np.float32)}

    config = make_config(faces_root)
    config.data.max_unreadable = 0.5
    records = [dataclasses.replace(test_records[0], image_path="/nowhere.jpg"), test_records[1]]
    export._compare(config, {"network": network}, records)
    config.data.max_unreadable = 0.0
    with pytest.raises(InputError, match="can't be read: No such file"):
        export._compare(config, {"network": network}, records)
