import numpy as np
import pytest

from flm_jax import geometry
from flm_jax.errors import InputError
from flm_jax.inference.detector import Detections
from flm_jax.inference.tracking import FaceTracker

MARGINS = np.zeros(4)
SHAPE = np.stack(np.meshgrid(np.linspace(0, 1, 14), np.linspace(0, 1, 7)), -1).reshape(98, 2)
PATTERN, OTHER = (
    np.repeat(np.repeat(np.random.default_rng(seed).integers(0, 255, (6, 6, 3)), 10, 0), 10, 1)
    for seed in (0, 1)
)


class Scene:
    """A pattern for a face; who looks finds it where it is, or a shape in the middle of the box."""

    def __init__(self):
        self.corner, self.calls, self.seen = (40, 30), 0, True

    def image(self):
        image = np.full((200, 300, 3), 90, np.uint8)
        if self.corner:
            x, y = self.corner
            image[y : y + 60, x : x + 60] = PATTERN
        return image

    def box(self):
        x, y = self.corner
        return np.float32([x, y, x + 60, y + 60])

    def detect(self, image):
        self.calls += 1
        if not self.corner or not self.seen:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        return Detections(self.box()[None], np.float32([0.9]))

    def predict(self, image, boxes):
        if self.corner:
            boxes = np.repeat(self.box()[None], len(boxes), 0)
        points = boxes[:, None, :2] + SHAPE * (boxes[:, None, 2:] - boxes[:, None, :2])
        return points.astype(np.float32), None


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def tracker(scene):
    return FaceTracker(scene.detect, scene.predict, MARGINS, {"cutoff": 1.0, "beta": 1.0})


def test_the_detector_looks_once_at_a_face_that_moves(scene, tracker):
    for i in range(30):
        scene.corner = (40 + 4 * i, 30)
        (face,) = tracker(scene.image(), i / 25)
        assert face.track == 0
        np.testing.assert_allclose(geometry.bounding_box(face.raw), scene.box(), atol=1e-3)
    assert scene.calls == tracker.num_detections == 1


def test_a_face_that_has_gone_is_not_kept(scene, tracker):
    tracker(scene.image(), 0.0)
    scene.corner = None
    assert tracker(scene.image(), 0.04) == []
    assert tracker(scene.image(), 0.08) == []
    assert scene.calls == 3, "it is looked for in every frame without one"
    scene.corner = (150, 90)
    assert tracker(scene.image(), 0.12)[0].track == 1


def test_a_face_that_jumps_is_found_anew(scene, tracker):
    tracker(scene.image(), 0.0)
    scene.corner = (200, 120)
    (face,) = tracker(scene.image(), 0.04)
    assert scene.calls == 2
    np.testing.assert_allclose(geometry.bounding_box(face.landmarks), scene.box(), atol=1e-3)


def test_a_face_that_changes_its_look_is_looked_at_again_and_keeps_its_number(scene, tracker):
    tracker(scene.image(), 0.0)
    image = scene.image()
    x, y = scene.corner
    image[y : y + 60, x : x + 60] = OTHER
    assert tracker(image, 0.04)[0].track == 0
    assert scene.calls == 2
    assert tracker(image, 0.08)[0].track == 0
    assert scene.calls == 2, "the new look is the one to compare with"


def test_light_changes_nothing(scene, tracker):
    tracker(scene.image(), 0.0)
    tracker((0.4 * scene.image()).astype(np.uint8), 0.04)
    assert scene.calls == 1


def test_points_that_are_no_numbers_are_a_lost_face(scene, tracker):
    tracker(scene.image(), 0.0)
    tracker._predict = lambda image, boxes: (np.full((1, 98, 2), np.nan, np.float32), None)
    scene.seen = False
    assert tracker(scene.image(), 0.04) == []


def test_points_that_are_no_numbers_of_a_face_just_found_are_an_error(scene, tracker):
    tracker._predict = lambda image, boxes: (np.full((1, 98, 2), np.nan, np.float32), None)
    with pytest.raises(InputError, match="no finite numbers"):
        tracker(scene.image(), 0.0)
