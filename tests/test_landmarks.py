import itertools

import numpy as np

from flm_jax.landmarks import MIRROR, NUM_LANDMARKS, PARTS


def test_parts_hold_every_landmark_once():
    indices = itertools.chain.from_iterable(part.indices for part in PARTS)
    assert sorted(indices) == list(range(NUM_LANDMARKS))


def test_flipping_twice_changes_nothing_and_keeps_the_group():
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(NUM_LANDMARKS))
    group = {i: part.group for part in PARTS for i in part.indices}
    assert all(group[i] == group[MIRROR[i]] for i in range(NUM_LANDMARKS))


def test_points_on_the_middle_line_stay():
    fixed = np.flatnonzero(np.arange(NUM_LANDMARKS) == MIRROR)
    np.testing.assert_array_equal(fixed, [16, 51, 52, 53, 54, 57, 79, 85, 90, 94])
