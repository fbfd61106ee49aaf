import numpy as np

from flm_jax.inference import measure_detector
from flm_jax.inference.detector import Detections


def test_a_face_has_the_box_that_overlaps_it_the_most(test_records):
    points = test_records[0].landmarks
    box = test_records[0].box
    far = box + 10_000
    shifted = box + np.float32([10, 0, 10, 0])
    found = measure_detector.match(np.stack([far, shifted, box]), points)
    np.testing.assert_array_equal(found, box)
    assert measure_detector.match(far[None], points) is None
    assert measure_detector.match(np.zeros((0, 4), np.float32), points) is None


def test_margins_and_the_share_found_are_those_of_the_boxes(test_records):
    records = test_records[:4]
    boxes = iter([record.box for record in records])

    def detect(image):
        xmin, ymin, xmax, ymax = next(boxes)
        inside = [xmin, ymin + 0.1 * (ymax - ymin), xmax, ymax]
        lost = int((records[3].box == [xmin, ymin, xmax, ymax]).all())
        return Detections(np.float32([inside])[lost:], np.float32([1])[lost:])

    found = measure_detector.detect_all(detect, records, "faces")
    text = measure_detector.describe_boxes(records, found, "faces")
    assert "3 of 4 faces found (75.0 %)" in text
    assert "0.111," in text
    assert text.count("0.000") == 7, "the other sides, and no spread"
