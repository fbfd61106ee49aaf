import shutil

import numpy as np
import pytest
from support.networks import load_evaluation, make_config, make_state, save_state

from flm_jax import geometry, landmarks
from flm_jax.config import build, schema
from flm_jax.config.weights import load_weights, trained_config
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.evaluation.faces import predict_faces
from flm_jax.evaluation.report import format_table
from flm_jax.modes import evaluate

NO_WEIGHTS: dict = {}
PASSED = ("landmarks", "index", "mask", "image_from_crop")


def with_everything(config):
    config = config.copy_and_resolve_references()
    config.evaluate.boxes = ("rectangle", "landmarks")
    config.evaluate.tta.update({"two_pass": True, "flip": True, "extra_crops": 1})
    config.evaluate.box_robustness = True
    return config


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, faces_root):
    """A work folder with random weights, evaluated."""
    workdir = tmp_path_factory.mktemp("work")
    config = make_config(faces_root)
    save_state(workdir, config, make_state(config)[1])
    evaluate.run(config, workdir)
    return workdir, config


@pytest.fixture(scope="module")
def thorough(evaluated):
    """The same weights, evaluated with everything on, on the training faces."""
    workdir, config = evaluated
    config = with_everything(config)
    config.evaluate.split = "train"
    evaluate.run(config, workdir)
    return workdir, config


def test_every_face_of_the_list_is_there_once_in_order(evaluated, test_records):
    figures, arrays = load_evaluation(evaluated[0])
    assert figures["split"] == "test"
    assert figures["box"] == "rectangle"
    assert figures["num_faces"] == len(test_records)
    np.testing.assert_array_equal(arrays["line"], [record.line for record in test_records])
    assert list(arrays["image_name"]) == [record.image_name for record in test_records]
    np.testing.assert_array_equal(arrays["target"], [record.landmarks for record in test_records])
    assert arrays["landmarks"].dtype == arrays["nme"].dtype == np.float32


def test_figures_agree_with_ten_lines_of_numpy(evaluated, test_records):
    figures, arrays = load_evaluation(evaluated[0])
    attributes = np.stack([record.attributes for record in test_records])
    names = ["pose", "expression", "illumination", "makeup", "occlusion", "blur"]
    assert list(figures["subsets"]) == names
    everyone = np.ones(len(test_records), bool)
    for row, chosen in zip(
        [figures, *figures["subsets"].values()], [everyone, *attributes.T], strict=True
    ):
        prediction, target = arrays["landmarks"][chosen], arrays["target"][chosen]
        assert row["num_faces"] == len(target)
        if not len(target):
            assert row["nme"] is row["fr10"] is row["auc10"] is None
            continue
        eyes = np.sqrt(((target[:, 60] - target[:, 72]) ** 2).sum(-1))
        nme = np.sqrt(((prediction - target) ** 2).sum(-1)).mean(-1) / eyes
        np.testing.assert_allclose(arrays["nme"][chosen], nme, rtol=1e-5)
        assert row["nme"] == pytest.approx(100 * nme.mean(), rel=1e-6)
        assert row["fr10"] == pytest.approx(100 * (nme > 0.1).mean())
        assert row["auc10"] == pytest.approx(np.maximum(0, 1 - nme / 0.1).mean(), abs=1e-6)


def test_the_loss_is_wing_in_the_rectangles_crop(evaluated, test_records):
    figures, arrays = load_evaluation(evaluated[0])
    losses = []
    for record, prediction in zip(test_records, arrays["landmarks"], strict=True):
        width, height = record.box[2:] - record.box[:2] + 20
        error = np.abs(prediction - record.landmarks) * [224 / width, 224 / height]
        constant = 5 - 5 * np.log(1 + 5 / 0.5)
        losses.append(np.where(error < 5, 5 * np.log(1 + error / 0.5), error - constant).mean())
    assert figures["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_mean_shape_is_that_of_all_training_faces(evaluated, train_records, test_records):
    figures, _ = load_evaluation(evaluated[0])
    relative = [(r.landmarks - r.box[:2]) / (r.box[2:] - r.box[:2]) for r in train_records]
    shape = np.mean(relative, axis=0)
    guesses = np.stack([r.box[:2] + shape * (r.box[2:] - r.box[:2]) for r in test_records])
    truth = np.stack([record.landmarks for record in test_records])
    expected = 100 * metrics.nme(guesses, truth).mean()
    assert figures["nme_mean_shape"] == pytest.approx(expected, rel=1e-5)


def test_figures_do_not_depend_on_the_batch_size(evaluated, tmp_path):
    workdir, config = evaluated
    figures, _ = load_evaluation(workdir)
    config = config.copy_and_resolve_references()
    config.batch_size = 16
    other = tmp_path / "work"  # The rounding may: other tests expect that of the first.
    shutil.copytree(workdir, other)
    evaluate.run(config, other)
    again, _ = load_evaluation(other)
    assert again["nme"] == pytest.approx(figures["nme"], rel=1e-5)


def test_a_subset_list_has_files_and_figures_of_its_own(evaluated, test_records):
    workdir, config = evaluated
    whole = (workdir / "evaluation.json").read_bytes()
    config = config.copy_and_resolve_references()
    config.evaluate.split = "blur"
    evaluate.run(config, workdir)
    figures, arrays = load_evaluation(workdir, "_blur")
    expected = [record.line for record in test_records if record.attributes[5]]
    np.testing.assert_array_equal(arrays["line"], expected)
    assert figures["nme"] == pytest.approx(
        load_evaluation(workdir)[0]["subsets"]["blur"]["nme"], rel=1e-5
    )
    assert (workdir / "evaluation.json").read_bytes() == whole


def test_the_table_names_every_subset_and_the_mean_shape(evaluated):
    figures, _ = load_evaluation(evaluated[0])
    table = format_table(figures)
    for name in ("test, all", "pose", "blur", "NME %", "FR10 %", "AUC10", "loss"):
        assert name in table
    assert table.splitlines()[-1] == f"mean shape NME {figures['nme_mean_shape']:.2f} %"


def test_the_training_knows_all_that_is_not_given(evaluated):
    workdir, config = evaluated
    found = trained_config(workdir, {"evaluate.split": "blur", "evaluate.boxes": ("landmarks",)})
    assert found.evaluate.split == "blur"
    assert list(found.evaluate.boxes) == ["landmarks"]
    found.evaluate = config.evaluate
    assert schema.as_json(found) == schema.as_json(config)
    with pytest.raises(InputError, match=r"config.evaluate has unknown keys \['slpit'\]"):
        schema.check(trained_config(workdir, {"evaluate.slpit": "blur"}))


def test_a_key_that_is_new_since_the_training_has_its_default(evaluated, tmp_path, monkeypatch):
    workdir, config = evaluated
    base = schema.base_config

    def newer():
        found = base()
        found.evaluate.new = 3
        return found

    monkeypatch.setattr(schema, "base_config", newer)
    assert trained_config(workdir, {}).evaluate.new == 3
    schema.check_restart(schema.as_json(config), trained_config(workdir, {}), workdir)


def test_an_unknown_split_is_an_error(evaluated):
    workdir, config = evaluated
    config = config.copy_and_resolve_references()
    config.evaluate.split = "tset"
    with pytest.raises(InputError, match="evaluate.split=tset: expected one of train, validation"):
        evaluate.run(config, workdir)


def test_predictions_go_home_by_the_inverse_of_the_crop(test_records, faces_root):
    """A network that knows the answer in the crop gives the truth in the image."""
    config = make_config(faces_root)
    batches = list(build.evaluation_batches(config, test_records, box="rectangle"))

    def knows_the_answer(state, batch):
        loss = np.zeros(batch["mask"].shape, np.float32)
        return {name: batch[name] for name in PASSED} | {"loss": loss}

    found = predict_faces(knows_the_answer, NO_WEIGHTS, batches, len(test_records))
    truth = np.stack([record.landmarks for record in test_records])
    np.testing.assert_allclose(found.landmarks, truth, atol=1e-3)
    assert geometry.apply(batches[0]["image_from_crop"], batches[0]["landmarks"]).shape == (
        8,
        98,
        2,
    )


def test_a_face_that_comes_twice_or_never_is_noticed(test_records, faces_root):
    config = make_config(faces_root)
    batches = list(build.evaluation_batches(config, test_records, box="rectangle"))

    def echo(state, batch):
        return {name: batch[name] for name in PASSED} | {
            "loss": np.zeros(batch["mask"].shape, np.float32)
        }

    for wrong in (batches[:-1], batches + batches[:1]):
        with pytest.raises(AssertionError, match="counted other than once"):
            predict_faces(echo, NO_WEIGHTS, wrong, len(test_records))


GROUPS = {
    "contour": slice(0, 33),
    "brows": slice(33, 51),
    "nose": slice(51, 60),
    "eyes": slice(60, 76),
    "mouth": slice(76, 96),
    "pupils": slice(96, 98),
}


def assert_figures(row, prediction, target):
    """Ten lines of NumPy, to 1e-6."""
    prediction, target = prediction.astype(np.float64), target.astype(np.float64)
    eyes = np.hypot(*(target[:, 60] - target[:, 72]).T)
    points = np.hypot(*np.moveaxis(prediction - target, -1, 0)) / eyes[:, None]
    nme = points.mean(axis=1)
    assert row["nme"] == pytest.approx(100 * nme.mean(), rel=1e-6)
    assert row["fr10"] == pytest.approx(100 * np.count_nonzero(nme > 0.1) / len(nme), rel=1e-6)
    assert row["auc10"] == pytest.approx(np.where(nme < 0.1, 1 - nme / 0.1, 0).mean(), abs=1e-6)
    assert list(row["groups"]) == list(GROUPS)
    for group, part in GROUPS.items():
        assert row["groups"][group] == pytest.approx(100 * points[:, part].mean(), rel=1e-6)
    low, high = row["nme_interval"]
    assert low < row["nme"] < high
    # The bootstrap of a mean is close to its normal approximation.
    half = 196 * nme.std() / np.sqrt(len(nme))
    assert high - low == pytest.approx(2 * half, rel=0.25)


def test_every_protocols_figures_agree_with_numpy(thorough):
    figures, arrays = load_evaluation(thorough[0], "_train")
    assert_figures(figures, arrays["landmarks"], arrays["target"])
    assert list(figures["protocols"]) == ["rectangle", "landmarks"]
    for box, kinds in figures["protocols"].items():
        assert list(kinds) == ["plain", "tta"]
        for kind, row in kinds.items():
            assert_figures(row, arrays[f"landmarks_{box}_{kind}"], arrays["target"])
    assert figures["protocols"]["rectangle"]["plain"]["nme"] == figures["nme"]
    assert figures["tta"] == {"two_pass": True, "flip": True, "extra_crops": 1, "box_noise": 0.05}
    for name in ("ced", "worst", "predictions"):
        assert (thorough[0] / f"{name}_train.png").stat().st_size > 5000


def test_the_top_level_figures_do_not_depend_on_the_protocols(evaluated, tmp_path):
    workdir, config = tmp_path / "work", evaluated[1]
    shutil.copytree(evaluated[0], workdir)
    figures, _ = load_evaluation(workdir)
    assert figures["protocols"] == figures["box_robustness"] == {}
    evaluate.run(with_everything(config), workdir)
    again, arrays = load_evaluation(workdir)
    for key in ("nme", "fr10", "auc10", "loss", "subsets", "nme_mean_shape", "groups"):
        assert again[key] == figures[key]
    evaluate.run(config, workdir)
    np.testing.assert_array_equal(load_evaluation(workdir)[1]["landmarks"], arrays["landmarks"])


def test_the_landmarks_protocol_crops_around_the_true_points(thorough):
    """The network is the same, so its points in the crop land where the box of the truth is."""
    workdir, config = thorough
    config = config.copy_and_resolve_references()
    _, arrays = load_evaluation(workdir, "_train")
    splits = build.read_splits(config, workdir)
    batches = build.evaluation_batches(config, splits.training, box="landmarks")
    variables = load_weights(workdir, "best", config).variables
    eval_step = evaluate.pmap_eval_step(build.build_model(config), build.build_face_loss(config))
    found = predict_faces(eval_step, variables, batches, len(splits.training)).landmarks
    np.testing.assert_allclose(arrays["landmarks_landmarks_plain"], found, atol=1e-2)
    assert np.abs(found - arrays["landmarks"]).max() > 1


def test_a_mirrored_look_finds_the_faces_as_they_are(test_records, faces_root):
    """A network that knows the answer in the mirrored crop gives the truth in the image."""
    config = make_config(faces_root)
    batches = list(build.evaluation_batches(config, test_records, box="rectangle", flip=True))
    plain = next(build.evaluation_batches(config, test_records, box="rectangle"))
    # OpenCV interpolates at 32nds of a pixel, rounded the other way in the mirror.
    difference = np.abs(batches[0]["image"] - plain["image"][:, :, ::-1])
    assert difference.mean() < 0.005

    def knows_the_answer(state, batch):
        loss = np.zeros(batch["mask"].shape, np.float32)
        return {name: batch[name] for name in PASSED} | {"loss": loss}

    found = predict_faces(knows_the_answer, NO_WEIGHTS, batches, len(test_records)).landmarks
    truth = np.stack([record.landmarks for record in test_records])
    np.testing.assert_allclose(found[:, landmarks.MIRROR], truth, atol=1e-3)


def test_box_errors_grow_from_boxes_of_the_stated_size(thorough):
    figures, _ = load_evaluation(thorough[0], "_train")
    for row in figures["box_robustness"].values():
        assert list(row) == ["5", "10", "20"]
        assert all(np.isfinite(error) for error in row.values())
    shift = figures["box_robustness"]["shift"]
    # Untrained weights predict the same point of any crop, which goes where the box goes.
    assert figures["nme"] < shift["10"] < shift["20"]


def test_the_table_has_every_protocol_and_box_error(thorough):
    table = format_table(load_evaluation(thorough[0], "_train")[0])
    for name in (
        "box rectangle, tta",
        "box landmarks, plain",
        "off by a shift",
        "pupils",
        "95 %",
    ):
        assert name in table


def test_a_learned_scale_is_written_in_image_pixels(test_records, faces_root):
    config = make_config(faces_root)
    batches = list(build.evaluation_batches(config, test_records, box="rectangle"))

    def five_pixels(state, batch):
        return {name: batch[name] for name in PASSED} | {
            "loss": np.zeros(batch["mask"].shape, np.float32),
            "scale": np.full(batch["landmarks"].shape[:-1], 5, np.float32),
        }

    found = predict_faces(five_pixels, NO_WEIGHTS, batches, len(test_records), ("scale",))
    for record, scale in zip(test_records, found.outputs["scale"], strict=True):
        width, height = record.box[2:] - record.box[:2] + 20
        np.testing.assert_allclose(scale, 5 * np.sqrt(width * height) / 32, rtol=1e-5)
