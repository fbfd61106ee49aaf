import json
import os
import pathlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from flm_jax.data import wflw
from flm_jax.data.images import read_image
from flm_jax.drawing import video
from flm_jax.errors import InputError
from flm_jax.inference import boxes, inputs


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(source, output):
    return [image.name for image in inputs.find_inputs(str(source), output)]


def test_images_are_named_below_what_they_share_without_those_of_the_output(tmp_path):
    make(tmp_path, "b.PNG", "deep/er/a.jpg", "notes.txt", "out/overlays/a.jpg", "deep/face")
    assert names(tmp_path, tmp_path / "out") == ["b.PNG", "deep/er/a.jpg"]
    assert names(f"{tmp_path}/**/*.jpg", tmp_path / "out") == ["deep/er/a.jpg"]
    assert names(f"{tmp_path}/**/*.jpg", tmp_path / "x") == ["deep/er/a.jpg", "out/overlays/a.jpg"]
    assert names(tmp_path / "deep/face", tmp_path) == ["face"], "a file, whatever its name"
    (image, _) = inputs.find_inputs(str(tmp_path), tmp_path / "out")
    assert image.path == str(tmp_path / "b.PNG")


def test_an_input_may_lie_in_the_output_of_which_the_results_are_left_out(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "in/a.jpg", "b.jpg", "overlays/in/a.jpg", "landmarks.json", "landmarks.csv")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert names("in", pathlib.Path()) == ["a.jpg"]
    assert names(".", pathlib.Path()) == ["b.jpg", "in/a.jpg", "loop.jpg"]
    assert not capsys.readouterr().out


def test_nothing_to_read_is_an_error_that_says_what_is_expected(tmp_path):
    make(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=r"holds no image .*, but 1 \.txt"):
        names(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"--input=.*nowhere: no such file.*glob in quotes"):
        names(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "is_video", "is_file"),
    [
        *[("0", True, False), ("rtsp://host/live", True, False), ("HTTPS://host/a", True, False)],
        *[("rtmp://host/live", True, False), ("http://host/a.jpg", True, False)],
        *[("clip.MP4", True, True), ("a.ts", True, True), ("a.3gp", True, True)],
        *[("a.jpg", False, True), ("dir", False, True)],
    ],
)
def test_videos_and_cameras_are_told_from_images(source, is_video, is_file):
    assert (inputs.is_video(source), inputs.is_file(source)) == (is_video, is_file)


def test_linked_folders_are_searched_and_what_is_left_out_is_counted(tmp_path, capsys):
    make(tmp_path, "in/a.heic", "in/b.HEIC", "in/c", "other/d.avif", "other/e.mp4")
    (tmp_path / "in/link").symlink_to(tmp_path / "other")
    (tmp_path / "other/loop").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in", tmp_path / "out") == ["link/d.avif", "link/e.mp4"]
    assert "in: left out: 2 .heic, 1 without a suffix\n" in capsys.readouterr().out
    found = inputs.find_inputs(str(tmp_path / "in"), tmp_path / "out", videos=False)
    assert [image.name for image in found] == ["link/d.avif"], "with --boxes image"
    assert "1 .mp4" in capsys.readouterr().out


def test_a_glob_enters_each_folder_once_and_no_hidden_one(tmp_path, monkeypatch):
    make(tmp_path, "in/a.jpg", "in/deep/b.jpg", "in/.git/c.jpg", "in/.d.jpg", "in/e.png")
    for link in ("one", "two"):  # The library finds 2^40 paths here.
        (tmp_path / f"in/{link}").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    for pattern in ("in/**/*.jpg", "**/*.jpg", "in/**/**/*.jpg"):
        found = inputs.find_inputs(pattern, tmp_path / "out")
        assert [image.path for image in found] == ["in/a.jpg", "in/deep/b.jpg"], pattern
    assert names("in/.git/**", tmp_path / "out") == ["c.jpg"]
    assert names("**", tmp_path / "out") == ["in/a.jpg", "in/deep/b.jpg", "in/e.png"]
    assert names("i?/*/../[ae].*", tmp_path / "out")[0].endswith("a.jpg")


def test_brackets_may_stand_in_names(tmp_path):
    make(tmp_path, "b[1].jpg", "in [2024]/a.jpg")
    assert names(tmp_path / "b[1].jpg", tmp_path) == ["b[1].jpg"]
    assert names(tmp_path / "in [2024]/*.jpg", tmp_path / "out") == ["a.jpg"]


def test_an_animated_gif_is_a_video(tmp_path):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "one.gif")
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    found = {
        each.name: each.is_video for each in inputs.find_inputs(str(tmp_path), tmp_path / "out")
    }
    assert found == {"broken.gif": False, "one.gif": False, "two.gif": True}


def test_videos_of_any_name_are_opened_or_refused(tmp_path, monkeypatch):
    """OpenCV crashes at names that are not UTF-8; FFmpeg takes `10:` for a protocol."""
    monkeypatch.chdir(tmp_path)
    video.draw_video(tmp_path / "10:30.avi", frames=1, still=True)
    assert inputs.open_video("10:30.avi").isOpened()
    make(tmp_path, *(strange := [os.fsdecode(b"\xff.gif"), os.fsdecode(b"\xff.avi")]))
    for name in strange:
        assert inputs.is_video(name)
        with pytest.raises(InputError, match="OpenCV opens UTF-8 names alone; rename it"):
            inputs.open_video(name)
    assert not inputs.open_video(str(10**20)).isOpened(), "a camera's number"


def test_boxes_of_a_wflw_list_are_its_rectangles(faces_root, test_records):
    found = inputs.read_boxes(str(faces_root / wflw.TEST_LIST))
    assert [box.name for box in found] == [record.image_name for record in test_records]
    np.testing.assert_array_equal([box.corners for box in found], [r.box for r in test_records])


ITEMS = [
    {"image": "a.jpg", "faces": [{"box": [1, 2, 3.25, 4], "score": 0.5}]},
    {"image": "b/c.png", "faces": [{"box": [5, 6, 7, 8]}]},
]


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3.25 4 a.jpg\n\n5 6 7 8 b/c.png\n",
        b"\xef\xbb\xbf1 2 3.25 4 a.jpg\r\n5 6 7 8 b/c.png",
        "1 2 3.25 4 a.jpg\n5 6 7 8 b/c.png".encode("utf-16"),
        "1 2 3.25 4 0.98 a.jpg\n5 6 7 8 9.8e-01 b/c.png\n",
        json.dumps({"a.jpg": [[1, 2, 3.25, 4, 0.98]], "b/c.png": [[5, 6, 7, 8, 0.7]]}),
        json.dumps({"a.jpg": [[1, 2, 3.25, 4]], "b/c.png": [[5, 6, 7, 8]]}),
        json.dumps(ITEMS),
    ],
)
def test_every_form_of_box_file_says_the_same(tmp_path, text):
    (tmp_path / "boxes").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = inputs.read_boxes(str(tmp_path / "boxes"))
    expected = [("a.jpg", [1, 2, 3.25, 4]), ("b/c.png", [5, 6, 7, 8])]
    assert [(box.name, box.corners.tolist()) for box in found] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no box"),
        ("1 2 3 4 a.jpg\n1 2 3 a.jpg\n", ":2: 4 fields; expected the 207"),
        (
            136 * "7 " + "a.jpg",
            r":1: 137 fields \(68 points, or 63 with .* here has 98\); expected",
        ),
        (f"1 2 3 4 {70_000 * 'a'}", ":1: a line of more than 65536 characters"),
        ("1 2 3 x a.jpg\n", ":1: .*is no box"),
        ("5 2 3 4 a.jpg\n", ":1: .*is no box"),
        ("1 2 nan 4 a.jpg\n", ":1: .*is no box"),
        ('{"a.jpg": [[1, 2, 3]]}', "a.jpg'?: .*is no box"),
        (f'{{"a.jpg": [[1, 2, 3, 1{401 * "0"}]]}}', "is no box"),
        (f'{{"a.jpg": [[1, 2, 3, 1{5000 * "0"}]]}}', "expected .*landmarks.json"),
        (100_000 * "[", "expected .*landmarks.json"),
        ('{"a.jpg": [[1, 2, 3, 4]], "a.jpg": [[5, 6, 7, 8]]}', "'a.jpg' stands there twice"),
        ('{"a.jpg": ["1234"]}', "'1234' is no box|1234 is no box"),
        ('{"a.jpg": [[true, false, 3, 4]]}', "is no box"),
        ('{"a.jpg": [{"1": 0, "2": 0, "3": 0, "4": 0}]}', "is no box"),
        ('{"a.jpg": 7}', "expected .*landmarks.json"),
        ('[{"image": "a.jpg"}]', "expected .*landmarks.json"),
        ('{"a.jpg": \n oops}', ":2: not JSON"),
        ('{"a\\u0000.jpg": [[1, 2, 3, 4]]}', "can't be the name of a file"),
        ('{"a\\ud800.jpg": [[1, 2, 3, 4]]}', "can't be the name of a file"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "can't be read"),
    ],
)
def test_a_wrong_box_file_is_refused_with_the_place(tmp_path, content, message):
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "boxes").write_bytes(content)
    with pytest.raises(InputError, match=message):
        inputs.read_boxes(str(tmp_path / "boxes"))


def test_no_more_json_is_read_than_memory_holds(tmp_path, monkeypatch):
    (tmp_path / "boxes").write_text(json.dumps(ITEMS))
    monkeypatch.setattr(boxes, "_MAX_JSON", 9)
    with pytest.raises(InputError, match="more than 9 characters of JSON; split it"):
        boxes.read_boxes(str(tmp_path / "boxes"))


def test_names_may_hold_spaces_or_be_missing(tmp_path):
    make(tmp_path, "a.jpg")
    text = "1 2 3 4 my face.jpg\n1 2 3 4 0.5 01 face.jpg\n1 2 3 4 01 face.jpg\n"
    (tmp_path / "boxes").write_text(text)
    found = inputs.read_boxes(str(tmp_path / "boxes"))
    assert [box.name for box in found] == ["my face.jpg", "01 face.jpg", "01 face.jpg"]
    boxes = np.array([[1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0.9]])
    for columns in (4, 5):
        np.savetxt(tmp_path / "boxes", boxes[:, :columns])
        (image,) = inputs.find_boxed_images(str(tmp_path / "a.jpg"), str(tmp_path / "boxes"))
        np.testing.assert_array_equal([box for _, box in image.boxes], boxes[:, :4])
    with pytest.raises(InputError, match="names no image, so --input has to be one"):
        inputs.find_boxed_images(str(tmp_path), str(tmp_path / "boxes"))
    with pytest.raises(InputError, match="no such file or folder; --boxes=.* not a glob"):
        inputs.find_boxed_images(f"{tmp_path}/*.jpg", str(tmp_path / "boxes"))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_a_character_of_its_own(tmp_path, monkeypatch, forms):
    written, there = (unicodedata.normalize(form, "Zoé.jpg") for form in forms)
    folder = unicodedata.normalize("NFC", "Zoé")  # of the same form as the file, or not
    monkeypatch.chdir(tmp_path)
    make(tmp_path, f"{folder}/{there}")
    other = unicodedata.normalize("NFD", folder)
    lines = [f"1 2 3 4 {start}{name}\n" for start in ("", f"{folder}/", f"{other}/", "./")
             for name in (written, there)]  # fmt: skip
    (tmp_path / "boxes").write_text("".join(lines))
    for source in (folder, other):
        (image,) = inputs.find_boxed_images(source, str(tmp_path / "boxes"))
        assert (image.path, image.name) == (f"{folder}/{there}", there)
        assert [number for number, _ in image.boxes] == list(range(8))


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "x/../../a.jpg", "..", "//x"])
def test_no_name_leaves_the_input(tmp_path, name):
    (tmp_path / "boxes").write_text(f"1 2 3 4 {name}\n")
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=f"'{name}' lies outside of --input="):
        inputs.find_boxed_images(str(tmp_path / "in"), str(tmp_path / "boxes"))


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (str(tmp_path / "pipe.mp4"), "/dev/zero"):
        with pytest.raises(InputError, match="not a regular file"):
            inputs.read_boxes(path)
        with pytest.raises(InputError, match="not a regular file"):
            read_image(path, path)
        with pytest.raises(InputError, match="not a regular file"):
            inputs.open_video(path)


def test_boxed_images_are_found_below_the_input_or_as_landmarks_json_names_them(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "in/deep/a.jpg")
    for source, name, path, below in [
        ("in", "deep/a.jpg", "in/deep/a.jpg", "deep/a.jpg"),
        ("in", "in/deep/a.jpg", "in/deep/a.jpg", "deep/a.jpg"),
        ("in/deep/a.jpg", "in/deep/a.jpg", "in/deep/a.jpg", "a.jpg"),
        ("in", "b.jpg", "in/b.jpg", "b.jpg"),
        ("..", "deep/a.jpg", "../deep/a.jpg", "deep/a.jpg"),  # not the one here
    ]:
        if source == "..":
            monkeypatch.chdir(tmp_path / "in")
        (tmp_path / "boxes").write_text(f"1 2 3 4 {name}\n5 6 7 8 {name}\n")
        (image,) = inputs.find_boxed_images(source, str(tmp_path / "boxes"))
        assert (image.path, image.name) == (path, below)
        assert [(number, *box) for number, box in image.boxes] == [(0, 1, 2, 3, 4), (1, 5, 6, 7, 8)]
