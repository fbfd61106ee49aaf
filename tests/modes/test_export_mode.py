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
from support.networks import make_config, save_weights

from flm_jax import landmarks
from flm_jax.config import build
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.export import page
from flm_jax.modes import evaluate, export

ARTEFACTS = {"landmarks.onnx", "landmarks_fp16.onnx", "landmarks.jax", "landmarks.json", "browser"}


@pytest.fixture(autouse=True)
def _no_npm(monkeypatch, tmp_path):
    """Nothing is fetched here: tests/test_browser_page.py does that."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, faces_root):
    """The folder of an evaluated and exported network, its config, what was printed is not kept;
    and the network with its inputs and outputs for the test faces."""
    workdir = tmp_path_factory.mktemp("work")
    config = make_config(faces_root)
    model, variables = save_weights(config, workdir)
    evaluate.run(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(workdir))
        export.run(config, workdir)
    splits = build.read_splits(config, workdir)
    batches = list(build.evaluation_batches(config, splits.test, box="rectangle"))
    images = np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])
    points = np.asarray(model.apply(variables, jax.numpy.asarray(images), train=False))
    return workdir, config, images, points


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_all_artefacts_are_there(exported):
    assert {path.name for path in (exported[0] / "export").iterdir()} == ARTEFACTS


@pytest.mark.parametrize(("name", "tolerance"), [("", 1e-3), ("_fp16", 0.1)])
def test_onnx_finds_the_networks_points(exported, name, tolerance):
    workdir, _, images, points = exported
    (found,) = session(workdir / f"export/landmarks{name}.onnx").run(None, {"images": images})
    assert found.shape == (20, 98, 2)
    np.testing.assert_allclose(found, points, atol=tolerance)


def test_the_comparison_states_what_is_so(exported):
    workdir, _, images, points = exported
    metadata = json.loads((workdir / "export/landmarks.json").read_text())
    comparison = metadata["comparison"]
    assert comparison["split"] == "test"
    assert comparison["num_faces"] == 20
    figures = json.loads((workdir / "evaluation.json").read_text())
    for name in ("network", "landmarks.onnx", "landmarks.jax"):
        assert comparison[name]["nme"] == pytest.approx(figures["nme"], rel=1e-4)
        assert comparison[name]["most_px"] < 1e-3
    (half,) = session(workdir / "export/landmarks_fp16.onnx").run(None, {"images": images})
    row = comparison["landmarks_fp16.onnx"]
    assert row["most_px"] == pytest.approx(np.abs(half - points).max(), abs=1e-4)
    arrays = np.load(workdir / "predictions.npz")
    splits = build.read_splits(exported[1], workdir)
    sides = np.stack([record.box[2:] - record.box[:2] + 20 for record in splits.test])
    moved = (half - points) * sides[:, None] / 32
    assert row["most_image_px"] == pytest.approx(np.abs(moved).max(), rel=1e-2)
    nme = metrics.nme((arrays["landmarks"] + moved).astype(np.float32), arrays["target"])
    assert row["nme"] == pytest.approx(100 * nme.mean(), rel=1e-4)


@pytest.mark.parametrize("name", ["landmarks.onnx", "landmarks_fp16.onnx"])
def test_the_onnx_files_carry_the_metadata(exported, name):
    folder = exported[0] / "export"
    metadata = json.loads((folder / "landmarks.json").read_text())
    model = onnx.load(folder / name)
    carried = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert carried == metadata
    assert json.loads((folder / "browser/model.json").read_text()) == metadata


def test_the_metadata_say_how_to_use_the_network(exported):
    workdir, config, _, _ = exported
    text = (workdir / "export/landmarks.json").read_text()
    metadata = json.loads(text)
    assert metadata["input"]["size"] == 32
    assert metadata["crop"].items() >= {"box": "rectangle", **config.data.crop.to_dict()}.items()
    assert len(metadata["crop"]["margins"]) == 4
    assert [part["indices"] for part in metadata["landmarks"]["parts"]] == [
        list(part.indices) for part in landmarks.PARTS
    ]
    assert metadata["evaluation"] == json.loads((workdir / "evaluation.json").read_text())
    assert list(metadata["outputs"]) == ["landmarks"]
    assert str(workdir) not in text
    assert str(config.data.root) not in text


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


def test_a_process_without_this_package_runs_the_jax_artefact(exported, tmp_path):
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


def test_uncertainty_and_bfloat16_are_exported_in_single_precision(faces_root, tmp_path, capsys):
    config = make_config(faces_root)
    config.loss.update({"name": "laplace"})
    for key in ("width", "curvature"):
        del config.loss[key]
    config.model.update({"uncertainty": True, "dtype": "bfloat16"})
    save_weights(config, tmp_path, head=40.0)  # so that bfloat16 would be seen
    export.run(config, tmp_path)
    metadata = json.loads((tmp_path / "export/landmarks.json").read_text())
    assert list(metadata["outputs"]) == ["landmarks", "scale"]
    assert metadata["evaluation"] is None
    assert "no figures of step 0 there; --mode evaluate" in capsys.readouterr().out
    images = np.zeros((2, 32, 32, 3), np.float32)
    points, scale = session(tmp_path / "export/landmarks.onnx").run(None, {"images": images})
    assert points.shape == (2, 98, 2)
    assert scale.shape == (2, 98)
    assert metadata["comparison"]["landmarks.onnx"]["most_px"] < 1e-3


def test_without_the_data_drawn_faces_are_compared_on(exported, tmp_path, capsys):
    _, config, _, _ = exported
    config = config.copy_and_resolve_references()
    save_weights(config, tmp_path)
    config.data.root = "elsewhere"
    export.run(config, tmp_path)
    metadata = json.loads((tmp_path / "export/landmarks.json").read_text())
    assert metadata["comparison"]["split"] == "drawn"
    assert "elsewhere: no faces there" in capsys.readouterr().out


def test_nothing_is_written_where_an_artefact_differs(exported, tmp_path, monkeypatch):
    _, config, _, _ = exported
    save_weights(config, tmp_path)
    graph = export.onnx_graph.landmark_graph

    def wrong(variables, image_size, **settings):
        head = variables["params"]["head"]
        moved = {**head, "bias": head["bias"] + np.float32(0.2)}  # 0.03 px of the input
        return graph({"params": {**variables["params"], "head": moved}}, image_size, **settings)

    monkeypatch.setattr(export.onnx_graph, "landmark_graph", wrong)
    with pytest.raises(AssertionError, match="landmarks.onnx differs from the network"):
        export.run(config, tmp_path)
    assert not (tmp_path / "export").exists()


def test_weights_that_are_not_finite_are_refused(exported, tmp_path, monkeypatch):
    _, config, _, _ = exported
    save_weights(config, tmp_path)
    restore = export.restore

    def broken(*arguments):
        step, old, state = restore(*arguments)
        nans = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), state.params)
        return step, old, dataclasses.replace(state, params=nans)

    monkeypatch.setattr(export, "restore", broken)
    with pytest.raises(InputError, match="weights of step 0 predict no finite numbers"):
        export.run(config, tmp_path)
    assert not (tmp_path / "export").exists()


def test_a_checkpoint_of_another_layout_is_refused(exported):
    workdir, config, _, _ = exported
    config = config.copy_and_resolve_references()
    config.model.backbone.width = 8
    with pytest.raises(InputError, match=r"model.backbone.width: 4 -> 8"):
        export.run(config, workdir)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("flm_jax.modes.export", "flm_jax.export.onnx_graph"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("flm_jax.export.onnx_graph")
    with pytest.raises(InputError, match=rf"needs the package {package}; pip install -e '.\[exp"):
        importlib.import_module("flm_jax.modes.export")


def test_without_npm_the_rest_is_written(tmp_path):
    problem = page.write(tmp_path / "browser", b"a network", {"input": {}})
    assert "npm is not installed; install it and export again" in problem
    names = {path.name for path in (tmp_path / "browser").iterdir()}
    assert names >= {"index.html", "page.js", "worker.js", "crop.js", "style.css", "model.json"}
    assert (tmp_path / "browser/model.onnx").read_bytes() == b"a network"


def make_npm(folder, script):
    path = folder / "npm"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)


def test_an_npm_that_fails_is_quoted(tmp_path):
    make_npm(tmp_path, "import sys; sys.exit('ENOTFOUND the registry')")
    problem = page.write(tmp_path / "browser", b"", {})
    assert "failed (ENOTFOUND the registry); export again with a network" in problem
    assert not (tmp_path / "browser/vendor").exists()


def test_another_archive_than_the_pinned_one_is_not_unpacked(tmp_path):
    make_npm(tmp_path, "import pathlib, sys; pathlib.Path(sys.argv[-1], 'x.tgz').write_text('x')")
    problem = page.write(tmp_path / "browser", b"", {})
    assert "brought another file than is pinned" in problem
    assert not (tmp_path / "browser/vendor").exists()


def test_the_pinned_version_is_fetched_once(tmp_path):
    vendor = tmp_path / "browser/vendor"
    vendor.mkdir(parents=True)
    (vendor / "package.json").write_text(json.dumps({"version": page._VERSION}))
    assert page.write(tmp_path / "browser", b"", {}) is None
    (vendor / "package.json").write_text(json.dumps({"version": "0.1"}))
    assert "npm is not installed" in page.write(tmp_path / "browser", b"", {})
