import numpy as np
import pytest

from flm_jax.evaluation import metrics
from flm_jax.evaluation.report import hidden_points


def faces_with_errors(errors):
    """Targets whose eyes are 50 px apart, and predictions with the given NME in every point."""
    targets = np.zeros((len(errors), 98, 2), np.float32)
    targets[:, 72, 0] = 50
    predictions = targets.copy()
    predictions[..., 1] += 50 * np.array(errors, np.float32)[:, None]
    return predictions, targets


def test_nme_is_mean_distance_over_the_outer_eye_corners():
    predictions, targets = faces_with_errors([0.05, 0.2, 0])
    predictions[2, 10] = [3.0, 4.0]  # One point of 98 is 5 px off.
    expected = [0.05, 0.2, 5 / 98 / 50]
    np.testing.assert_allclose(metrics.nme(predictions, targets), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.nme(7 * predictions, 7 * targets), expected, rtol=1e-6)


def test_failure_is_strictly_above_the_threshold_or_no_number():
    assert metrics.failure_rate(np.array([0.05, 0.10, 0.1000001, np.nan])) == 0.5


def test_auc_is_the_integral_of_the_error_curve():
    # 0.05 contributes a half, 0.1 and more nothing, 0 all.
    assert metrics.auc(np.array([0.05, 0.10, 0.3, 0.0])) == pytest.approx(1.5 / 4)
    errors = np.random.default_rng(1).gamma(4, 0.015, 500)
    thresholds = np.linspace(0, 0.10, 1001)
    curve = (errors[None] <= thresholds[:, None]).mean(axis=1)
    assert metrics.auc(errors) == pytest.approx(np.trapezoid(curve, thresholds) / 0.10, abs=1e-3)


def test_mean_shape_placed_in_its_own_boxes_gives_the_faces_back():
    shape = np.random.default_rng(2).uniform(0, 1, (98, 2)).astype(np.float32)
    boxes = np.array([[10, 20, 50, 100], [-5, 0, 95, 60]], np.float32)
    faces = metrics.place_shape(shape, boxes)
    np.testing.assert_allclose(metrics.mean_shape(faces, boxes), shape, atol=1e-5)
    np.testing.assert_allclose(faces[0, 3], [10 + 40 * shape[3, 0], 20 + 80 * shape[3, 1]])


def test_group_errors_are_of_their_points_and_weighted_by_them_the_nme():
    predictions, targets = faces_with_errors([0.0, 0.0])
    predictions[0, 96] = targets[0, 96] + [30.0, 40.0]  # 50 px, one pupil of two
    predictions[1, :33] += [0.0, 5.0]
    found = metrics.group_nme(predictions, targets)
    expected = {"contour": 0.05, "brows": 0, "nose": 0, "eyes": 0, "mouth": 0, "pupils": 0.25}
    assert found == pytest.approx(expected)
    counts = {"contour": 33, "brows": 18, "nose": 9, "eyes": 16, "mouth": 20, "pupils": 2}
    assert list(found) == list(counts)
    mean = sum(counts[group] * error for group, error in found.items()) / 98
    assert mean == pytest.approx(metrics.nme(predictions, targets).mean())


def test_the_bootstrap_interval_is_that_of_a_mean():
    errors = np.random.default_rng(1).gamma(4, 0.015, 400)
    half = 1.96 * errors.std() / np.sqrt(400)
    expected = (errors.mean() - half, errors.mean() + half)
    assert metrics.nme_interval(errors) == pytest.approx(expected, rel=0.02)
    assert metrics.nme_interval(errors) == metrics.nme_interval(errors)


def test_average_precision_is_that_of_a_ranking():
    positive = np.array([True, False, True, False])
    assert metrics.average_precision(np.array([0.9, 0.8, 0.7, 0.1]), positive) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    # Equal scores say nothing: the share of positives.
    assert metrics.average_precision(np.full(4, 0.5), positive) == 0.5
    assert metrics.average_precision(positive.astype(float), positive) == 1


def test_hidden_points_are_counted_by_occlusion_and_ranked_where_they_are_known():
    visibility = np.full((3, 98), 0.9, np.float32)
    visibility[0, :10] = 0.1
    seen = np.ones(98, bool)
    seen[:10] = False
    found = hidden_points(visibility, [seen, None, None], np.array([True, False, False]))
    assert found == {"average_precision": 1.0, "hidden_occluded": 10.0, "hidden_others": 0.0}
