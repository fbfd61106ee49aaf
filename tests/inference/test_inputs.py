import json

import numpy as np
import pytest

from flm_jax.data import wflw
from flm_jax.errors import InputError
from flm_jax.inference import inputs


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(source, output):
    return [image.name for image in inputs.find_images(str(source), output)]


def test_images_are_named_below_what_they_share_without_those_of_the_output(tmp_path):
    make(tmp_path, "b.PNG", "deep/er/a.jpg", "notes.txt", "out/overlays/a.jpg", "deep/face")
    assert names(tmp_path, tmp_path / "out") == ["b.PNG", "deep/er/a.jpg"]
    assert names(f"{tmp_path}/**/*.jpg", tmp_path / "out") == ["deep/er/a.jpg"]
    assert names(f"{tmp_path}/**/*.jpg", tmp_path / "x") == ["deep/er/a.jpg", "out/overlays/a.jpg"]
    assert names(tmp_path / "deep/face", tmp_path) == ["face"], "a file, whatever its name"
    (image, _) = inputs.find_images(str(tmp_path), tmp_path / "out")
    assert image.path == str(tmp_path / "b.PNG")


def test_nothing_to_read_is_an_error_that_says_what_is_expected(tmp_path):
    make(tmp_path, "notes.txt")
    with pytest.raises(InputError, match="holds no image"):
        names(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"--input=.*nowhere: no such file.*glob in quotes"):
        names(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "is_video", "is_file"),
    [("0", True, False), ("clip.MP4", True, True), ("a.jpg", False, True), ("dir", False, True)],
)
def test_videos_and_cameras_are_told_from_images(source, is_video, is_file):
    assert (inputs.is_video(source), inputs.is_file(source)) == (is_video, is_file)


def test_boxes_of_a_wflw_list_are_its_rectangles(faces_root, test_records):
    found = inputs.read_boxes(str(faces_root / wflw.TEST_LIST))
    assert [name for name, _ in found] == [record.image_name for record in test_records]
    np.testing.assert_array_equal([box for _, box in found], [r.box for r in test_records])


ITEMS = [
    {"image": "a.jpg", "faces": [{"box": [1, 2, 3.25, 4], "score": 0.5}]},
    {"image": "b/c.png", "faces": [{"box": [5, 6, 7, 8]}]},
]


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3.25 4 a.jpg\n\n5 6 7 8 b/c.png\n",
        json.dumps({"a.jpg": [[1, 2, 3.25, 4]], "b/c.png": [[5, 6, 7, 8]]}),
        json.dumps(ITEMS),
    ],
)
def test_every_form_of_box_file_says_the_same(tmp_path, text):
    (tmp_path / "boxes").write_text(text)
    found = inputs.read_boxes(str(tmp_path / "boxes"))
    expected = [("a.jpg", [1, 2, 3.25, 4]), ("b/c.png", [5, 6, 7, 8])]
    assert [(name, box.tolist()) for name, box in found] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no box"),
        ("1 2 3 4 a.jpg\n1 2 3 a.jpg\n", ":2: 4 fields; expected the 207"),
        ("1 2 3 x a.jpg\n", ":1: .*is no box"),
        ("5 2 3 4 a.jpg\n", ":1: .*is no box"),
        ("1 2 nan 4 a.jpg\n", ":1: .*is no box"),
        ('{"a.jpg": [[1, 2, 3]]}', "a.jpg'?: .*is no box"),
        (f'{{"a.jpg": [[1, 2, 3, 1{401 * "0"}]]}}', "is no box"),
        (f'{{"a.jpg": [[1, 2, 3, 1{5000 * "0"}]]}}', "expected .*landmarks.json"),
        (100_000 * "[", "expected .*landmarks.json"),
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
