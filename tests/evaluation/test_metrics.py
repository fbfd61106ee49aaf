import numpy as np
import pytest

from flm_jax.evaluation import metrics


def faces_with_errors(errors, eye_distance=50.0):
    """Targets, and predictions that are off by the given NME in every point."""
    targets = np.zeros((len(errors), 98, 2), np.float32)
    targets[:, 72, 0] = eye_distance
    predictions = targets.copy()
    predictions[..., 1] += eye_distance * np.array(errors, np.float32)[:, None]
    return predictions, targets


def test_nme_is_mean_distance_over_the_outer_eye_corners():
    predictions, targets = faces_with_errors([0.05, 0.2])
    np.testing.assert_allclose(metrics.nme(predictions, targets), [0.05, 0.2], rtol=1e-6)


def test_nme_of_one_wrong_point_by_hand():
    predictions, targets = faces_with_errors([0.0])
    predictions[0, 10] = [3.0, 4.0]  # 5 px off, 98 points, eyes 50 px apart
    assert metrics.nme(predictions, targets)[0] == pytest.approx(5 / 98 / 50)


def test_nme_does_not_change_with_scale():
    rng = np.random.default_rng(0)
    targets, predictions = rng.normal(size=(2, 3, 98, 2)).astype(np.float32)
    np.testing.assert_allclose(
        metrics.nme(7 * predictions, 7 * targets), metrics.nme(predictions, targets), rtol=1e-5
    )


def test_failure_is_strictly_above_the_threshold():
    assert metrics.failure_rate(np.array([0.05, 0.10, 0.1000001, 0.5])) == 0.5


def test_no_number_is_a_failure():
    assert metrics.failure_rate(np.array([0.05, np.nan])) == 0.5


def test_auc_by_hand():
    # 0.05 contributes a half, 0.1 and more nothing, 0 all.
    assert metrics.auc(np.array([0.05, 0.10, 0.3, 0.0])) == pytest.approx(1.5 / 4)


def test_auc_is_the_integral_of_the_error_curve():
    errors = np.random.default_rng(1).gamma(4, 0.015, 500)
    thresholds = np.linspace(0, 0.10, 100_001)
    curve = (errors[None] <= thresholds[::100, None]).mean(axis=1)
    numeric = np.trapezoid(curve, thresholds[::100]) / 0.10
    assert metrics.auc(errors) == pytest.approx(numeric, abs=1e-3)


def test_mean_shape_placed_in_its_own_boxes_gives_similar_faces_back():
    shape = np.random.default_rng(2).uniform(0, 1, (98, 2)).astype(np.float32)
    boxes = np.array([[10, 20, 50, 100], [-5, 0, 95, 60]], np.float32)
    faces = metrics.place_shape(shape, boxes)
    np.testing.assert_allclose(metrics.mean_shape(faces, boxes), shape, atol=1e-5)
    np.testing.assert_allclose(faces[0, 3], [10 + 40 * shape[3, 0], 20 + 80 * shape[3, 1]])


def test_group_nme_by_hand():
    predictions, targets = faces_with_errors([0.0, 0.0])
    predictions[0, 96] = targets[0, 96] + [30.0, 40.0]  # 50 px, eyes 50 px apart, one pupil of two
    predictions[1, :33] += [0.0, 5.0]
    found = metrics.group_nme(predictions, targets)
    assert found == pytest.approx(
        {"contour": 0.05, "brows": 0, "nose": 0, "eyes": 0, "mouth": 0, "pupils": 0.25}
    )


def test_group_errors_weighted_by_their_points_are_the_nme():
    rng = np.random.default_rng(0)
    targets, predictions = rng.normal(size=(2, 5, 98, 2)).astype(np.float32)
    groups = metrics.group_nme(predictions, targets)
    counts = {"contour": 33, "brows": 18, "nose": 9, "eyes": 16, "mouth": 20, "pupils": 2}
    assert list(groups) == list(counts)
    mean = sum(counts[group] * error for group, error in groups.items()) / 98
    assert mean == pytest.approx(metrics.nme(predictions, targets).mean())


def test_the_bootstrap_interval_is_that_of_a_mean():
    errors = np.random.default_rng(1).gamma(4, 0.015, 400)
    low, high = metrics.nme_interval(errors)
    half = 1.96 * errors.std() / np.sqrt(400)
    assert low == pytest.approx(errors.mean() - half, rel=0.02)
    assert high == pytest.approx(errors.mean() + half, rel=0.02)
    assert metrics.nme_interval(errors) == (low, high)
    assert metrics.nme_interval(np.full(7, 0.05)) == pytest.approx((0.05, 0.05))
