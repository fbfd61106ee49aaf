import threading

import cv2
import numpy as np
import pytest

from flm_jax.drawing import dataset
from flm_jax.errors import InputError
from flm_jax.inference import detector

PLAIN = (0.0, 0.0, 0.0, 0.0)


class FakeNet:
    """Says of any picture that there are faces of `size` at cells (row, column, score)."""

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
    net = FakeNet(faces, size)
    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda path: net)
    return net, detector.CenterFace(path="file.onnx", margins=PLAIN, side=320, **settings)


def test_a_cell_becomes_a_box_in_pixels_of_the_picture(monkeypatch):
    net, detect = fake(monkeypatch, [(20, 30, 0.9)])
    found = detect(np.zeros((400, 640, 3), np.uint8))
    assert net.inputs[0].shape == (1, 3, 224, 320), "200 rows, black up to a multiple of 32"
    # Middle at (30 + 0.5 + 0.5, 20 + 0.25 + 0.5) cells of 4 px of half the picture's size.
    x, y = 2 * 4 * np.array([31, 20.75]) - 0.5
    expected = [x - 32, y - 48, x + 32, y + 48]
    np.testing.assert_allclose(found.boxes[0], expected, atol=1e-3)
    assert found.scores == pytest.approx([0.9])


def test_one_face_gives_one_box_the_best(monkeypatch):
    _, detect = fake(monkeypatch, [(20, 30, 0.7), (20, 31, 0.9), (21, 30, 0.6), (20, 60, 0.8)])
    found = detect(np.zeros((320, 320, 3), np.uint8))
    assert found.scores == pytest.approx([0.9, 0.8])


def test_scores_below_the_threshold_are_no_faces(monkeypatch):
    net, detect = fake(monkeypatch, [(5, 5, 0.4)])
    found = detect(np.zeros((320, 320, 3), np.uint8))
    assert found.boxes.shape == (0, 4)
    assert [blob.shape[2] for blob in net.inputs] == [320, 160], "a second look, at half the size"
    _, detect = fake(monkeypatch, [(5, 5, 0.4)], threshold=0.3)
    assert len(detect(np.zeros((320, 320, 3), np.uint8)).boxes) == 1


def test_each_thread_has_a_net_of_its_own(monkeypatch):
    nets = []
    monkeypatch.setattr(
        cv2.dnn, "readNetFromONNX", lambda path: nets.append(FakeNet([], (8, 8))) or nets[-1]
    )
    detect = detector.CenterFace(path="file.onnx")
    image = np.zeros((64, 64, 3), np.uint8)
    threads = [threading.Thread(target=detect, args=(image,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(nets) == 3


def test_drawn_faces_are_found():
    """By CenterFace itself, whose weights the extra `predict` brings."""
    detect = detector.CenterFace()
    found = total = 0
    for seed in range(8):
        picture = dataset.draw_picture(np.random.default_rng(seed), 1)
        boxes = detect(np.ascontiguousarray(picture.image[..., ::-1])).boxes
        total += len(picture.faces)
        for face in picture.faces:
            found += len(boxes) and detector.overlaps(boxes, face.box).max() > 0.4
    assert found >= 0.7 * total


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (7, 9)])
def test_pictures_of_any_shape_can_be_looked_at(monkeypatch, shape):
    _, detect = fake(monkeypatch, [])
    assert detect(np.zeros((*shape, 3), np.uint8)).scores.shape == (0,)


def test_without_the_extra_the_message_says_how_to_go_on(monkeypatch):
    monkeypatch.setattr(detector.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install .*predict.*--boxes FILE.*--boxes image"):
        detector.load_detector("centerface", 0.5)


def test_a_yunet_file_is_run_by_opencv(monkeypatch, tmp_path):
    class Net:
        def setInputSize(self, size):  # noqa: N802
            self.size = size

        def detect(self, image):
            assert self.size == image.shape[1::-1]
            row = np.zeros((1, 15), np.float32)
            row[0, :4], row[0, -1] = (64, 32, 64, 96), 0.8
            return 1, row

    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"x")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *arguments: Net())
    detect = detector.YuNet(str(path), margins=PLAIN)
    found = detect(np.zeros((320, 320, 3), np.uint8))  # Twice as large for the net.
    np.testing.assert_allclose(found.boxes, [[31.5, 15.5, 63.5, 63.5]])
    assert found.scores == pytest.approx([0.8])


@pytest.mark.parametrize(
    ("content", "message"), [(None, "expected centerface, or the file"), (b"x", "not a face detec")]
)
def test_a_wrong_detector_file_is_refused(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        detector.load_detector(str(path), 0.5)
