import numpy as np

from flm_jax.evaluation.measure_detector import measure
from flm_jax.inference.detector import Detections
from flm_jax.inference.predictor import Crops, LandmarkPredictor


def test_the_share_found_and_the_margins_are_those_of_the_boxes(test_records):
    records = test_records[:4]
    boxes = iter([record.box for record in records[:3]])

    def detect(image):
        box = next(boxes, None)
        if box is None:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        inside = box + np.float32([0, 0.1 * (box[3] - box[1]), 0, 0])
        return Detections(np.stack([inside + 10_000, inside]), np.float32([1, 0.9]))

    truth = np.repeat([record.landmarks for record in records[:3]], 3, axis=0)
    predictor = LandmarkPredictor(
        lambda images: {"landmarks": truth}, image_size=4, crop={"margin": 0.0}, batch_size=9
    )
    predictor.cut = lambda image, boxes: Crops(
        np.zeros((len(boxes), 4, 4, 3), np.float32), np.tile(np.float32(np.eye(2, 3)), (3, 1, 1))
    )
    text = measure(predictor, detect, records)
    assert "3 of 4 faces found" in text
    assert "0.111" in text
    assert text.endswith(": 0.00, 0.00, 0.00")
