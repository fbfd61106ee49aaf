import numpy as np

from flm_jax.inference import tta

BOXES = np.array([[100, 50, 200, 250], [-20, 0, 20, 40]], np.float32)
MARGINS = np.array([0.1, 0.3, 0.2, 0.0])
NO_MARGINS = np.zeros(4)


def make_faces(boxes, margins=NO_MARGINS):
    """Landmarks whose boxes, with these margins, are the given ones."""
    left, top, right, bottom = margins
    faces = np.random.default_rng(0).uniform(0, 1, (len(boxes), 98, 2))
    faces[:, 0], faces[:, 1] = 0, 1
    inner = (boxes[:, 2:] - boxes[:, :2]) / [1 + left + right, 1 + top + bottom]
    corner = boxes[:, :2] + inner * [left, top]
    return (corner[:, None] + faces * inner[:, None]).astype(np.float32)


def test_boxes_around_landmarks_have_the_mean_margins():
    landmarks = make_faces(BOXES, MARGINS)
    np.testing.assert_allclose(tta.mean_margins(BOXES, landmarks), MARGINS, atol=1e-6)
    np.testing.assert_allclose(tta.boxes_around(landmarks, MARGINS), BOXES, atol=1e-4)


def test_a_second_box_that_holds_no_face_is_not_taken():
    moved = np.add(BOXES, [10, -10, 10, -10], dtype=np.float32)
    landmarks = make_faces(moved, MARGINS)
    landmarks[0] = landmarks[0, 5] + 0.01 * (landmarks[0] - landmarks[0, 5])
    found = tta.second_boxes(landmarks, BOXES, MARGINS)
    np.testing.assert_allclose(found, [BOXES[0], moved[1]], atol=1e-4)


def test_noisy_boxes_stay_within_their_bound():
    boxes = np.repeat(BOXES, 2000, axis=0)
    sides = boxes[:, 2:] - boxes[:, :2]
    found = tta.noisy_boxes(np.random.default_rng(0), boxes, 0.1)
    shift = (found[:, :2] + found[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    growth = (found[:, 2:] - found[:, :2]) / sides - 1
    for values in (shift, growth):
        assert 0.095 < np.abs(values).max() <= 0.1001
        assert abs(values.mean()) < 0.01


def run(**chosen):
    """The boxes and flips that are predicted, and the result, where each prediction is 8 px too far
    to the image's right, that of a flipped crop to its left."""
    seen = []

    def predict(boxes, flip):
        seen.append((boxes, flip))
        return make_faces(boxes) + np.array([-8 if flip else 8, 0], np.float32)

    settings = {"two_pass": False, "flip": False, "extra_crops": 0, "box_noise": 0.1, **chosen}
    found = tta.predict_with_tta(predict, BOXES, NO_MARGINS, **settings)
    return seen, found - make_faces(BOXES)


def test_each_option_predicts_where_it_should_and_the_mean_is_returned():
    seen, error = run()
    assert len(seen) == 1
    np.testing.assert_allclose(error, np.broadcast_to([8, 0], error.shape), atol=1e-4)
    seen, error = run(flip=True)
    assert [flip for _, flip in seen] == [False, True]
    np.testing.assert_allclose(error, 0, atol=1e-4)
    seen, error = run(two_pass=True)
    np.testing.assert_allclose(seen[1][0], np.add(BOXES, [8, 0, 8, 0]), atol=1e-4)
    np.testing.assert_allclose(error, np.broadcast_to([16, 0], error.shape), atol=1e-4)
    seen, error = run(extra_crops=3, flip=True)
    assert len(seen) == 8
    np.testing.assert_array_equal(seen[0][0], BOXES)
    assert all((seen[i][0] != BOXES).any() for i in range(2, 8))
    expected = np.mean([make_faces(boxes) for boxes, _ in seen], axis=0) - make_faces(BOXES)
    np.testing.assert_allclose(error, expected, atol=1e-3)
