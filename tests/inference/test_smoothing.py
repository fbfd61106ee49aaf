import numpy as np

from flm_jax.inference.smoothing import OneEuroFilter

FACE = np.random.default_rng(0).uniform(0, 100, (98, 2)).astype(np.float32)


def smooth(frames, **settings):
    one_euro = OneEuroFilter(**{"cutoff": 1.0, "beta": 10.0, **settings})
    return np.stack([one_euro(points, i / 25) for i, points in enumerate(frames)])


def test_jitter_of_a_still_face_shrinks():
    rng = np.random.default_rng(0)
    frames = [FACE + rng.normal(0, 0.5, FACE.shape).astype(np.float32) for _ in range(100)]
    found = smooth(frames)[20:]
    assert np.diff(found, axis=0).std() < 0.35 * np.diff(frames, axis=0).std()
    assert np.abs(found.mean(axis=0) - FACE).max() < 0.5


def test_a_face_that_moves_fast_is_followed_closely():
    frames = [FACE + np.float32([6 * i, 0]) for i in range(60)]  # 1.5 faces a second
    assert (np.array(frames) - smooth(frames))[20:, :, 0].max() < 6
    assert (np.array(frames) - smooth(frames, beta=0.0))[20:, :, 0].min() > 15


def test_the_size_of_the_face_changes_nothing():
    rng = np.random.default_rng(1)
    frames = np.cumsum(rng.normal(0, 2, (30, 98, 2)), axis=0).astype(np.float32) + FACE
    np.testing.assert_allclose(smooth(8 * frames), 8 * smooth(frames), rtol=1e-3, atol=1e-2)


def test_no_cutoff_or_a_clock_that_does_not_advance_leaves_points_as_they_are():
    frames = [FACE, FACE + 5, FACE]
    np.testing.assert_array_equal(smooth(frames, cutoff=0.0), frames)
    for times in ((0.0, 0.0), (1.0, 0.5)):
        one_euro = OneEuroFilter(cutoff=1.0, beta=1.0)
        one_euro(FACE, times[0])
        np.testing.assert_array_equal(one_euro(FACE + 5, times[1]), FACE + 5)
