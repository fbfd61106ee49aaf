import json

import numpy as np
import pytest

from flm_jax.data import wflw
from flm_jax.errors import InputError
from flm_jax.inference import inputs


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_is_searched_recursively_but_not_where_the_output_goes(tmp_path):
    make(tmp_path, "b.PNG", "deep/er/a.jpg", "notes.txt", "out/overlays/a.jpg")
    found = inputs.find_pictures(str(tmp_path), tmp_path / "out")
    assert [picture.name for picture in found] == ["b.PNG", "deep/er/a.jpg"]
    assert [picture.path for picture in found] == [
        str(tmp_path / picture.name) for picture in found
    ]


def test_a_glob_names_pictures_below_what_they_share(tmp_path):
    make(tmp_path, "x/a.jpg", "x/b.jpg", "y/a.jpg", "y/c.txt")
    found = inputs.find_pictures(f"{tmp_path}/**/a.*", tmp_path / "out")
    assert [picture.name for picture in found] == ["x/a.jpg", "y/a.jpg"]


def test_a_file_is_taken_whatever_its_name(tmp_path):
    make(tmp_path, "face")
    assert inputs.find_pictures(str(tmp_path / "face"), tmp_path)[0].name == "face"


def test_nothing_to_look_at_is_an_error_that_says_what_is_expected(tmp_path):
    make(tmp_path, "notes.txt")
    with pytest.raises(InputError, match="holds no picture"):
        inputs.find_pictures(str(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match=r"--input=.*nowhere: no such file.*glob in quotes"):
        inputs.find_pictures(str(tmp_path / "nowhere"), tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "opened"), [("0", 0), ("clip.MP4", "clip.MP4"), ("a.jpg", None), ("folder", None)]
)
def test_videos_and_cameras_are_told_from_pictures(source, opened):
    assert inputs.is_video(source) == (opened is not None)
    if opened is not None:
        assert inputs.video_source(source) == opened


def test_boxes_of_a_wflw_list_are_its_rectangles(faces_root, test_records):
    found = inputs.read_boxes(str(faces_root / wflw.TEST_LIST))
    assert [box.name for box in found] == [record.image_name for record in test_records]
    np.testing.assert_array_equal(
        [box.box for box in found], [record.box for record in test_records]
    )


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3.25 4 a.jpg\n\n5 6 7 8 b/c.png\n",
        json.dumps({"a.jpg": [[1, 2, 3.25, 4]], "b/c.png": [[5, 6, 7, 8]]}),
        json.dumps(
            [
                {"image": "a.jpg", "faces": [{"box": [1, 2, 3.25, 4], "score": 0.5}]},
                {"image": "b/c.png", "faces": [{"box": [5, 6, 7, 8]}]},
            ]
        ),
    ],
)
def test_every_form_of_box_file_says_the_same(tmp_path, text):
    path = tmp_path / "boxes"
    path.write_text(text)
    found = inputs.read_boxes(str(path))
    assert [(box.name, box.box.tolist()) for box in found] == [
        ("a.jpg", [1, 2, 3.25, 4]),
        ("b/c.png", [5, 6, 7, 8]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no box"),
        ("1 2 3 4 a.jpg\n1 2 3 a.jpg\n", ":2: 4 fields; expected the 207"),
        ("1 2 3 x a.jpg\n", ":1: .*is no box"),
        ("5 2 3 4 a.jpg\n", ":1: .*is no box"),
        ("1 2 nan 4 a.jpg\n", ":1: .*is no box"),
        ('{"a.jpg": [[1, 2, 3]]}', "a.jpg: .*is no box"),
        ('{"a.jpg": 7}', "expected .*landmarks.json"),
        ('[{"image": "a.jpg"}]', "expected .*landmarks.json"),
        ('{"a.jpg": \n oops}', ":2: not JSON"),
    ],
)
def test_a_wrong_box_file_is_refused_with_the_place(tmp_path, text, message):
    path = tmp_path / "boxes"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        inputs.read_boxes(str(path))


def test_a_box_file_that_is_no_text_or_not_there_is_refused(tmp_path):
    path = tmp_path / "boxes"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        inputs.read_boxes(str(path))
    with pytest.raises(InputError, match="can't be read"):
        inputs.read_boxes(str(tmp_path / "nowhere"))


def test_pictures_are_named_below_the_input_or_as_prediction_names_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/a.jpg").write_bytes(b"x")
    whole = ("in/deep/a.jpg", "deep/a.jpg")
    assert inputs.named_picture("in", "deep/a.jpg") == whole
    assert inputs.named_picture("in", "in/deep/a.jpg") == whole
    assert inputs.named_picture("in/deep/a.jpg", "in/deep/a.jpg") == (whole[0], "a.jpg")
    assert inputs.named_picture("in", "b.jpg") == ("in/b.jpg", "b.jpg")
    monkeypatch.chdir(tmp_path / "in/deep")
    assert inputs.named_picture("..", "a.jpg") == ("../a.jpg", "a.jpg")  # not the one here
