"""Prediction of files, with a network that sees the same face everywhere."""

import contextlib
import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

import cv2
import numpy as np
import pytest
from PIL import Image
from support.heads import drawn_landmarks

from flm_jax import geometry
from flm_jax.__main__ import main
from flm_jax.data.wflw import RECTANGLE_MARGINS
from flm_jax.drawing import video
from flm_jax.errors import InputError
from flm_jax.inference import pipeline
from flm_jax.inference.detector import Detections
from flm_jax.inference.predictor import LandmarkPredictor
from flm_jax.inference.video import frame_time
from flm_jax.landmarks import MIRROR

OFF = {"two_pass": False, "flip": False, "extra_crops": 0, "box_noise": 0.05}
SIDE = 16


def face_in_a_crop():
    points, _ = drawn_landmarks(np.random.default_rng(0), yaw=20.0)
    box = geometry.add_margins(geometry.bounding_box(points), np.array(RECTANGLE_MARGINS))
    return geometry.apply(geometry.crop_from_image(box, SIDE), points).astype(np.float32)


POINTS = face_in_a_crop()


def same_face(images):
    """Finds the same points in every crop, flipped or not."""
    count = len(images)
    return {"landmarks": np.tile(POINTS, (count, 1, 1)), "scale": np.full((count, 98), 0.5)}


@pytest.fixture
def predictor():
    settings = {"image_size": SIDE, "crop": {"margin": 0.0}, "batch_size": 4}
    return LandmarkPredictor(same_face, pixel_outputs=("scale",), **settings)


def no_face(image):
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def one_face(image):
    return Detections(np.float32([[140, 80, 340, 280]]), np.float32([0.9]))


def predict(predictor, source, folder, *, boxes="image", detect=None, tta=OFF, overlays=True):
    job = pipeline.plan(str(source), folder, boxes=str(boxes), overlays=overlays)
    pipeline.run(job, predictor, detect, tta=tta, smoothing={"cutoff": 1.0, "beta": 1.0})
    return read(folder)


def read(folder):
    return json.loads((folder / "landmarks.json").read_text())


def write(path, size=(30, 40), exif=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    tags[274] = exif
    Image.new("RGB", size, "white").save(path, exif=tags)
    return path


def box_file(tmp_path, boxes):
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path / "boxes.json"


def test_unreadable_images_are_reported_and_the_rest_is_written(predictor, tmp_path, capsys):
    write(tmp_path / "in/deep/a.jpg")
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    (tmp_path / "in/text.png").write_bytes(b"hello")
    write(tmp_path / "in/wide.png", (40_000, 2))
    with pytest.raises(InputError, match="3 images or boxes could not be used, the first"):
        predict(predictor, tmp_path / "in", tmp_path / "out")
    told = capsys.readouterr().out
    assert "text.png: " in told
    assert "40000 x 2 px" in told
    (entry,) = read(tmp_path / "out")
    assert entry["image"] == str(tmp_path / "in/deep/a.jpg")
    assert entry["faces"][0]["box"] == [-0.5, -0.5, 29.5, 39.5]
    assert (tmp_path / "out/overlays/deep/a.jpg").exists()
    assert (tmp_path / "out/landmarks.csv").read_text().count("\n") == 2


def test_exif_orientation_is_honoured_except_with_given_boxes(predictor, tmp_path):
    path = write(tmp_path / "a.jpg", exif=6)
    (entry,) = predict(predictor, path, tmp_path / "out")
    assert entry["faces"][0]["box"] == [-0.5, -0.5, 39.5, 29.5]
    assert cv2.imread(str(tmp_path / "out/overlays/a.jpg")).shape[:2] == (30, 40)
    boxes = box_file(tmp_path, {"a.jpg": [[1, 1, 20, 20]]})
    predict(predictor, tmp_path, tmp_path / "out", boxes=boxes)
    assert cv2.imread(str(tmp_path / "out/overlays/a.jpg")).shape[:2] == (40, 30)


def test_boxes_of_a_detector_are_of_upright_images_and_others_are_told_of(
    predictor, tmp_path, capsys
):
    path = write(tmp_path / "a.jpg", (320, 240), exif=6)
    found = predict(predictor, path, tmp_path / "out", boxes="", detect=one_face)
    shutil.copy(tmp_path / "out/landmarks.json", tmp_path / "boxes.json")
    given = predict(predictor, path, tmp_path / "out", boxes=tmp_path / "boxes.json")
    assert given[0]["faces"][0]["landmarks"] == found[0]["faces"][0]["landmarks"]
    assert cv2.imread(str(tmp_path / "out/overlays/a.jpg")).shape[:2] == (320, 240)
    assert "EXIF" not in capsys.readouterr().out
    predict(predictor, path, tmp_path / "out", boxes=box_file(tmp_path, {"": [[1, 1, 9, 9]]}))
    assert "a.jpg: is not turned as its EXIF orientation says" in capsys.readouterr().out


def test_an_overlay_that_cannot_be_written_costs_no_points(predictor, tmp_path, capsys):
    long = 250 * "x" + ".jpg"
    write(tmp_path / "in" / long)
    write(tmp_path / "in/deep/a.jpg")
    write(tmp_path / "in/z.jpg")
    (tmp_path / "out/overlays").mkdir(parents=True)
    (tmp_path / "out/overlays/deep").write_text("a file")
    with pytest.raises(InputError, match="one image or box could not be used"):
        predict(predictor, tmp_path / "in", tmp_path / "out")
    assert len(read(tmp_path / "out")) == 3
    assert sorted(os.listdir(tmp_path / "out/overlays")) == ["deep", long, "z.jpg"]
    assert "deep/a.jpg: " in (told := capsys.readouterr().out)
    assert "overlays/deep/a.jpg can't be written: " in told


def test_what_cannot_be_written_is_told_before_the_work(predictor, tmp_path, monkeypatch):
    path = write(tmp_path / "a.png")
    (tmp_path / "out/landmarks.csv").mkdir(parents=True)
    with pytest.raises(InputError, match="landmarks.csv: is a folder and would be a file"):
        pipeline.plan(str(path), tmp_path / "out")

    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(pipeline, "predict_images", None)
    with pytest.raises(InputError, match="--output=.*: can't be written: .*Read-only"):
        predict(predictor, path, tmp_path)


def test_given_boxes_keep_their_order_and_unusable_ones_are_reported(predictor, tmp_path, capsys):
    write(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg")
    good = [[1, 1, 20, 20], [-9e5, 3, 33, 9e5]]
    bad = [[50, 50, 60, 60], [0, 0, 1e9, 1e9], [-1e30, 0, 9, 9], [0, 0, 1e308, 1e308]]
    bad.append([1e5, 0, 1e5 + 1e-9, 9])
    pairs = [("a.jpg", good[0]), ("missing.jpg", good[0]), ("b.jpg", good[0]), ("a.jpg", good[1])]
    pairs += [("b.jpg", box) for box in bad]
    boxes = [{"image": name, "faces": [{"box": box}]} for name, box in pairs]
    with pytest.raises(InputError, match="6 images or boxes could not be used, the first"):
        predict(predictor, tmp_path, tmp_path / "out", boxes=box_file(tmp_path, boxes))
    found = [
        (os.path.basename(entry["image"]), entry["faces"][0]) for entry in read(tmp_path / "out")
    ]
    expected = [("a.jpg", good[0]), ("b.jpg", good[0]), ("a.jpg", good[1])]
    assert [(name, face["box"]) for name, face in found] == expected
    assert {face["score"] for _, face in found} == {None}
    told = capsys.readouterr().out
    assert "b.jpg: the box 50 50 60 60 lies outside of the image of 30 x 40 px" in told
    assert "missing.jpg: can't be read" in told


def test_images_of_any_shape_are_taken_and_may_have_no_face(predictor, tmp_path, capsys):
    for i, size in enumerate([(20_000, 12), (12, 20_000), (1, 1)]):
        write(tmp_path / f"in/{i}.png", size)
    assert len(predict(predictor, tmp_path / "in", tmp_path / "out")) == 3
    write(tmp_path / "a.png", (17_000, 2)).rename(tmp_path / "a.webp")
    with pytest.raises(InputError, match="too large to be drawn as .webp"):
        predict(predictor, tmp_path / "a.webp", tmp_path / "out")
    assert len(read(tmp_path / "out")) == 1
    (entry,) = predict(predictor, tmp_path / "in/0.png", tmp_path / "out", boxes="", detect=no_face)
    assert entry["faces"] == []
    assert "no face found; --boxes image" in capsys.readouterr().out


def test_where_no_face_is_found_it_is_said_how_to_find_more(predictor, clip, tmp_path, capsys):
    for source in (write(tmp_path / "a.png"), clip):
        predict(predictor, source, tmp_path / "out", boxes="", detect=no_face)
        told = capsys.readouterr().out
        assert f"{source}: no face found; " in told
        assert "a larger --side in pixels (or predict.side) smaller ones" in told


def test_small_faces_are_told_of_once_at_the_end(predictor, tmp_path, capsys):
    sides = {(30, 40): 0, (50, 60): 1280, (70, 80): 1920}
    for i, size in enumerate(sides):
        write(tmp_path / f"in/{i}.png", size)

    def detect(image):
        return one_face(image)._replace(finer=sides[image.shape[1::-1]])

    predict(predictor, tmp_path / "in", tmp_path / "out", boxes="", detect=detect)
    told = capsys.readouterr().out
    assert told.count("so small") == 1
    assert "2 of 3 images have faces so small that others may be missed; a side of 1920" in told
    predict(predictor, tmp_path / "in/0.png", tmp_path / "out", boxes="", detect=detect)
    assert "so small" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["webp", "png", "tiff", "gif"])
def test_of_several_images_in_a_file_the_first_is_used(predictor, tmp_path, capsys, suffix):
    first, second = (Image.new("RGB", (30, 40), shade) for shade in ("white", "black"))
    path = tmp_path / f"in/a.{suffix}"
    write(tmp_path / f"in/one.{suffix}")
    first.save(path, save_all=True, append_images=[second])
    assert len(predict(predictor, tmp_path / "in", tmp_path)) == 2
    told = capsys.readouterr().out
    assert f"{path}: holds 2 images; only the first is used" in told
    assert told.count("holds") == 1


def test_file_names_need_not_be_utf8(predictor, tmp_path, capsys):
    good, broken = (os.fsdecode(name) for name in (b"\xff.png", b"\xfe.png"))
    write(tmp_path / "in" / good)
    (tmp_path / "in" / broken).write_bytes(b"hello")
    with pytest.raises(InputError, match="one image or box could not be used"):
        predict(predictor, tmp_path / "in", tmp_path / "out")
    assert "udcfe.png: not a" in capsys.readouterr().out
    (entry,) = read(tmp_path / "out")
    assert entry["image"].endswith(good)
    assert b"\xff.png" in (tmp_path / "out/landmarks.csv").read_bytes()


def test_a_file_name_tells_the_terminal_nothing(predictor, tmp_path, capsys):
    write(tmp_path / "in/Zoé.png")
    (tmp_path / "in/a\r\n\x1b[2J.png").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"a\\r\\n\\x1b\[2J.png: not an image") as error:
        predict(predictor, tmp_path / "in", tmp_path / "Zoé")
    lines = [str(error.value), *capsys.readouterr().out.splitlines()]
    assert all(line.isprintable() for line in lines)
    assert any("Zoé/landmarks.json: 1 faces" in line for line in lines)


def test_two_passes_and_flips_are_averaged_in_image_pixels(predictor, tmp_path):
    write(tmp_path / "in/a.png", (SIDE, SIDE))
    write(tmp_path / "in/b.png", (2 * SIDE, 2 * SIDE))
    plain, flipped, twice = (
        [
            entry["faces"][0]
            for entry in predict(predictor, tmp_path / "in", tmp_path / "out", tta=OFF | tta)
        ]
        for tta in ({}, {"flip": True}, {"two_pass": True, "extra_crops": 1})
    )
    np.testing.assert_allclose(plain[0]["landmarks"], POINTS, atol=1e-3)
    mirrored = np.array([SIDE - 1, 0]) + [-1, 1] * POINTS[MIRROR]
    expected = (POINTS + mirrored) / 2
    np.testing.assert_allclose(flipped[0]["landmarks"], expected, atol=1e-3)
    np.testing.assert_allclose(flipped[1]["landmarks"], 2 * expected + 0.5, atol=1e-3)
    assert [face["scale"][0] for face in flipped] == [0.5, 1.0]
    assert 0 < np.abs(np.subtract(twice[0]["landmarks"], plain[0]["landmarks"])).max() < SIDE


def test_what_was_done_before_a_signal_is_written(predictor, tmp_path, monkeypatch):
    for i in range(30):
        write(tmp_path / f"in/{i:02d}.png", (4, 4))
    monkeypatch.setattr(pipeline, "collect_signals", lambda: contextlib.nullcontext([2]))
    with pytest.raises(SystemExit, match="130"):
        predict(predictor, tmp_path / "in", tmp_path / "out")
    assert len(read(tmp_path / "out")) == predictor.batch_size


@pytest.mark.parametrize(
    ("source", "boxes"),
    [
        ("out/overlays/a.png", "image"),
        ("link/overlays/a.png", "image"),
        ("out/overlays/a.mp4", ""),
        ("out/overlays", "boxes.json"),
        ("out/overlays", "out/landmarks.json"),
    ],
)
def test_the_input_is_never_overwritten(tmp_path, monkeypatch, source, boxes):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "out/overlays/a.png")
    (tmp_path / "out/overlays/a.mp4").touch()
    (tmp_path / "link").symlink_to("out")
    box_file(tmp_path, {"a.png": [[1, 1, 9, 9]]})
    shutil.copy("boxes.json", "out/landmarks.json")
    with pytest.raises(InputError, match="is read and would be overwritten; choose another --out"):
        pipeline.plan(source, tmp_path / "out", boxes=boxes)


def test_an_input_is_not_overwritten_through_a_link_to_its_folder(tmp_path):
    path = write(tmp_path / "out/overlays/a.png")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(InputError, match="is read and would be overwritten"):
        pipeline.plan(str(path), tmp_path / "link", boxes="image")


def test_a_network_is_not_overwritten(tmp_path):
    given = [str(write(tmp_path / "a.png")), "--boxes=image", f"--output={tmp_path}"]
    (tmp_path / "landmarks.csv").write_text("a network")
    for flag in ("network", "detector"):
        with pytest.raises(SystemExit, match="landmarks.csv: is read and would be overwritten"):
            main([*given, f"--{flag}={tmp_path}/landmarks.csv"])
    assert (tmp_path / "landmarks.csv").read_text() == "a network"


def test_no_two_overlays_share_a_name(tmp_path):
    names = ["a.jpg", "A.JPG", "a", "a.png", "x/a.jpg", "b.txt"]
    boxes = box_file(tmp_path, {name: [[1, 1, 9, 9]] for name in names})
    job = pipeline.plan(str(tmp_path), tmp_path / "out", boxes=str(boxes))
    found = [str(source.overlay.relative_to(tmp_path / "out/overlays")) for source in job.sources]
    expected = ["a.jpg", "A_2.JPG", "a.png", "a_2.png", "x/a.jpg"]
    assert found == [*expected, "b.txt.png"]


def test_no_overlay_leaves_its_folder(tmp_path, monkeypatch):
    """Whatever a glob leads through."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "in/a.jpg", "in/deep/b.jpg"):
        write(tmp_path / name)
    job = pipeline.plan("in/**/../*.jpg", tmp_path / "out")
    assert [source.name for source in job.sources] == ["../a.jpg", "a.jpg"]
    found = [str(source.overlay.relative_to(tmp_path / "out/overlays")) for source in job.sources]
    assert found == ["a.jpg", "a_2.jpg"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.avi"
    video.draw_video(path, frames=8, still=True)
    return path


def test_a_video_is_followed_frame_by_frame(predictor, clip, tmp_path, capsys):
    entries = predict(predictor, clip, tmp_path, boxes="", detect=one_face)
    assert [entry["frame"] for entry in entries] == list(range(8))
    assert entries[5]["time"] == 0.2
    assert all(len(entry["faces"]) == 1 for entry in entries)
    assert "8 frames, " in capsys.readouterr().out
    capture = cv2.VideoCapture(str(tmp_path / "overlays/a.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 8


def with_pauses(mp4):
    """The video with five times as long for each frame of its second half."""
    at = mp4.index(b"stts") - 4
    count, delta = struct.unpack(">II", mp4[at + 16 : at + 24])
    half = count // 2
    durations = struct.pack(">I4s6I", 32, b"stts", 0, 2, half, delta, count - half, 5 * delta)
    mp4 = (mp4[:at] + durations + mp4[at + 24 :]).replace(b"edts", b"free")
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = mp4.index(parent) - 4
        size = int.from_bytes(mp4[at : at + 4], "big") + 8
        mp4 = mp4[:at] + size.to_bytes(4, "big") + mp4[at + 4 :]
    return mp4


def test_the_frames_of_a_varying_rate_have_the_containers_times(predictor, clip, tmp_path, capsys):
    predict(predictor, clip, tmp_path, boxes="", detect=one_face)
    assert "varying rate" not in capsys.readouterr().out
    path = tmp_path / "b.mp4"
    path.write_bytes(with_pauses((tmp_path / "overlays/a.mp4").read_bytes()))
    entries = predict(predictor, path, tmp_path, boxes="", detect=one_face)
    assert [entry["time"] for entry in entries] == [0, 0.04, 0.08, 0.12, 0.16, 0.36, 0.56, 0.76]
    assert "come at a varying rate; landmarks.json has their times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([0.0, 0.0, 0.0], [0, 0.04, 0.08]),  # Nothing is known.
        ([-40.0, 40.0, 20.0, 200.0], [0, 0.04, 0.08, 0.2]),
        ([float("nan"), float("inf"), 500.0], [0, 0.04, 0.5]),
    ],
)
def test_times_rise_whatever_a_container_says(told, expected):
    times = []
    for milliseconds in told:
        times.append(frame_time(milliseconds, 25.0, times[-1] if times else None))
    assert times == pytest.approx(expected)


def test_an_overlay_that_browsers_do_not_play_says_so(
    predictor, clip, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *code: cv2.VideoWriter_fourcc(*"mp4v"))
    predict(predictor, clip, tmp_path, boxes="", detect=one_face)
    assert "browsers do not play" not in capfd.readouterr().out
    monkeypatch.undo()
    predict(predictor, clip, tmp_path, boxes="", detect=one_face)
    told = capfd.readouterr()
    content = (tmp_path / "overlays/a.mp4").read_bytes()
    assert (b"avc1" in content) != ("a.mp4: in MPEG-4, which browsers do not play" in told.out)
    assert "h264" not in told.err


def test_a_detected_face_is_framed_as_those_of_the_training(clip, tmp_path):
    """In images, videos and Python: here by the box of the landmarks, not WFLW's rectangle."""
    settings = {"image_size": SIDE, "crop": {"margin": 0.0}, "batch_size": 4, "box": "landmarks"}
    predictor = LandmarkPredictor(same_face, pixel_outputs=("scale",), detect=one_face, **settings)
    inner = np.float32([[100, 50, 180, 130]])
    rectangle = geometry.add_margins(inner, np.array(RECTANGLE_MARGINS))
    detect = predictor._detect = lambda image: Detections(rectangle, np.float32([0.9]))
    for source in (write(tmp_path / "a.png", (320, 240)), clip):
        first, *_ = predict(predictor, source, tmp_path / "out", boxes="", detect=detect)
        np.testing.assert_allclose([first["faces"][0]["box"]], inner, atol=1e-3)
    image = np.zeros((240, 320, 3), np.uint8)
    np.testing.assert_allclose(predictor(image), predictor(image, inner), atol=1e-3)
    np.testing.assert_allclose(predictor.margins, 0)


def test_a_folder_of_videos_and_images_is_read_whole(predictor, clip, tmp_path, capsys):
    tiny = str(tmp_path / "e.avi")
    writer = cv2.VideoWriter(tiny, cv2.VideoWriter.fourcc(*"MJPG"), 25, (1, 1))
    writer.write(np.zeros((1, 1, 3), np.uint8))
    writer.release()
    shutil.copy(clip, tmp_path / "b.avi")
    (tmp_path / "c.mp4").write_bytes(b"hello")
    shutil.copy(clip, tmp_path / "d.avi")
    write(tmp_path / "a.png")
    with pytest.raises(InputError, match="2 images or boxes could not be used.*c.mp4"):
        predict(predictor, tmp_path, tmp_path / "out", boxes="", detect=one_face)
    found = [(os.path.basename(e["image"]), e.get("frame")) for e in read(tmp_path / "out")]
    frames = [(name, frame) for name in ("b.avi", "d.avi") for frame in range(8)]
    assert found == [("a.png", None), *frames]
    assert sorted(os.listdir(tmp_path / "out/overlays")) == ["a.png", "b.mp4", "d.mp4"]
    assert "e.avi: OpenCV writes no mp4 with frames of 1 x 1 px" in capsys.readouterr().out


def test_a_stream_is_timed_by_the_clock(predictor, clip, tmp_path, monkeypatch):
    opened, capture = [], cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: (opened.append(name), capture(clip))[1])
    address = "rtsp://me:secret@host/live?channel=1"
    entries = predict(predictor, address, tmp_path, boxes="", detect=one_face, overlays=False)
    assert opened == [address]
    assert {entry["image"] for entry in entries} == {"rtsp://host/live?channel=1"}
    assert [entry["time"] for entry in entries] != [frame / 25 for frame in range(8)]
    (source,) = pipeline.plan(address, tmp_path).sources
    assert source.overlay == tmp_path / "overlays/stream.mp4"


def test_an_earlier_overlay_stays_until_the_video_is_done(predictor, clip, tmp_path):
    """Whoever kills the process in between finds it."""
    overlay = tmp_path / "overlays/a.mp4"
    overlay.parent.mkdir()
    overlay.write_bytes(b"earlier")
    seen = []

    def detect(image):
        seen.append(overlay.read_bytes())
        return no_face(image)

    predict(predictor, clip, tmp_path, boxes="", detect=detect)
    assert seen == [b"earlier"] * 8
    assert overlay.read_bytes() != b"earlier"
    assert os.listdir(overlay.parent) == ["a.mp4"]


def test_a_video_that_ends_early_keeps_what_it_had(predictor, clip, tmp_path):
    content = clip.read_bytes()
    (tmp_path / "b.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"b.avi: ends after \d of 8 frames; those are written"):
        predict(predictor, tmp_path / "b.avi", tmp_path, boxes="", detect=one_face)
    assert len(read(tmp_path)) in range(2, 7)


def test_what_is_no_video_is_refused(predictor, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"hello")
    with pytest.raises(InputError, match="a.mp4: can't be opened as a video"):
        predict(predictor, tmp_path / "a.mp4", tmp_path, boxes="", detect=no_face)
    stream = "tcp://me:secret@127.0.0.1:1/live"
    with pytest.raises(InputError, match="--input=tcp://127.0.0.1:1/live: can't be opened"):
        predict(predictor, stream, tmp_path, boxes="", detect=no_face)
    with pytest.raises(InputError, match="found by the detector"):
        pipeline.plan("0", tmp_path, boxes="image")


def test_the_pipeline_needs_neither_jax_nor_grain_nor_matplotlib():
    code = (
        "import sys, flm_jax.inference.pipeline as _; unwanted = {'jax', 'flax', 'orbax', 'grain', "
        "'matplotlib', 'ml_collections'}; print(unwanted & {*sys.modules})"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
