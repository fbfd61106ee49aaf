import numpy as np
import pytest

from flm_jax.evaluation.box_robustness import scaled_boxes, shifted_boxes

BOXES = np.tile(np.float32([[100, 50, 200, 250], [-20, 0, 20, 40]]), (500, 1))
SIDES = BOXES[:, 2:] - BOXES[:, :2]


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_shifts_and_scalings_have_the_stated_size(share):
    moved = shifted_boxes(np.random.default_rng(0), BOXES, share)
    np.testing.assert_allclose(moved[:, 2:] - moved[:, :2], SIDES, rtol=1e-5)
    steps = (moved[:, :2] - BOXES[:, :2]) / SIDES
    np.testing.assert_allclose(np.hypot(*steps.T), share, rtol=1e-4)
    assert np.abs(steps.mean(axis=0)).max() < 0.1 * share
    scaled = scaled_boxes(np.random.default_rng(0), BOXES, share)
    middles = [boxes[:, :2] + boxes[:, 2:] for boxes in (scaled, BOXES)]
    np.testing.assert_allclose(*middles, atol=1e-3)
    ratio = (scaled[:, 2:] - scaled[:, :2]) / SIDES
    np.testing.assert_allclose(np.abs(ratio - 1), share, rtol=1e-4)
    assert 0.4 < (ratio[:, 0] > 1).mean() < 0.6
