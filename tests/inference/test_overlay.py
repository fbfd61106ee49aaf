import numpy as np
import pytest
from support.heads import drawn_landmarks

from flm_jax import geometry
from flm_jax.inference import overlay
from flm_jax.inference.outputs import Face
from flm_jax.landmarks import PARTS

POINTS, _ = drawn_landmarks(np.random.default_rng(0))


def draw(points, size, box=None):
    image = np.full((size, size, 3), 128, np.uint8)
    box = geometry.bounding_box(points) if box is None else box
    overlay.draw_face(image, Face(box, 0.9, points, None))
    return image


def test_points_have_the_colour_of_their_part():
    points = 3 * POINTS
    image = draw(points, 1200)
    for part in PARTS:
        if part.group in ("contour", "pupils"):  # No axis runs over these.
            x, y = np.round(points[part.indices[len(part.indices) // 2]]).astype(int)
            np.testing.assert_allclose(image[y, x], 255 * np.array(part.colour[::-1]), atol=40)


@pytest.mark.parametrize("points", [POINTS + 1e10, POINTS - 1e3, np.full_like(POINTS, 20)])
def test_points_far_outside_or_coinciding_are_drawn(points):
    assert (draw(points, 50, np.array([-1e12, 0, 1e12, 30])) != 128).any()


def test_a_hidden_point_is_hollow():
    points = 3 * POINTS
    image = np.full((1200, 1200, 3), 128, np.uint8)
    visibility = np.where(np.arange(98) == 85, 0.2, 0.9)
    face = Face(geometry.bounding_box(points), 0.9, points, None, {"visibility": visibility})
    overlay.draw_face(image, face)
    for i, hollow in ((85, True), (79, False)):
        x, y = np.round(points[i]).astype(int)
        assert (image[y, x] == 128).all() == hollow
