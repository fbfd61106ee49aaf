import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from support.networks import change, load_evaluation, make_config, make_state, save_state

from flm_jax import landmarks
from flm_jax.config import build, schema
from flm_jax.config.weights import load_weights, trained_config
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.evaluation.faces import predict_faces
from flm_jax.evaluation.report import format_table
from flm_jax.modes import evaluate
from flm_jax.runtime.restore import SavedCheckpoints

TTA = {"two_pass": True, "flip": True, "extra_crops": 1, "box_noise": 0.05}
GROUPS = {
    "contour": slice(0, 33),
    "brows": slice(33, 51),
    "nose": slice(51, 60),
    "eyes": slice(60, 76),
    "mouth": slice(76, 96),
    "pupils": slice(96, 98),
}


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
    config = change(config, "evaluate.boxes", ("rectangle", "landmarks"))
    config.evaluate.tta.update(TTA)
    config.evaluate.box_robustness = True
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


def assert_figures(row, prediction, target):
    """Ten lines of NumPy, to 1e-6."""
    prediction, target = prediction.astype(np.float64), target.astype(np.float64)
    eyes = np.hypot(*(target[:, 60] - target[:, 72]).T)
    points = np.hypot(*np.moveaxis(prediction - target, -1, 0)) / eyes[:, None]
    nme = points.mean(axis=1)
    assert row["num_faces"] == len(nme)
    assert row["nme"] == pytest.approx(100 * nme.mean(), rel=1e-6)
    assert row["fr10"] == pytest.approx(100 * np.count_nonzero(nme > 0.1) / len(nme), rel=1e-6)
    assert row["auc10"] == pytest.approx(np.where(nme < 0.1, 1 - nme / 0.1, 0).mean(), abs=1e-6)
    if "groups" in row:
        assert list(row["groups"]) == list(GROUPS)
        for group, part in GROUPS.items():
            assert row["groups"][group] == pytest.approx(100 * points[:, part].mean(), rel=1e-6)
        low, high = row["nme_interval"]
        assert low < row["nme"] < high
        # The bootstrap of a mean is close to its normal approximation.
        half = 196 * nme.std() / np.sqrt(len(nme))
        assert high - low == pytest.approx(2 * half, rel=0.25)
    return nme


def test_the_figures_of_all_and_of_every_subset_agree_with_numpy(evaluated, test_records):
    figures, arrays = load_evaluation(evaluated[0])
    nme = assert_figures(figures, arrays["landmarks"], arrays["target"])
    np.testing.assert_allclose(arrays["nme"], nme, rtol=1e-5)
    names = ["pose", "expression", "illumination", "makeup", "occlusion", "blur"]
    assert list(figures["subsets"]) == names
    attributes = np.stack([record.attributes for record in test_records])
    for row, chosen in zip(figures["subsets"].values(), attributes.T, strict=True):
        if chosen.any():
            assert_figures(row, arrays["landmarks"][chosen], arrays["target"][chosen])
        else:
            assert row["nme"] is row["fr10"] is row["auc10"] is None


def test_the_figures_of_every_protocol_agree_with_numpy(thorough):
    figures, arrays = load_evaluation(thorough[0], "_train")
    assert_figures(figures, arrays["landmarks"], arrays["target"])
    assert list(figures["protocols"]) == ["rectangle", "landmarks"]
    for box, kinds in figures["protocols"].items():
        assert list(kinds) == ["plain", "tta"]
        for kind, row in kinds.items():
            assert_figures(row, arrays[f"landmarks_{box}_{kind}"], arrays["target"])
    assert figures["protocols"]["rectangle"]["plain"]["nme"] == figures["nme"]
    assert figures["tta"] == TTA
    for name in ("ced", "worst", "predictions"):
        assert (thorough[0] / f"{name}_train.png").stat().st_size > 5000


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


def test_figures_do_not_depend_on_the_batch_size_nor_on_other_protocols(thorough, tmp_path):
    workdir, config = thorough
    figures, _ = load_evaluation(workdir, "_train")
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    config = change(make_config(config.data.root), "evaluate.split", "train")
    for batch_size, rel in ((8, 0), (15, 1e-5)):  # Two devices make 16 of 15.
        evaluate.run(change(config, "batch_size", batch_size), tmp_path)
        again, _ = load_evaluation(tmp_path, "_train")
        assert again["protocols"] == again["box_robustness"] == {}
        for key in ("nme", "fr10", "auc10", "loss", "nme_mean_shape", "groups"):
            assert again[key] == pytest.approx(figures[key], rel=rel, abs=0)


def test_unreadable_images_up_to_a_share_are_left_out(evaluated, faces_root, tmp_path, capsys):
    workdir, config = evaluated
    config = config.copy_and_resolve_references()
    config.data.root, config.data.max_unreadable = str(tmp_path / "faces"), 0.5
    shutil.copytree(faces_root, config.data.root)
    shutil.copytree(workdir, tmp_path / "work")
    records = build.read_splits(config, workdir).test
    pathlib.Path(records[1].image_path).write_bytes(b"")
    evaluate.run(config, tmp_path / "work")
    figures, arrays = load_evaluation(tmp_path / "work")
    _, expected = load_evaluation(workdir)
    kept = [i for i, each in enumerate(records) if each.image_name != records[1].image_name]
    assert list(arrays["line"]) == [records[i].line for i in kept]
    assert figures["num_faces"] == len(kept) == len(records) - figures["num_unreadable"]
    np.testing.assert_allclose(arrays["nme"], expected["nme"][kept], rtol=1e-5)
    assert "test faces can't be read" in capsys.readouterr().out


def test_a_subset_list_has_files_and_figures_of_its_own(evaluated, test_records):
    workdir, config = evaluated
    whole = (workdir / "evaluation.json").read_bytes()
    evaluate.run(change(config, "evaluate.split", "blur"), workdir)
    figures, arrays = load_evaluation(workdir, "_blur")
    expected = [record.line for record in test_records if record.attributes[5]]
    np.testing.assert_array_equal(arrays["line"], expected)
    subset = load_evaluation(workdir)[0]["subsets"]["blur"]
    assert figures["nme"] == pytest.approx(subset["nme"], rel=1e-5)
    assert (workdir / "evaluation.json").read_bytes() == whole


def test_an_unknown_split_is_an_error(evaluated):
    workdir, config = evaluated
    with pytest.raises(InputError, match="evaluate.split=tset: expected one of train, validation"):
        evaluate.run(change(config, "evaluate.split", "tset"), workdir)


def test_the_table_has_every_subset_protocol_and_box_error(thorough):
    figures, _ = load_evaluation(thorough[0], "_train")
    table = format_table(figures)
    for names in (
        ("train, all", "pose", "blur", "NME %", "FR10 %", "AUC10", "loss", "pupils", "95 %"),
        ("box rectangle, tta", "box landmarks, plain", "off by a shift"),
    ):
        assert all(name in table for name in names)
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


def test_a_key_that_is_new_since_the_training_has_its_default(evaluated, monkeypatch):
    workdir, config = evaluated
    base = schema.base_config

    def newer():
        found = base()
        found.evaluate.new = 3
        return found

    monkeypatch.setattr(schema, "base_config", newer)
    assert trained_config(workdir, {}).evaluate.new == 3
    schema.check_restart(schema.as_json(config), trained_config(workdir, {}), workdir)


def knows_the_answer(variables, batch):
    """A network that knows the answer in the crop, and says that it is 5 px wrong."""
    passed = ("landmarks", "index", "mask", "image_from_crop")
    return {name: batch[name] for name in passed} | {
        "loss": np.zeros(batch["mask"].shape, np.float32),
        "scale": np.full(batch["landmarks"].shape[:-1], 5, np.float32),
    }


def predict(faces_root, records, batches=None, **settings):
    """What such a network gives in image pixels, and the batches."""
    given: dict = {}
    if batches is None:
        config = make_config(faces_root)
        batches = list(build.evaluation_batches(config, records, box="rectangle", **settings))
    return predict_faces(knows_the_answer, given, batches, len(records), ("scale",)), batches


def test_predictions_go_home_by_the_inverse_of_the_crop_also_of_a_mirrored_one(
    test_records, faces_root
):
    truth = np.stack([record.landmarks for record in test_records])
    found, plain = predict(faces_root, test_records)
    np.testing.assert_allclose(found.landmarks, truth, atol=1e-3)
    for record, scale in zip(test_records, found.outputs["scale"], strict=True):
        width, height = record.box[2:] - record.box[:2] + 20
        np.testing.assert_allclose(scale, 5 * np.sqrt(width * height) / 32, rtol=1e-5)
    found, mirrored = predict(faces_root, test_records, flip=True)
    np.testing.assert_allclose(found.landmarks[:, landmarks.MIRROR], truth, atol=1e-3)
    # OpenCV interpolates at 32nds of a pixel, rounded the other way in the mirror.
    difference = np.abs(mirrored[0]["image"] - plain[0]["image"][:, :, ::-1])
    assert difference.mean() < 0.005


def test_a_face_that_comes_twice_or_never_is_noticed(test_records, faces_root):
    _, batches = predict(faces_root, test_records)
    for wrong in (batches[:-1], batches + batches[:1]):
        with pytest.raises(AssertionError, match="counted other than once"):
            predict(faces_root, test_records, wrong)


def test_the_landmarks_protocol_crops_around_the_true_points(thorough):
    """The network is the same, so its points in the crop land where the box of the truth is."""
    workdir, config = thorough
    _, arrays = load_evaluation(workdir, "_train")
    records = build.read_splits(config, workdir).training
    batches = build.evaluation_batches(config, records, box="landmarks")
    model = build.build_model(config, folded=True)
    variables = model.fold_batch_norm(load_weights(workdir, "best", config).variables)
    eval_step = evaluate.pmap_eval_step(model, build.build_face_loss(config))
    found = predict_faces(eval_step, variables, batches, len(records)).landmarks
    np.testing.assert_allclose(arrays["landmarks_landmarks_plain"], found, atol=1e-2)
    assert np.abs(found - arrays["landmarks"]).max() > 1


def test_box_errors_grow_from_boxes_of_the_stated_size(thorough):
    figures, _ = load_evaluation(thorough[0], "_train")
    for row in figures["box_robustness"].values():
        assert list(row) == ["5", "10", "20"]
        assert all(np.isfinite(error) for error in row.values())
    shift = figures["box_robustness"]["shift"]
    # Untrained weights predict the same point of any crop, which goes where the box goes.
    assert figures["nme"] < shift["10"] < shift["20"]


def test_a_checkpoint_that_a_training_replaces_meanwhile_is_done_without(
    faces_root, tmp_path, monkeypatch
):
    config = make_config(faces_root)
    _, state = make_state(config)
    save_state(tmp_path, config, state)
    restore = SavedCheckpoints.restore_weights

    def replaced(checkpoints, step, *arguments):
        if step == 0:
            save_state(tmp_path, config, dataclasses.replace(state, step=state.step + 7))
            shutil.rmtree(tmp_path / "checkpoints" / "0", ignore_errors=True)
        return restore(checkpoints, step, *arguments)

    monkeypatch.setattr(SavedCheckpoints, "restore_weights", replaced)
    assert load_weights(tmp_path, "best").step == 7
    assert load_weights(tmp_path, "last").step == 7


def test_weights_are_the_mean_of_all_runs_that_are_to_be_averaged(faces_root, tmp_path):
    config = make_config(faces_root)
    _, state = make_state(config)
    for i, run in enumerate(("a", "b", "c")):
        scaled = jax.tree.map(lambda array, i=i: array * (1 + i), state.variables)
        save_state(tmp_path / run, config, dataclasses.replace(state, **scaled))
    others = (str(tmp_path / "b"), str(tmp_path / "c"))
    averaged = change(config, "evaluate.average_with", others)
    found = load_weights(tmp_path / "a", "best", averaged).variables
    jax.tree.map(
        lambda array, start: np.testing.assert_allclose(array, 2 * start, rtol=1e-6),
        found,
        state.variables,
    )


def test_a_run_of_another_network_is_not_averaged(faces_root, tmp_path):
    config = make_config(faces_root)
    other = change(config, "data.image_size", 48)
    for run, trained in (("a", config), ("b", other)):
        save_state(tmp_path / run, trained, make_state(trained)[1])
    averaged = change(config, "evaluate.average_with", (str(tmp_path / "b"),))
    with pytest.raises(InputError, match=r"average_with=.*b was trained with another"):
        load_weights(tmp_path / "a", "best", averaged)
