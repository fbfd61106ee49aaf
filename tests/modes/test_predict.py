"""`--mode predict`, LandmarkPredictor and the README's examples, with a tiny network."""

import contextlib
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from support.launches import ROOT, run
from support.networks import make_config, make_state, save_state

from flm_jax import geometry
from flm_jax.config import build
from flm_jax.data import wflw
from flm_jax.data.images import read_record_image
from flm_jax.drawing import video
from flm_jax.errors import InputError
from flm_jax.inference import predictor
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.modes import evaluate, predict


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces_root, train_records):
    """A work folder whose network says the mean shape and some noise, and its config."""
    workdir = tmp_path_factory.mktemp("work")
    config = make_config(faces_root)
    config.model.mean_shape = True
    given = build.starting_values(config, build.build_model(config), train_records)
    save_state(workdir, config, make_state(config, given=given)[1])
    evaluate.run(config, workdir)
    return workdir, config


def changed(config, **settings):
    config = config.copy_and_resolve_references()
    config.predict.update(settings)
    return config


def predicted(trained, folder, **arguments):
    workdir, config = trained
    config = arguments.pop("config", config)
    predict.run(config, workdir, output=str(folder), **arguments)
    return json.loads((folder / "landmarks.json").read_text())


def landmarks_of(entries):
    return np.array([face["landmarks"] for entry in entries for face in entry["faces"]])


def write_picture(path, record, exif=None):
    image = Image.fromarray(read_record_image(record)[..., ::-1])
    options = {}
    if exif:
        options["exif"] = Image.Exif()
        options["exif"][274] = exif
    image.save(path, quality=95, **options)
    return image


@pytest.mark.parametrize("overlays", [False, True])
def test_landmarks_with_the_lists_boxes_are_those_of_evaluate(
    trained, faces_root, test_records, tmp_path, overlays
):
    images = str(faces_root / wflw.IMAGES)
    entries = predicted(
        trained,
        tmp_path,
        config=changed(trained[1], overlays=overlays),
        input=images,
        boxes=str(faces_root / wflw.TEST_LIST),
    )
    arrays = np.load(trained[0] / "predictions.npz")
    np.testing.assert_allclose(landmarks_of(entries), arrays["landmarks"], atol=1e-3)
    assert [entry["image"] for entry in entries] == [
        f"{images}/{record.image_name}" for record in test_records
    ]
    for entry, record in zip(entries, test_records, strict=True):
        (face,) = entry["faces"]
        assert face["box"] == record.box.tolist()
        assert face["score"] is None
        assert set(face["pose"]) == {"yaw", "pitch", "roll"}
    drawn = sorted(tmp_path.glob("overlays/**/*.jpg"))
    assert len(drawn) == overlays * len({record.image_name for record in test_records})
    assert (tmp_path / "landmarks.csv").read_text().count("\n") == 1 + len(test_records)


def test_gains_are_on_only_where_the_config_says_so(trained, faces_root, test_records, tmp_path):
    tta = {"two_pass": True, "flip": True, "extra_crops": 1, "box_noise": 0.05}
    config = changed(trained[1], tta=tta)
    where = {
        "input": str(faces_root / wflw.IMAGES),
        "boxes": str(faces_root / wflw.TEST_LIST),
    }
    entries = predicted(trained, tmp_path, config=config, **where)
    plain = np.load(trained[0] / "predictions.npz")["landmarks"]
    assert 0.1 < np.abs(landmarks_of(entries) - plain).max() < 100


def test_a_mirrored_look_sees_the_mirrored_face(trained, test_records):
    record = test_records[0]
    image = read_record_image(record)
    loaded = LandmarkPredictor.load(trained[0])
    plain, mirrored = (loaded.cut(image, record.box[None], mirror) for mirror in (False, True))
    # OpenCV interpolates at 32nds of a pixel, rounded the other way in the mirror.
    assert np.abs(mirrored.images - plain.images[:, :, ::-1]).mean() < 0.01
    corners = np.float32([[[0, 0], [31, 31]]])
    right, left = geometry.apply(mirrored.image_from_crop, corners)[0]
    np.testing.assert_allclose(
        geometry.apply(plain.image_from_crop, corners)[0, :, 0], [left[0], right[0]], atol=1e-3
    )


def test_what_was_done_before_a_signal_is_written(trained, test_records, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for i in range(70):
        write_picture(tmp_path / f"in/{i:02d}.jpg", test_records[0])
    monkeypatch.setattr(predict, "collect_signals", lambda: contextlib.nullcontext([2]))
    with pytest.raises(SystemExit, match="130"):
        predicted(trained, tmp_path / "out", input=str(tmp_path / "in"), boxes="image")
    assert len(json.loads((tmp_path / "out/landmarks.json").read_text())) == 8


def test_a_folder_is_searched_and_a_broken_file_is_skipped_and_told(
    trained, test_records, tmp_path, capsys
):
    (tmp_path / "in/deep").mkdir(parents=True)
    write_picture(tmp_path / "in/deep/a.jpg", test_records[0])
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    (tmp_path / "in/text.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="2 pictures or boxes could not be used, the first"):
        predicted(trained, tmp_path / "out", input=str(tmp_path / "in"), boxes="image")
    assert "text.png: not an image" in capsys.readouterr().out
    entries = json.loads((tmp_path / "out/landmarks.json").read_text())
    assert [entry["image"] for entry in entries] == [str(tmp_path / "in/deep/a.jpg")]
    assert (tmp_path / "out/overlays/deep/a.jpg").exists()


def test_the_whole_picture_can_be_the_face(trained, test_records, tmp_path):
    image = write_picture(tmp_path / "a.png", test_records[0])
    ((face,),) = (
        entry["faces"]
        for entry in predicted(
            trained, tmp_path / "out", input=str(tmp_path / "a.png"), boxes="image"
        )
    )
    assert face["box"] == [-0.5, -0.5, image.width - 0.5, image.height - 0.5]


def test_the_orientation_of_exif_is_honoured_except_with_given_boxes(
    trained, test_records, tmp_path
):
    image = write_picture(tmp_path / "a.jpg", test_records[0], exif=6)  # To be turned clockwise.
    entries = predicted(trained, tmp_path / "o1", input=str(tmp_path / "a.jpg"), boxes="image")
    assert entries[0]["faces"][0]["box"] == [-0.5, -0.5, image.height - 0.5, image.width - 0.5]
    shown = cv2.imread(str(tmp_path / "o1/overlays/a.jpg"))
    assert shown.shape[:2] == (image.width, image.height)
    (tmp_path / "boxes.txt").write_text("10 10 60 60 a.jpg\n")
    where = {"input": str(tmp_path), "boxes": str(tmp_path / "boxes.txt")}
    predicted(trained, tmp_path / "o2", **where)
    assert cv2.imread(str(tmp_path / "o2/overlays/a.jpg")).shape[:2] == (image.height, image.width)


def test_boxes_outside_and_missing_pictures_are_told_and_the_rest_is_done(
    trained, test_records, tmp_path, capsys
):
    write_picture(tmp_path / "a.jpg", test_records[0])
    boxes = {"a.jpg": [[9000, 9000, 9050, 9050], [10, 10, 60, 60]], "b.jpg": [[1, 1, 9, 9]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    with pytest.raises(InputError, match="2 pictures or boxes could not be used, the first"):
        predicted(
            trained, tmp_path / "out", input=str(tmp_path), boxes=str(tmp_path / "boxes.json")
        )
    told = capsys.readouterr().out
    assert "a.jpg: the box 9000 9000 9050 9050 lies outside of the picture of" in told
    assert "b.jpg: can't be read: No such file" in told
    (entry,) = json.loads((tmp_path / "out/landmarks.json").read_text())
    assert entry["faces"][0]["box"] == [10, 10, 60, 60]


@pytest.mark.parametrize("size", [(20_000, 12), (12, 20_000), (1, 1)])
def test_pictures_of_any_size_are_looked_at(trained, tmp_path, size):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*size, 3), np.uint8))
    assert predicted(trained, tmp_path / "o", input=str(tmp_path / "a.png"), boxes="image")
    (entry,) = predicted(trained, tmp_path / "out", input=str(tmp_path / "a.png"))
    assert entry["faces"] == []


def test_a_picture_that_opencv_can_not_crop_is_told(trained, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 40_000, 3), np.uint8))
    with pytest.raises(InputError, match="40000 x 2 px; reduce its longer side to 32766 px"):
        predicted(trained, tmp_path / "out", input=str(tmp_path / "a.png"), boxes="image")


def test_no_face_is_no_error_but_says_what_to_do(trained, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((200, 200, 3), 99, np.uint8))
    entries = predicted(trained, tmp_path / "out", input=str(tmp_path / "a.png"))
    assert entries == [{"image": str(tmp_path / "a.png"), "faces": []}]
    assert "no face found; --boxes image" in capsys.readouterr().out


def test_few_shapes_compile_whatever_the_number_of_faces(trained):
    loaded = LandmarkPredictor.load(trained[0])
    shapes, step = [], loaded._eval_step
    loaded._eval_step = lambda variables, batch: (
        shapes.append(batch["image"].shape), step(variables, batch)
    )[1]  # fmt: skip
    image = np.zeros((50, 60, 3), np.uint8)
    for count in (0, 1, 3, 8, 9, 20, 31):
        boxes = np.tile(np.float32([5, 5, 40, 40]), (count, 1))
        assert loaded(image, boxes).shape == (count, 98, 2)
    assert len(set(shapes)) <= 3


def test_a_video_is_followed_frame_by_frame(trained, tmp_path, capsys):
    video.draw_video(tmp_path / "a.avi", frames=6)
    entries = predicted(trained, tmp_path / "out", input=str(tmp_path / "a.avi"))
    assert [entry["frame"] for entry in entries] == list(range(6))
    assert entries[5]["time"] == 0.2
    assert all(len(entry["faces"]) == 1 for entry in entries)
    assert re.search(r"6 frames, \d+\.\d a second; the detector looked at", capsys.readouterr().out)
    capture = cv2.VideoCapture(str(tmp_path / "out/overlays/a.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 6


def test_a_video_that_ends_early_keeps_what_it_had(trained, tmp_path):
    video.draw_video(tmp_path / "a.avi", frames=12)
    content = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"b.avi: ends after \d of 12 frames; those are written"):
        predicted(trained, tmp_path / "out", input=str(tmp_path / "b.avi"))
    assert len(json.loads((tmp_path / "out/landmarks.json").read_text())) in range(2, 10)


def test_what_is_no_video_is_refused(trained, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"hello")
    with pytest.raises(InputError, match="a.mp4: can't be opened as a video"):
        predicted(trained, tmp_path / "out", input=str(tmp_path / "a.mp4"))


def test_a_picture_of_rgb_is_as_good_as_its_file(trained, test_records):
    record = test_records[0]
    image = np.asarray(read_record_image(record)[..., ::-1])
    landmarks = LandmarkPredictor.load(trained[0])(image, record.box[None])
    assert landmarks.dtype == np.float32
    expected = np.load(trained[0] / "predictions.npz")["landmarks"][:1]
    np.testing.assert_allclose(landmarks, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (
            np.zeros((5, 5)),
            None,
            r"expected a uint8 array \[h, w, 3\] in RGB, not float64 \(5, 5\)",
        ),
        (np.zeros((5, 5, 3), np.uint8), "face", "expected an array"),
        (np.zeros((5, 5, 3), np.uint8), np.float32([[1, 1, 1, 4]]), "has no area"),
        (np.zeros((5, 5, 3), np.uint8), np.float32([[9, 9, 12, 12]]), "outside of the picture"),
    ],
)
def test_what_is_no_picture_or_no_box_is_refused(trained, image, boxes, message):
    loaded = LandmarkPredictor.load(trained[0])
    with pytest.raises(InputError, match=message):
        unchecked(LandmarkPredictor.__call__)(loaded, image, boxes)


def unchecked(function):
    """Without the check of shapes that the tests add, which users do not have."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def command(workdir, *arguments):
    """The command line that fits the weights of `trained`."""
    settings = ["batch_size=8", "data.image_size=32", "model.mean_shape=True"]
    settings += ["model.backbone.width=4", "model.backbone.stage_sizes=(1,)"]
    flags = [f"--config.{setting}" for setting in settings]
    return run(f"--workdir={workdir}", "--mode=predict", *flags, *arguments)


def test_a_checkpoint_of_another_layout_is_refused(trained, test_records, tmp_path):
    """In a process of its own: Orbax leaves coroutines behind when a restore fails."""
    workdir, config = trained
    _, _, state = predictor.restore(workdir, "best", config)
    head = {name: values[..., : 2 * 68] for name, values in state.params["head"].items()}
    save_state(tmp_path / "w", config, state.replace(params=state.params | {"head": head}))
    write_picture(tmp_path / "a.jpg", test_records[0])
    code, output = command(tmp_path / "w", f"--input={tmp_path / 'a.jpg'}", "--boxes=image")
    assert code == 1
    assert f"error: {tmp_path / 'w' / 'checkpoints'}" in output
    assert "the checkpoint is of another network" in output
    assert "[4, 136]] -> ['float32', [4, 196]]" in output
    assert "Traceback" not in output


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there; train first"):
        LandmarkPredictor.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=predict"], "--mode predict needs --input"),
        (["--mode=predict", "--input=nowhere"], "--input=nowhere: no such file"),
        (["--input=a.jpg"], "--input is for --mode predict"),
        (["--mode=predict", "--input=0", "--boxes=image"], "found by the detector"),
        (["--mode=predict", "--input=.", "--config.predict.detector=x"], "expected centerface"),
    ],
)
def test_a_wrong_command_is_refused_with_one_message(tmp_path, arguments, message):
    code, output = run(f"--workdir={tmp_path}", *arguments)
    assert code == 1
    assert message in output
    assert "Traceback" not in output


def test_the_command_reports_a_broken_picture_by_its_exit_code(trained, test_records, tmp_path):
    (tmp_path / "in").mkdir()
    write_picture(tmp_path / "in/a.jpg", test_records[0])
    where = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--boxes=image"]
    assert command(trained[0], *where)[0] == 0
    (tmp_path / "in/b.jpg").write_bytes(b"")
    code, output = command(trained[0], *where)
    assert code == 1
    assert "one picture or box could not be used" in output
    assert "Traceback" not in output


def test_prediction_imports_neither_grain_nor_matplotlib():
    code = "import sys, flm_jax.modes.predict as _; print({'grain', 'matplotlib'} & {*sys.modules})"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr


def snippets():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "LandmarkPredictor" in block]


@pytest.mark.parametrize("number", range(3))
def test_the_readmes_examples_run(trained, test_records, tmp_path, monkeypatch, number):
    shutil.copytree(trained[0], tmp_path / "runs/demo")
    video.draw_video(tmp_path / "a.avi", frames=1)
    image = cv2.VideoCapture(str(tmp_path / "a.avi")).read()[1]
    cv2.imwrite(str(tmp_path / "face.jpg"), image)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippets()[number], names)
    landmarks = names["landmarks"]
    assert landmarks.shape == (1, 98, 2)
    box = geometry.bounding_box(landmarks[0])
    assert (box[:2] > 0).all()
    assert (box[2:] < image.shape[1::-1]).all()
    for path in ("pose.jpg", "filter.jpg"):
        if path in snippets()[number]:
            shown = cv2.imread(path)
            assert shown.shape == image.shape
            assert np.abs(shown.astype(int) - cv2.imread("face.jpg")).max() > 60
