import numpy as np

from flm_jax.evaluation import measure_limits


def test_a_row_changes_one_thing_of_the_same_heads():
    plain, points = measure_limits._draw(3)
    again, _ = measure_limits._draw(3)
    np.testing.assert_array_equal(plain, again)
    dark, same = measure_limits._draw(3, skin=(96, 62, 46))
    np.testing.assert_array_equal(points, same)
    assert dark.shape == plain.shape
    assert dark.mean() < plain.mean()
    turned, other = measure_limits._draw(3, yaw=60)
    assert np.abs(other - points).max() > 10
    small, near = measure_limits._draw(3, width=20)
    assert abs(np.ptp(near[:, 0]) - 20) < 0.5
    assert small.shape[0] < plain.shape[0]
    assert turned.shape != plain.shape
