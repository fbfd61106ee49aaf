import cv2
import numpy as np

from flm_jax.drawing import compare, compare_edges
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


def test_an_edge_beside_the_contour_is_found_where_it_is_in_a_tilted_face_too():
    marks = posed_landmarks(HeadParameters(roll=20)) * 80 + [160, 110]
    size = np.sqrt(np.prod(np.ptp(posed_landmarks(HeadParameters()) * 80, axis=0)))
    for beside in (-2.0, 3.0):
        # A face whose edge is that far outside of the points, in per cent of its size.
        along = np.gradient(marks[:33], axis=0)
        outwards = np.stack([-along[:, 1], along[:, 0]], 1)  # They run from the left down.
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        image = np.full((300, 320, 3), (200, 0, 0), np.uint8)  # BGR: red is brighter than blue.
        edge = marks[:33] + outwards * beside / 100 * size
        outline = np.round(edge * 16).astype(np.int32)
        cv2.fillPoly(image, [outline], (0, 0, 200), cv2.LINE_AA, 4)
        grey, points = compare_edges.upright(image, marks)
        brightness = compare_edges.profiles(grey, points)
        sides = list(compare_edges.PARTS["jaw"])
        steepness = np.abs(np.gradient(brightness, axis=1))[sides].mean(0)
        np.testing.assert_allclose(compare_edges.edge(steepness), beside, atol=0.4)
        assert brightness[sides, 0].mean() > brightness[sides, -1].mean() + 1
        np.testing.assert_allclose(points[60, 1], points[72, 1], atol=0.5)


def test_a_face_that_is_turned_is_not_compared():
    front, turned = (posed_landmarks(HeadParameters(yaw=yaw)) for yaw in (0, 25))
    assert compare_edges.looks_at_the_camera(front)
    assert not compare_edges.looks_at_the_camera(turned)
