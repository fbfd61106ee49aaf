import numpy as np
import pytest

from flm_jax import geometry

BOX = np.array([30.0, 40.0, 90.0, 160.0], np.float32)


def random_map(seed):
    return np.random.default_rng(seed).normal(size=(2, 3)) + np.eye(2, 3)


def test_box_edges_map_to_crop_edges():
    crop_from_image = geometry.crop_from_image(BOX, 64)
    corners = geometry.apply(crop_from_image, BOX.reshape(2, 2).astype(np.float64))
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [63.5, 63.5]])


def test_expanded_box_moves_every_side_outwards():
    np.testing.assert_array_equal(geometry.expand_box(BOX, 10.0), [20, 30, 100, 170])


def test_margins_are_shares_of_the_boxes_sides():
    box, margins = np.array([[10.0, 20, 30, 60]]), np.array([0.1, 0.2, -0.1, 0.0])
    moved = geometry.add_margins(box, margins)
    np.testing.assert_allclose(moved, [[8, 12, 28, 60]])
    np.testing.assert_allclose(geometry.margins_around(box, moved), [margins], atol=1e-12)
    np.testing.assert_allclose(geometry.add_margins(box, np.array([0.5])), [[0, 0, 40, 80]])


def test_invert_is_the_inverse():
    points = np.random.default_rng(0).normal(size=(5, 2))
    there = geometry.apply(random_map(1), points)
    np.testing.assert_allclose(geometry.apply(geometry.invert(random_map(1)), there), points)


@pytest.mark.parametrize("linear", [[[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]])
def test_a_map_of_no_area_has_no_inverse(linear):
    with pytest.raises(ZeroDivisionError):
        geometry.invert(np.column_stack([linear, [3.0, 5.0]]))


def test_an_upright_map_is_inverted_to_the_last_digit():
    """Whole pixels are rounded down from it, in Python and on the page."""
    for scale in np.random.default_rng(0).uniform(0.01, 10, size=(100, 2)):
        found = geometry.invert(np.column_stack([np.diag(scale), [3.0, -7.0]]))
        np.testing.assert_array_equal(found[:, :2], np.diag(1 / scale))
        np.testing.assert_array_equal(found[:, 2], [-3 * found[0, 0], 7 * found[1, 1]])


def test_a_map_that_turns_left_to_right_flips():
    turned = geometry.compose(geometry.flip(32), random_map(1))
    assert geometry.flips(turned) != geometry.flips(random_map(1))
    assert geometry.flips(geometry.flip(32))
    assert not geometry.flips(np.array([[0.0, -1, 5], [1, 0, 5]]))  # A quarter turn,
    assert geometry.flips(np.array([[0.0, 1, 5], [1, 0, 5]]))  # and its flip.


def test_maps_compose_and_apply_one_for_each_face():
    c_from_b, b_from_a = (np.stack([random_map(i), random_map(i + 1)]) for i in (2, 4))
    points = np.random.default_rng(7).normal(size=(2, 98, 2))
    found = geometry.apply(geometry.compose(c_from_b, b_from_a), points)
    for i in range(2):
        middle = points[i] @ b_from_a[i, :, :2].T + b_from_a[i, :, 2]
        np.testing.assert_allclose(found[i], middle @ c_from_b[i, :, :2].T + c_from_b[i, :, 2])


def test_steps_are_the_lengths_of_one_step_in_the_other_image():
    turned = np.array([[0.6 * 3, -0.8 * 3, 7.0], [0.8 * 5, 0.6 * 5, 9.0]])
    assert geometry.steps(turned) == pytest.approx((3.0, 5.0))


def test_the_pixels_under_a_crop_hold_its_corners_and_the_margins():
    square = np.array([[-0.5, -0.5], [31.5, -0.5], [-0.5, 31.5], [31.5, 31.5]])
    for seed in range(20):
        image_from_crop = random_map(seed) + np.array([[0, 0, 500]])
        corners = geometry.apply(image_from_crop, square)
        found = geometry.pixels_under(image_from_crop, 32, (2.0, 30.0), (1000, 1000))
        margins = np.array([2, 30])
        low, high = corners.min(axis=0) - margins, corners.max(axis=0) + margins
        np.testing.assert_array_equal(np.transpose(found), [np.floor(low), np.ceil(high)])


def test_the_pixels_under_a_crop_are_some_of_the_image():
    crop = geometry.invert(geometry.crop_from_image(np.array([-20.0, 30.0, 20.0, 900.0]), 32))
    assert geometry.pixels_under(crop, 32, (1.0, 1.0), (50, 60)) == [(0, 21), (29, 60)]
    beyond = crop - np.array([[0, 0, 500.0], [0, 0, -500.0]])
    assert geometry.pixels_under(beyond, 32, (1.0, 1.0), (50, 60)) == [(0, 1), (59, 60)]
