import numpy as np

from flm_jax.drawing import compare
from flm_jax.drawing.parameters import HeadParameters
from flm_jax.drawing.surface import posed_landmarks
from flm_jax.landmarks import GROUPS, MIRROR, OUTER_EYE_CORNERS


def test_a_turned_shape_is_found_in_its_own_frame():
    angles = np.array([[0, 0, 0], [30, 10, 20], [-50, -15, -40]], float)
    heads = [HeadParameters(yaw=yaw, pitch=pitch, roll=roll) for yaw, pitch, roll in angles]
    marks = np.array([posed_landmarks(head) for head in heads])
    shapes = compare.own_frame(40 * marks + [100, 70])
    found = np.stack([shapes.yaw, shapes.pitch, shapes.roll], 1)
    np.testing.assert_allclose(found[:3], angles, atol=5)  # Of a camera at a finite distance.
    np.testing.assert_allclose(found[3:], angles * [-1, 1, -1], atol=5)
    corners = shapes.points[0, list(OUTER_EYE_CORNERS)]
    np.testing.assert_allclose(corners, [[-50, 0], [50, 0]], atol=2)


def test_the_report_tells_how_far_a_group_is_moved():
    marks = compare.drawn_landmarks(60, 0)
    moved = marks.copy()
    corners = marks[:, list(OUTER_EYE_CORNERS)]
    neutral = posed_landmarks(HeadParameters())
    unit = np.linalg.norm(neutral[60] - neutral[72])
    assert corners.shape == (60, 2, 2)
    moved[:, list(GROUPS["contour"]), 1] += 0.1 * unit
    real, drawn = compare.own_frame(marks), compare.own_frame(moved)
    text = compare.report(real, drawn)
    line = next(line for line in text.splitlines() if line.startswith("contour"))
    assert 6 < float(line.split()[2]) < 12
    assert "brows" in text
    np.testing.assert_allclose(real.points[60:], real.points[:60, MIRROR] * [-1, 1], atol=1e-6)
