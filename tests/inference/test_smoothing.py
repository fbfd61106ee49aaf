import numpy as np
import pytest

from flm_jax.inference.smoothing import OneEuroFilter

FACE = np.random.default_rng(0).uniform(0, 100, (98, 2)).astype(np.float32)


def filtered(frames, rate=25.0, **settings):
    smooth = OneEuroFilter(**{"cutoff": 1.0, "beta": 10.0, **settings})
    return np.stack([smooth(points, i / rate) for i, points in enumerate(frames)])


def test_a_still_face_with_noise_trembles_less():
    rng = np.random.default_rng(0)
    frames = [FACE + rng.normal(0, 0.5, FACE.shape).astype(np.float32) for _ in range(100)]
    steady = filtered(frames)[20:]
    assert np.diff(steady, axis=0).std() < 0.35 * np.diff(frames, axis=0).std()
    assert np.abs(steady.mean(axis=0) - FACE).max() < 0.5


def test_a_face_that_moves_fast_is_followed_closely():
    frames = [FACE + np.float32([6 * i, 0]) for i in range(60)]  # 1.5 faces a second
    late = (np.array(frames) - filtered(frames))[20:, :, 0]
    assert late.max() < 6
    slow = (np.array(frames) - filtered(frames, beta=0.0))[20:, :, 0]
    assert slow.min() > 15


def test_points_that_stay_are_left_alone():
    np.testing.assert_allclose(filtered([FACE] * 5), [FACE] * 5, atol=1e-4)


def test_the_size_of_the_face_changes_nothing():
    rng = np.random.default_rng(1)
    frames = np.cumsum(rng.normal(0, 2, (30, 98, 2)), axis=0).astype(np.float32) + FACE
    np.testing.assert_allclose(filtered(8 * frames), 8 * filtered(frames), rtol=1e-3, atol=1e-2)


def test_no_cutoff_leaves_the_points_as_they_are():
    frames = [FACE, FACE + 5, FACE]
    np.testing.assert_array_equal(filtered(frames, cutoff=0.0), frames)


@pytest.mark.parametrize("times", [(0.0, 0.0), (1.0, 0.5)])
def test_a_clock_that_stands_still_or_goes_back_does_no_harm(times):
    smooth = OneEuroFilter(cutoff=1.0, beta=1.0)
    smooth(FACE, times[0])
    np.testing.assert_array_equal(smooth(FACE + 5, times[1]), FACE + 5)
