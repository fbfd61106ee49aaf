import numpy as np
import pytest

from flm_jax.inference import tta

BOXES = np.array([[100, 50, 200, 250], [-20, 0, 20, 40]], np.float32)
MOVED = np.add(BOXES, [10, -10, 10, -10], dtype=np.float32)
NO_MARGINS = np.zeros(4)


def make_faces(boxes, margins=(0.1, 0.3, 0.2, 0.0)):
    """Landmarks whose boxes, with these margins, are the given ones."""
    left, top, right, bottom = margins
    faces = np.random.default_rng(0).uniform(0, 1, (len(boxes), 98, 2))
    faces[:, 0], faces[:, 1] = 0, 1
    inner = (boxes[:, 2:] - boxes[:, :2]) / [1 + left + right, 1 + top + bottom]
    corner = boxes[:, :2] + inner * [left, top]
    return (corner[:, None] + faces * inner[:, None]).astype(np.float32)


def test_boxes_around_landmarks_have_the_margins_that_were_found():
    landmarks = make_faces(BOXES)
    margins = tta.mean_margins(BOXES, landmarks)
    np.testing.assert_allclose(margins, [0.1, 0.3, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(tta.boxes_around(landmarks, margins), BOXES, atol=1e-4)


def test_a_second_crop_that_holds_no_face_is_not_taken():
    landmarks = make_faces(BOXES)
    landmarks[0] = landmarks[0, 5] + 0.01 * (landmarks[0] - landmarks[0, 5])
    found = tta.second_boxes(landmarks, BOXES, np.array([0.1, 0.3, 0.2, 0.0]))
    np.testing.assert_allclose(found, BOXES, atol=1e-4)
    landmarks = make_faces(MOVED)
    found = tta.second_boxes(landmarks, BOXES, np.array([0.1, 0.3, 0.2, 0.0]))
    np.testing.assert_allclose(found, MOVED, atol=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_shift_and_a_scaling_are_of_the_stated_size(share):
    boxes = np.repeat(BOXES, 500, axis=0)
    sides = boxes[:, 2:] - boxes[:, :2]
    moved = tta.shifted_boxes(np.random.default_rng(0), boxes, share)
    np.testing.assert_allclose(moved[:, 2:] - moved[:, :2], sides, rtol=1e-5)
    steps = (moved[:, :2] - boxes[:, :2]) / sides
    np.testing.assert_allclose(np.hypot(*steps.T), share, rtol=1e-4)
    assert np.abs(steps.mean(axis=0)).max() < 0.1 * share
    scaled = tta.scaled_boxes(np.random.default_rng(0), boxes, share)
    np.testing.assert_allclose(
        scaled[:, :2] + scaled[:, 2:], boxes[:, :2] + boxes[:, 2:], atol=1e-3
    )
    ratio = (scaled[:, 2:] - scaled[:, :2]) / sides
    np.testing.assert_allclose(np.abs(ratio - 1), share, rtol=1e-4)
    assert 0.4 < (ratio[:, 0] > 1).mean() < 0.6


def test_random_boxes_stay_within_their_bound():
    boxes = np.repeat(BOXES, 2000, axis=0)
    sides = boxes[:, 2:] - boxes[:, :2]
    found = tta.random_boxes(np.random.default_rng(0), boxes, 0.1)
    move = (found[:, :2] + found[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    growth = (found[:, 2:] - found[:, :2]) / sides - 1
    for values in (move, growth):
        assert 0.095 < np.abs(values).max() <= 0.1001
        assert abs(values.mean()) < 0.01


def looks(**chosen):
    """The boxes and sides that are looked at, and the result, where a look finds the box's middle
    with an error of 8 px to the picture's right, in the mirrored face to its left."""
    seen = []

    def predict(boxes, flip):
        seen.append((boxes, flip))
        points = make_faces(boxes, margins=(0, 0, 0, 0))
        return points + np.array([-8 if flip else 8, 0], np.float32)

    settings = {"two_pass": False, "flip": False, "extra_crops": 0, "box_noise": 0.1, **chosen}
    return seen, tta.predict_with_tta(predict, BOXES, NO_MARGINS, **settings)


def test_without_gains_there_is_one_look():
    seen, found = looks()
    assert len(seen) == 1
    np.testing.assert_allclose(found, np.add(make_faces(BOXES, (0, 0, 0, 0)), [8, 0]), atol=1e-4)


def test_the_mirrored_look_is_averaged():
    seen, found = looks(flip=True)
    assert [side for _, side in seen] == [False, True]
    np.testing.assert_allclose(found, make_faces(BOXES, (0, 0, 0, 0)), atol=1e-4)


def test_the_second_pass_looks_where_the_first_found_the_face():
    seen, found = looks(two_pass=True)
    assert len(seen) == 2
    np.testing.assert_allclose(seen[1][0], np.add(BOXES, [8, 0, 8, 0]), atol=1e-4)
    np.testing.assert_allclose(found, np.add(make_faces(BOXES, (0, 0, 0, 0)), [16, 0]), atol=1e-4)


def test_jittered_looks_are_averaged_with_the_first():
    seen, found = looks(extra_crops=3, flip=True)
    assert len(seen) == 8
    np.testing.assert_array_equal(seen[0][0], BOXES)
    assert all((seen[i][0] != BOXES).any() for i in range(2, 8))
    expected = np.mean([make_faces(boxes, (0, 0, 0, 0)) for boxes, _ in seen], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-3)
