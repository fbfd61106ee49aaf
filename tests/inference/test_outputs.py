import csv
import json

import numpy as np

from flm_jax.inference import inputs, outputs
from flm_jax.inference.head_pose import Pose
from flm_jax.inference.outputs import Entry, Face

POINTS = np.random.default_rng(0).uniform(-5, 500, (98, 2)).astype(np.float32)
BOX = np.array([1.5, 2.0, 30.0, 40.25])
FACE = Face(BOX, 0.75, POINTS, np.full(98, 1.5, np.float32), Pose(10.0, -5.123, 0.0))
PLAIN = Face(BOX, None, POINTS, None, None)


def test_json_has_what_was_found_to_a_thousandth_of_a_pixel(tmp_path):
    path = tmp_path / "landmarks.json"
    entries = [Entry("a.jpg", [FACE, PLAIN]), Entry("b.jpg", []), Entry("c.mp4", [FACE], 3, 0.12)]
    outputs.write_json(path, entries)
    first, empty, frame = json.loads(path.read_text())
    assert list(first) == ["image", "faces"]
    face, plain = first["faces"]
    assert face["box"] == BOX.tolist()
    assert face["score"] == 0.75
    np.testing.assert_allclose(face["landmarks"], POINTS, atol=1e-3)
    assert face["uncertainty"] == [1.5] * 98
    assert face["pose"] == {"yaw": 10.0, "pitch": -5.12, "roll": 0.0}
    assert (plain["score"], plain["pose"]) == (None, None)
    assert "uncertainty" not in plain
    assert empty == {"image": "b.jpg", "faces": []}
    assert (frame["frame"], frame["time"]) == (3, 0.12)


def test_the_table_has_a_row_for_every_face_with_the_same_numbers(tmp_path):
    path = tmp_path / "landmarks.csv"
    outputs.write_csv(path, [Entry("a, b.jpg", [FACE, PLAIN]), Entry("c.jpg", [])])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["face"]) for row in rows] == [("a, b.jpg", "0"), ("a, b.jpg", "1")]
    assert float(rows[0]["x97"]) == round(float(POINTS[97, 0]), 4)
    assert float(rows[0]["ymax"]) == 40.25
    assert float(rows[0]["pitch"]) == -5.12
    assert float(rows[0]["uncertainty97"]) == 1.5
    assert rows[1]["score"] == rows[1]["yaw"] == ""


def test_what_is_written_can_be_given_as_boxes(tmp_path):
    path = tmp_path / "landmarks.json"
    outputs.write_json(path, [Entry("a.jpg", [FACE, PLAIN])])
    found = inputs.read_boxes(str(path))
    assert [(box.name, box.box.tolist()) for box in found] == [("a.jpg", BOX.tolist())] * 2


def test_no_entry_is_an_empty_list(tmp_path):
    outputs.write_json(tmp_path / "a.json", [])
    assert json.loads((tmp_path / "a.json").read_text()) == []
