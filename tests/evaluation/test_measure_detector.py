from types import SimpleNamespace

import numpy as np

from flm_jax.evaluation.measure_detector import measure
from flm_jax.inference.crops import Crops
from flm_jax.inference.detector import Detections


class Truth:
    """Cuts no image, but remembers the box, and finds the same points in each."""

    batch_size = 4

    def __init__(self, records):
        self.points = np.stack([record.landmarks for record in records])

    def cut(self, image, boxes, flip=False):
        return Crops(np.zeros((len(boxes), 4, 4, 3), np.float32), np.zeros((len(boxes), 2, 3)))

    def predict(self, crops):
        return SimpleNamespace(landmarks=np.repeat(self.points, 3, axis=0))


def test_the_share_found_and_the_margins_are_those_of_the_boxes(test_records):
    records = test_records[:4]
    boxes = iter([record.box for record in records[:3]])

    def detect(image):
        box = next(boxes, None)
        if box is None:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        inside = box + np.float32([0, 0.1 * (box[3] - box[1]), 0, 0])
        return Detections(np.stack([inside + 10_000, inside]), np.float32([1, 0.9]))

    text = measure(Truth(records[:3]), detect, records)
    assert "3 of 4 faces found" in text
    assert "0.111" in text
    assert text.endswith(": 0.00, 0.00, 0.00")
