import cv2
import numpy as np
import pytest
from support.faces import blob_position, make_record

from flm_jax import geometry
from flm_jax.data.crop import MAX_SHRINK, crop_box, crop_image, crop_map, face_box, normalise


def box_map(*box):
    return geometry.invert(crop_map(np.array(box, np.float32), 64, margin=0.0))


@pytest.mark.parametrize(
    "image_from_crop",
    [
        box_map(100.0, 80.0, 150.0, 140.0),  # enlarged
        box_map(60.0, 50.0, 190.0, 180.0),  # shrunk by 2
        box_map(-300.0, 10.0, 300.0, 250.0),  # shrunk by 9 in x and 4 in y, beyond the image
        box_map(-100.0, -250.0, 400.0, 390.0),  # shrunk by 10 in y
        5 * np.array([[np.cos(0.6), -np.sin(0.6), 0], [np.sin(0.6), np.cos(0.6), -25]]),  # turned
    ],
)
def test_a_crop_carries_a_blob_to_its_landmark(image_from_crop):
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(image, (120, 101), 6, (255, 255, 255), -1)
    crop = crop_image(image, image_from_crop, 64)
    crop_from_image = geometry.invert(image_from_crop)
    expected = geometry.apply(crop_from_image, np.array([[120.0, 101.0]]))[0]
    np.testing.assert_allclose(blob_position(crop), expected, atol=0.15)


def test_a_shrunk_crop_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_image(stripes, box_map(-0.5, -0.5, 255.5, 255.5), 64)
    assert abs(crop.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_what_lies_outside_of_the_image_is_black(scale):
    image = np.full((100, 100, 3), 200, np.uint8)
    crop = crop_image(image, box_map(*np.array([-50, -50, 50, 50]) * scale - 0.5), 64)
    assert (crop[:31] == 0).all()
    assert (crop[:, :31] == 0).all()
    assert (crop[33:40, 33:40] == 200).all()
    assert (crop_image(image, box_map(500, 500, 900, 900), 64) == 0).all()


def test_a_crop_is_the_warped_image_as_rgb_wherever_it_looks():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (120, 170, 3), np.uint8), (5, 5), 0)
    for _ in range(40):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, MAX_SHRINK)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn[:, 0] *= rng.choice([-1, 1])  # flipped or not
        start = rng.uniform([0, 0], [170, 120]) - turn @ rng.uniform(0, 47, 2)
        image_from_crop = np.column_stack([turn, start])
        crop = crop_image(image, image_from_crop, 48)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(image, image_from_crop, (48, 48), flags=flags)
        np.testing.assert_allclose(crop.astype(int), expected[..., ::-1], atol=1)
    reduced = crop_image(np.full((60, 60, 3), (10, 20, 200), np.uint8), 3 * np.eye(2, 3), 8)
    np.testing.assert_array_equal(reduced[4, 4], [200, 20, 10])


def test_margin_factor_and_square_apply_in_this_order():
    box = np.array([20, 30, 60, 90], np.float32)
    crop_from_image = crop_map(box, 224, margin=10.0)
    corners = geometry.apply(crop_from_image, np.array([[10.0, 20.0], [70.0, 100.0]]))
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [223.5, 223.5]])
    stretched = crop_box(box, margin=10.0, factor=2.0)
    np.testing.assert_allclose(stretched, [40 - 60, 60 - 80, 40 + 60, 60 + 80])
    square = crop_box(box, margin=0.0, factor=1.5, square=True)
    np.testing.assert_allclose(square, [40 - 45, 60 - 45, 40 + 45, 60 + 45])


def test_normalised_is_from_minus_one_to_one():
    out = np.empty((1, 1, 3), np.float32)
    normalise(np.array([[[0, 51, 255]]], np.uint8), out=out)
    np.testing.assert_allclose(out, [[[-1.0, -0.6, 1.0]]], atol=1e-6)


def test_a_faces_box_is_its_rectangle_or_its_landmarks(tmp_path):
    landmarks = np.random.default_rng(0).uniform(10, 90, (98, 2)).astype(np.float32)
    record = make_record(tmp_path / "a.jpg", landmarks)
    np.testing.assert_array_equal(face_box(record, "rectangle"), record.box)
    expected = [*landmarks.min(axis=0), *landmarks.max(axis=0)]
    np.testing.assert_array_equal(face_box(record, "landmarks"), expected)
