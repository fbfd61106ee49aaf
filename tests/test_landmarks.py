import itertools

import numpy as np

from flm_jax import landmarks

# The permutation as the field writes it down, entry by entry.
MIRROR = [
    *range(32, -1, -1),
    *[46, 45, 44, 43, 42, 50, 49, 48, 47, 37, 36, 35, 34, 33, 41, 40, 39, 38],
    *[51, 52, 53, 54, 59, 58, 57, 56, 55],
    *[72, 71, 70, 69, 68, 75, 74, 73, 64, 63, 62, 61, 60, 67, 66, 65],
    *[82, 81, 80, 79, 78, 77, 76, 87, 86, 85, 84, 83],
    *[92, 91, 90, 89, 88, 95, 94, 93, 97, 96],
]


def test_mirror_permutation_is_the_published_one():
    np.testing.assert_array_equal(landmarks.MIRROR, MIRROR)


def test_mirroring_twice_changes_nothing():
    np.testing.assert_array_equal(landmarks.MIRROR[landmarks.MIRROR], np.arange(98))


def test_points_on_the_middle_line_are_their_own_mirror_images():
    fixed = np.flatnonzero(np.arange(98) == landmarks.MIRROR)
    np.testing.assert_array_equal(fixed, [16, 51, 52, 53, 54, 57, 79, 85, 90, 94])


def test_parts_hold_every_landmark_once():
    indices = itertools.chain.from_iterable(part.indices for part in landmarks.PARTS)
    assert sorted(indices) == list(range(98))


def test_mirror_keeps_the_group():
    group = {i: part.group for part in landmarks.PARTS for i in part.indices}
    assert all(group[i] == group[landmarks.MIRROR[i]] for i in range(98))
