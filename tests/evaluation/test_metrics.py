import numpy as np
import pytest

from flm_jax.evaluation import metrics
from flm_jax.evaluation.report import hidden_points


def test_failure_is_strictly_above_the_threshold_or_no_number():
    assert metrics.failure_rate(np.array([0.05, 0.10, 0.1000001, np.nan])) == 0.5


def test_auc_is_the_integral_of_the_error_curve():
    # 0.05 contributes a half, 0.1 and more nothing, 0 all.
    assert metrics.auc(np.array([0.05, 0.10, 0.3, 0.0])) == pytest.approx(1.5 / 4)
    errors = np.random.default_rng(1).gamma(4, 0.015, 500)
    thresholds = np.linspace(0, 0.10, 1001)
    curve = (errors[None] <= thresholds[:, None]).mean(axis=1)
    assert metrics.auc(errors) == pytest.approx(np.trapezoid(curve, thresholds) / 0.10, abs=1e-3)


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
