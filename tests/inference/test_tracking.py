import numpy as np
import pytest

from flm_jax import geometry
from flm_jax.errors import InputError
from flm_jax.inference.detector import Detections
from flm_jax.inference.predictor import Predictions
from flm_jax.inference.tracking import FaceTracker

SHAPE = np.stack(np.meshgrid(np.linspace(0, 1, 14), np.linspace(0, 1, 7)), -1).reshape(98, 2)
PATTERN, OTHER = (
    np.kron(np.random.default_rng(seed).integers(0, 255, (6, 6, 3)), np.ones((10, 10, 1)))
    for seed in (0, 1)
)


class Scene:
    """A pattern for a face, and a network that finds it, or a shape in the box without one."""

    def __init__(self):
        self.corner, self.pattern, self.calls, self.broken = (40, 30), PATTERN, 0, False
        self.tracker = FaceTracker(
            self.detect, self.predict, np.zeros(4), {"cutoff": 1.0, "beta": 1e6}
        )

    def look(self, time, gain=1.0):
        image = np.full((200, 300, 3), 90, np.uint8)
        if self.corner:
            x, y = self.corner
            image[y : y + 60, x : x + 60] = self.pattern
        return self.tracker((gain * image).astype(np.uint8), time)

    def box(self):
        x, y = self.corner
        return np.float32([[x, y, x + 60, y + 60]])

    def detect(self, image):
        self.calls += 1
        if not self.corner:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        return Detections(self.box(), np.float32([0.9]))

    def predict(self, image, boxes):
        if self.corner:
            boxes = np.repeat(self.box(), len(boxes), 0)
        points = boxes[:, None, :2] + SHAPE * (boxes[:, None, 2:] - boxes[:, None, :2])
        return Predictions(np.where(self.broken, np.nan, points).astype(np.float32), {})


@pytest.fixture
def scene():
    return Scene()


def test_the_detector_runs_once_for_a_face_that_moves_in_any_light(scene):
    for i in range(30):
        scene.corner = (40 + 4 * i, 30)
        (face,) = scene.look(i / 25)
        np.testing.assert_allclose(geometry.bounding_box(face.landmarks), scene.box()[0], atol=0.1)
        scene.look((i + 0.5) / 25, gain=0.7)  # Light changes nothing.
    assert scene.calls == scene.tracker.num_detections == 1


def test_a_face_that_has_gone_is_not_kept(scene):
    scene.look(0.0)
    scene.corner = None
    assert scene.look(0.04) == scene.look(0.08) == []
    assert scene.calls == 3, "it is looked for in every frame without one"
    scene.corner = (150, 90)
    assert len(scene.look(0.12)) == 1


def test_a_face_that_jumps_is_found_anew(scene):
    scene.look(0.0)
    scene.corner = (200, 120)
    (face,) = scene.look(0.04)
    assert scene.calls == 2
    np.testing.assert_allclose(geometry.bounding_box(face.landmarks), scene.box()[0], atol=1e-3)


def test_a_face_of_another_look_is_detected_again_and_keeps_its_filter(scene):
    scene.look(0.0)
    before = scene.tracker._tracks[0].smooth
    scene.pattern = OTHER
    scene.look(0.04)
    assert scene.calls == 2
    assert scene.tracker._tracks[0].smooth is before
    scene.look(0.08)
    assert scene.calls == 2, "the new look is the one to compare with"


def test_points_that_are_not_finite_are_a_lost_face_or_an_error_of_a_new_one(scene):
    scene.look(0.0)
    scene.broken = True
    with pytest.raises(InputError, match="no finite numbers"):
        scene.look(0.04)
    scene.corner = None
    assert scene.look(0.08) == []
