import csv
import json

import numpy as np

from flm_jax.inference import inputs, outputs
from flm_jax.inference.head_pose import Pose
from flm_jax.inference.outputs import Entry, Face

POINTS = np.random.default_rng(0).uniform(-5, 500, (98, 2)).astype(np.float32)
BOX = np.array([1.5, 2.0, 30.0, 40.25])
FACE = Face(BOX, 0.75, POINTS, Pose(10.0, -5.123, 0.0), {"scale": np.full(98, 1.5, np.float32)})
PLAIN = Face(BOX, None, POINTS, None)
ENTRIES = [Entry("a, b.jpg", [FACE, PLAIN]), Entry("b.jpg", []), Entry("c.mp4", [FACE], 3, 0.12)]


def test_json_has_all_to_a_thousandth_of_a_pixel_and_can_be_given_as_boxes(tmp_path):
    path = tmp_path / "landmarks.json"
    outputs.write_json(path, ENTRIES)
    first, empty, frame = json.loads(path.read_text())
    assert list(first) == ["image", "faces"]
    face, plain = first["faces"]
    np.testing.assert_allclose(face.pop("landmarks"), POINTS, atol=1e-3)
    assert face == {
        "box": BOX.tolist(),
        "score": 0.75,
        "scale": [1.5] * 98,
        "pose": {"yaw": 10.0, "pitch": -5.12, "roll": 0.0},
    }
    assert (plain["score"], plain["pose"]) == (None, None)
    assert "scale" not in plain
    assert empty == {"image": "b.jpg", "faces": []}
    assert (frame["frame"], frame["time"]) == (3, 0.12)
    names, boxes, detected = zip(*inputs.read_boxes(str(path)), strict=True)
    assert names == ("a, b.jpg", "a, b.jpg", "c.mp4")
    np.testing.assert_array_equal(boxes, [BOX] * 3)
    assert detected[:2] == (True, False)
    outputs.write_json(path, [])
    assert json.loads(path.read_text()) == []


def test_the_table_has_a_row_for_every_face_with_the_same_numbers(tmp_path):
    path = tmp_path / "landmarks.csv"
    outputs.write_csv(path, ENTRIES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["image"], row["frame"], row["face"]) for row in rows]
    assert found == [("a, b.jpg", "", "0"), ("a, b.jpg", "", "1"), ("c.mp4", "3", "0")]
    numbers = [float(rows[0][name]) for name in ("x97", "ymax", "pitch", "scale97")]
    assert numbers == [round(float(POINTS[97, 0]), 4), 40.25, -5.12, 1.5]
    assert rows[1]["score"] == rows[1]["yaw"] == ""
