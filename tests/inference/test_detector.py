import itertools
import os
import threading

import cv2
import numpy as np
import pytest

from flm_jax import geometry
from flm_jax.data.crop import BOXES
from flm_jax.drawing import dataset
from flm_jax.errors import InputError
from flm_jax.inference import detector

PLAIN = (0.0, 0.0, 0.0, 0.0)


class FakeNet:
    """Says of any image that there are faces of `size` at cells (row, column, score)."""

    def __init__(self, faces, size):
        self.faces, self.size, self.inputs = faces, size, []

    def setInput(self, blob):  # noqa: N802
        self.inputs.append(blob)

    def forward(self, names):
        height, width = self.inputs[-1].shape[2] // 4, self.inputs[-1].shape[3] // 4
        heat = np.zeros((1, 1, height, width), np.float32)
        sizes, offsets = np.zeros((2, 1, 2, height, width), np.float32)
        for row, column, score in self.faces:
            heat[0, 0, row, column] = score
            sizes[0, :, row, column] = np.log(np.array(self.size) / 4)
            offsets[0, :, row, column] = 0.25, 0.5
        return heat, sizes, offsets, np.zeros((1, 10, height, width), np.float32)


def fake(monkeypatch, faces, size=(48, 32), **settings):
    nets = []
    monkeypatch.setattr(
        cv2.dnn, "readNetFromONNX", lambda path: nets.append(FakeNet(faces, size)) or nets[-1]
    )
    settings = {"path": "file.onnx", "margins": PLAIN, "side": 320, **settings}
    return nets, detector.CenterFace(**settings)


def test_a_cell_becomes_a_box_in_pixels_of_the_image(monkeypatch):
    nets, detect = fake(monkeypatch, [(20, 30, 0.9)])
    found = detect(np.zeros((400, 640, 3), np.uint8))
    assert nets[0].inputs[0].shape == (1, 3, 224, 320), "200 rows, black up to a multiple of 32"
    # Middle at (30 + 0.5 + 0.5, 20 + 0.25 + 0.5) cells of 4 px of half the image's size.
    x, y = 2 * 4 * np.array([31, 20.75]) - 0.5
    np.testing.assert_allclose(found.boxes, [[x - 32, y - 48, x + 32, y + 48]], atol=1e-3)
    assert found.scores == pytest.approx([0.9])


def test_each_face_has_one_box_the_best_above_the_threshold(monkeypatch):
    cells = [(20, 30, 0.7), (20, 31, 0.9), (21, 30, 0.6), (20, 38, 0.8), (35, 5, 0.4)]
    image = np.zeros((320, 320, 3), np.uint8)
    for threshold, scores in ((0.5, [0.9, 0.8]), (0.3, [0.9, 0.8, 0.4]), (0.95, [])):
        nets, detect = fake(monkeypatch, cells, threshold=threshold)
        found = detect(image)
        assert found.scores == pytest.approx(scores)
        assert found.boxes.shape == (len(scores), 4)
    sides = [blob.shape[2] for blob in nets[0].inputs]
    assert sides == [320, 160], "without a face a second look at half the size"


def test_a_small_face_in_a_large_image_is_found():
    """By CenterFace itself, once the image is looked at in more detail."""
    image = np.full((500, 2400, 3), 90, np.uint8)
    pictures = (dataset.draw_picture(np.random.default_rng(seed), 1) for seed in itertools.count())
    plain = (picture for picture in pictures if not picture.faces[0].attributes.any())
    truth = []
    for drawn, left in zip(plain, (100, 900, 1700), strict=False):
        scale = 64 / (drawn.faces[0].box[3] - drawn.faces[0].box[1])
        face = cv2.resize(drawn.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = (min(side, 480) for side in face.shape[:2])
        image[:height, left : left + width] = face[:height, :width, ::-1]
        truth.append(drawn.faces[0].box * scale + [left, 0, left, 0])

    def count(side):
        boxes = detector.CenterFace(side=side)(image).boxes
        hits = [
            len(boxes) and detector.overlaps(boxes, np.float32(box)).max() > 0.4 for box in truth
        ]
        return sum(hits)

    assert count(640) < count(0) == 3


def test_a_large_image_is_looked_at_twice_unless_a_small_side_is_given(monkeypatch):
    for side, looks in ((0, [640, 1024]), (960, [640, 960]), (480, [480])):
        nets, detect = fake(monkeypatch, [(20, 100, 0.9)], side=side)
        assert len(detect(np.zeros((400, 2000, 3), np.uint8)).boxes) == len(looks)
        assert [blob.shape[3] for blob in nets[0].inputs] == looks


@pytest.mark.parametrize(
    ("longer", "side", "height", "finer"),
    [
        *[(4000, 0, 32, 4000), (4000, 0, 40, 0), (1200, 0, 32, 1200), (640, 0, 32, 0)],
        *[(4000, 1000, 32, 2000), (4000, 4000, 32, 0), (20_000, 5000, 32, 8192)],
        (20_000, 8192, 32, 0),
    ],
)
def test_a_larger_side_is_advised_only_where_it_shows_more(
    monkeypatch, longer, side, height, finer
):
    _, detect = fake(monkeypatch, [(2, 100, 0.9)], size=(height, 32), side=side)
    found = detector.framed(detect, "landmarks")(np.zeros((20, longer, 3), np.uint8))
    assert len(found.boxes)
    assert found.finer == finer


def test_threads_and_images_of_any_shape_can_be_served(monkeypatch):
    nets, detect = fake(monkeypatch, [])
    shapes = [(1, 1), (3, 2000), (2000, 3), (7, 9)]
    images = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    threads = [threading.Thread(target=detect, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(net.inputs) for net in nets] == [2] * 4, "a net serves one thread"


def test_drawn_faces_are_found():
    """By CenterFace itself, whose weights the extra `predict` brings."""
    detect = detector.CenterFace()
    found = total = 0
    for seed in range(4):
        drawn = dataset.draw_picture(np.random.default_rng(seed), 1)
        boxes = detect(np.ascontiguousarray(drawn.image[..., ::-1])).boxes
        total += len(drawn.faces)
        for face in drawn.faces:
            found += len(boxes) and detector.overlaps(boxes, face.box).max() > 0.4
    assert found >= 0.7 * total


def test_a_yunet_file_is_run_by_opencv(monkeypatch, tmp_path):
    class Net:
        def setInputSize(self, size):  # noqa: N802
            self.size = size

        def detect(self, image):
            assert self.size == image.shape[1::-1]
            row = np.zeros((1, 15), np.float32)
            row[0, :4], row[0, -1] = (64, 32, 64, 96), 0.8
            return 1, row

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *arguments: Net())
    detect = detector.YuNet("yunet.onnx", margins=PLAIN)
    found = detect(np.zeros((320, 320, 3), np.uint8))  # Twice as large for the net.
    np.testing.assert_allclose(found.boxes, [[31.5, 15.5, 63.5, 63.5]])
    assert found.scores == pytest.approx([0.8])


def test_a_file_that_is_missing_or_no_detector_is_refused_with_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="expected centerface, or the file"):
        detector.load_detector(str(tmp_path / "net.onnx"), 0.5)
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="not a face detector that OpenCV can run"):
        detector.load_detector(str(tmp_path / "net.onnx"), 0.5)
    (strange := tmp_path / os.fsdecode(b"\xff.onnx")).write_bytes(b"x")
    with pytest.raises(InputError, match="OpenCV opens UTF-8 names alone"):
        detector.load_detector(str(strange), 0.5)
    # CenterFace's own file has other outputs than a YuNet's.
    with pytest.raises(InputError, match="not a face detector that OpenCV can run"):
        detector.load_detector(detector.centerface_path(), 0.5)
    monkeypatch.setattr(detector.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install .*predict.*--boxes FILE.*--boxes image"):
        detector.load_detector("centerface", 0.5)


@pytest.mark.parametrize("box", BOXES)
def test_margins_lead_from_a_detectors_own_boxes_to_those_of_the_training(box):
    own = np.float32([[100, 50, 180, 150]])
    rectangle = geometry.add_margins(own, np.array(detector.RECTANGLE_MARGINS))
    found = geometry.add_margins(own, detector.margins_to(box))
    np.testing.assert_allclose(found, detector.frame(rectangle, box), atol=1e-3)
