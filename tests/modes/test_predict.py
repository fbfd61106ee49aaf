"""`--mode predict`, LandmarkPredictor and the documented examples, with a tiny network."""

import json
import shutil

import numpy as np
import pytest
from support.launches import ROOT, launch
from support.networks import make_config, make_state, save_state

from flm_jax.config import build
from flm_jax.data import wflw
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.modes import evaluate, predict

EMPTY = np.zeros((5, 5, 3), np.uint8)


@pytest.fixture(scope="module")
def work(tmp_path_factory, faces_root, train_records):
    """A work folder whose network says the mean shape and some noise, evaluated, and its config."""
    workdir = tmp_path_factory.mktemp("work")
    config = make_config(faces_root)
    config.model.mean_shape = True
    config.data.box = "landmarks"
    given = build.starting_values(config, build.build_model(config), train_records)
    save_state(workdir, config, make_state(config, given=given)[1])
    evaluate.run(config, workdir)
    return workdir, config


@pytest.fixture(scope="module")
def loaded(work):
    return LandmarkPredictor.load(work[0])


@pytest.mark.parametrize("flip", [False, True])
def test_landmarks_of_given_boxes_are_those_of_evaluate(
    work, faces_root, test_records, tmp_path, flip
):
    workdir, config = work
    config = config.copy_and_resolve_references()
    config.predict.tta.flip = flip
    config.predict.overlays = flip
    images, boxes = faces_root / wflw.IMAGES, faces_root / wflw.TEST_LIST
    predict.run(config, workdir, input=str(images), boxes=str(boxes), output=str(tmp_path))
    entries = json.loads((tmp_path / "landmarks.json").read_text())
    names = [f"{images}/{record.image_name}" for record in test_records]
    assert [entry["image"] for entry in entries] == names
    faces = [face for entry in entries for face in entry["faces"]]
    assert [face["box"] for face in faces] == [record.box.tolist() for record in test_records]
    expected = np.load(workdir / "predictions.npz")["landmarks"]
    difference = np.abs(np.array([face["landmarks"] for face in faces]) - expected).max()
    assert 0.1 < difference < 100 if flip else difference < 1e-3
    assert len([*tmp_path.glob("overlays/**/*.jpg")]) == flip * len(set(names))


def test_an_rgb_image_is_as_good_as_its_file(work, loaded, test_records):
    assert loaded.box == "landmarks", "as it was trained"
    record = test_records[0]
    image = np.asarray(read_record_image(record)[..., ::-1])
    scored = np.append(record.box, 0.9).astype(np.float32)  # as a detector gives it
    np.testing.assert_array_equal(
        loaded(image, np.tile(scored, (4, 1)))[:1], loaded(image, record.box[None])
    )
    landmarks = loaded(image, record.box[None])
    assert landmarks.dtype == np.float32
    expected = np.load(work[0] / "predictions.npz")["landmarks"][:1]
    np.testing.assert_allclose(landmarks, expected, atol=1e-3)


def test_few_shapes_compile_whatever_the_number_of_faces(loaded, monkeypatch):
    shapes, network = set(), loaded._network
    monkeypatch.setattr(
        loaded, "_network", lambda images: (shapes.add(images.shape), network(images))[1]
    )
    image = np.zeros((50, 60, 3), np.uint8)
    for count in (0, 1, 3, 8, 9, 20, 31):
        boxes = np.tile(np.float32([5, 5, 40, 40]), (count, 1))
        assert loaded(image, boxes).shape == (count, 98, 2)
    assert len(shapes) <= 3


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.zeros((5, 5)), None, r"a uint8 array \[h, w, 3\] in RGB, not float64 \(5, 5\)"),
        (EMPTY, "face", "expected an array"),
        (EMPTY, np.zeros((4, 3), np.float32), r"expected an array \[n, 4\], not \[4, 3\]"),
        (EMPTY, np.float32([[1, 1, 1, 4]]), "has no area"),
        (EMPTY, np.float32([[9, 9, 12, 12]]), "outside of the image"),
    ],
)
def test_what_is_no_image_or_no_box_is_refused(loaded, image, boxes, message):
    call = LandmarkPredictor.__call__
    while hasattr(call, "__wrapped__"):  # The tests' check of shapes, which users do not have.
        call = call.__wrapped__
    with pytest.raises(InputError, match=message):
        call(loaded, image, boxes)


@pytest.mark.parametrize(
    ("detector", "arguments", "message"),
    [
        ("centerface", {}, "--mode predict needs --input"),
        ("centerface", {"input": "nowhere"}, "--input=nowhere: no such file"),
        ("centerface", {"input": "0", "boxes": "image"}, "found by the detector"),
        ("x", {"input": str(ROOT / "docs")}, "predict.detector=x: expected centerface"),
    ],
)
def test_a_wrong_command_is_refused_before_weights_are_loaded(
    tmp_path, faces_root, detector, arguments, message
):
    config = make_config(faces_root)
    config.predict.detector = detector
    with pytest.raises(InputError, match=message):
        predict.run(config, tmp_path, **arguments)


def test_the_command_reports_a_broken_image_by_its_exit_code(work, test_records, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(test_records[0].image_path, tmp_path / "in/a.jpg")
    (tmp_path / "in/b.jpg").write_bytes(b"")
    where = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--boxes=image")
    output = launch(f"--workdir={work[0]}", "--mode=predict", *where, code=1)
    assert "one image or box could not be used" in output
    assert len(json.loads((tmp_path / "out/landmarks.json").read_text())) == 1


def test_the_detector_is_that_of_the_config(faces_root, test_records, tmp_path, monkeypatch):
    def load(*given):
        raise InputError(f"asked for {given}")

    monkeypatch.setattr(predict, "load_detector", load)
    config = make_config(faces_root)
    config.predict.threshold, config.predict.side = 0.25, 960
    with pytest.raises(InputError, match=r"asked for \('centerface', 0.25, 960\)"):
        predict.run(config, tmp_path, input=test_records[0].image_path)
