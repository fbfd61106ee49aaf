import dataclasses

import cv2
import numpy as np
import pytest
from support.faces import blob_position

from flm_jax import geometry
from flm_jax.data import wflw
from flm_jax.data.crop import MAX_SHRINK, crop_box, crop_image, crop_map, face_box, normalise
from flm_jax.data.images import ImageError, read_record_image


def make_record(path, line=7):
    return wflw.Record(
        list_path="list.txt",
        line=line,
        image_name=path.name,
        image_path=str(path),
        landmarks=np.zeros((98, 2), np.float32),
        box=np.array([0, 0, 10, 10], np.float32),
        attributes=np.zeros(6, bool),
    )


@pytest.mark.parametrize(
    "box",
    [
        [100.0, 80.0, 150.0, 140.0],  # enlarged
        [60.0, 50.0, 190.0, 180.0],  # shrunk by 2
        [-300.0, 10.0, 300.0, 250.0],  # shrunk by 9 in x and 4 in y, beyond the image
        [-100.0, -250.0, 400.0, 390.0],  # shrunk by 10 in y
    ],
)
def test_crop_carries_a_blob_to_its_landmark(box):
    image = np.zeros((240, 320, 3), np.uint8)
    point = np.array([[120.0, 101.0]])
    cv2.circle(image, (120, 101), 6, (255, 255, 255), -1)
    crop_from_image = crop_map(np.array(box, np.float32), 64, margin=0.0)
    crop = crop_image(image, geometry.invert(crop_from_image), 64)
    expected = geometry.apply(crop_from_image, point)[0]
    np.testing.assert_allclose(blob_position(crop), expected, atol=0.15)


def test_a_rotated_and_shrunk_crop_carries_a_blob_to_its_landmark():
    image = np.zeros((400, 400, 3), np.uint8)
    cv2.circle(image, (250, 130), 7, (255, 255, 255), -1)
    cosine, sine = np.cos(0.6) * 5, np.sin(0.6) * 5
    image_from_crop = np.array([[cosine, -sine, 120.0], [sine, cosine, -40.0]])
    crop = crop_image(image, image_from_crop, 64)
    expected = geometry.apply(geometry.invert(image_from_crop), np.array([[250.0, 130.0]]))[0]
    np.testing.assert_allclose(blob_position(crop), expected, atol=0.15)


def test_a_shrunk_crop_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    crop_from_image = geometry.crop_from_image(np.array([-0.5, -0.5, 255.5, 255.5]), 64)
    crop = crop_image(stripes, geometry.invert(crop_from_image), 64)
    assert abs(crop.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_what_lies_outside_of_the_image_is_black(scale):
    image = np.full((100, 100, 3), 200, np.uint8)
    box = np.array([-50, -50, 50, 50]) * scale - 0.5
    crop_from_image = geometry.crop_from_image(box, 64)
    crop = crop_image(image, geometry.invert(crop_from_image), 64)
    assert (crop[:31] == 0).all()
    assert (crop[:, :31] == 0).all()
    assert (crop[33:40, 33:40] == 200).all()


def test_a_crop_wholly_outside_is_black():
    image = np.full((100, 100, 3), 200, np.uint8)
    crop_from_image = geometry.crop_from_image(np.array([500.0, 500.0, 900.0, 900.0]), 32)
    assert (crop_image(image, geometry.invert(crop_from_image), 32) == 0).all()


def test_a_crop_is_the_warped_image_wherever_it_looks():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (120, 170, 3), np.uint8), (5, 5), 0)
    for _ in range(40):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, MAX_SHRINK)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn[:, 0] *= rng.choice([-1, 1])  # Mirrored or not.
        start = rng.uniform([0, 0], [170, 120]) - turn @ rng.uniform(0, 47, 2)
        image_from_crop = np.column_stack([turn, start])
        crop = crop_image(image, image_from_crop, 48)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(image, image_from_crop, (48, 48), flags=flags)
        np.testing.assert_allclose(crop.astype(int), expected[..., ::-1], atol=1)


def test_the_margin_is_in_pixels_of_the_image():
    box = np.array([20, 30, 60, 90], np.float32)
    crop_from_image = crop_map(box, 224, margin=10.0)
    corner = geometry.apply(crop_from_image, np.array([[10.0, 20.0]]))
    np.testing.assert_allclose(corner, [[-0.5, -0.5]])
    assert crop_from_image[0, 0] == pytest.approx(224 / 60)
    assert crop_from_image[1, 1] == pytest.approx(224 / 80)


def test_normalised_is_from_minus_one_to_one():
    out = np.empty((1, 1, 3), np.float32)
    normalise(np.array([[[0, 51, 255]]], np.uint8), out=out)
    np.testing.assert_allclose(out, [[[-1.0, -0.6, 1.0]]], atol=1e-6)


@pytest.mark.parametrize("shrink", [1.0, 3.0])
def test_a_crop_is_rgb_of_a_bgr_picture(shrink):
    image = np.full((60, 60, 3), (10, 20, 200), np.uint8)
    crop = crop_image(image, shrink * np.eye(2, 3), 8)
    np.testing.assert_array_equal(crop[4, 4], [200, 20, 10])


def red(shape=(40, 60)):
    image = np.zeros((*shape, 3), np.uint8)
    image[..., 2] = 255
    return image


def test_grey_and_rgba_pictures_read_as_colour(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.jpg"), np.full((40, 60), 90, np.uint8))
    image = read_record_image(make_record(tmp_path / "grey.jpg"))
    assert image.shape == (40, 60, 3)
    assert abs(image.astype(int) - 90).max() <= 2
    rgba = np.dstack([red(), np.full((40, 60), 10, np.uint8)])
    cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
    np.testing.assert_array_equal(read_record_image(make_record(tmp_path / "rgba.png")), red())


def test_cmyk_pictures_read_as_colour(tmp_path):
    # Pillow comes with matplotlib.
    from PIL import Image

    Image.fromarray(red()[..., ::-1]).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image = read_record_image(make_record(tmp_path / "cmyk.jpg"))
    assert image.shape == (40, 60, 3)
    blue, green, red_channel = image.reshape(-1, 3).mean(axis=0)
    assert red_channel > 200
    assert max(blue, green) < 60


def test_the_stored_orientation_is_kept(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to view"
    Image.fromarray(red()).save(tmp_path / "turned.jpg", exif=exif)
    assert read_record_image(make_record(tmp_path / "turned.jpg")).shape == (40, 60, 3)


@pytest.fixture
def jpeg():
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def with_thumbnail(jpeg):
    """The JPEG with another, whole, in a segment of its header, as cameras have it."""
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    return jpeg[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + jpeg[2:]


def test_a_whole_jpeg_with_a_thumbnail_is_read(tmp_path, jpeg):
    (tmp_path / "face.jpg").write_bytes(with_thumbnail(jpeg))
    assert read_record_image(make_record(tmp_path / "face.jpg")).shape == (80, 80, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda jpeg: b"", "the file is empty"),
        (lambda jpeg: jpeg[: len(jpeg) // 2], "the JPEG is truncated"),
        (lambda jpeg: with_thumbnail(jpeg)[: -len(jpeg) // 2], "the JPEG is truncated"),
        (lambda jpeg: jpeg[:200], "not a picture, or a damaged one"),
        (lambda jpeg: b"<html>not found</html>", "not a picture, or a damaged one"),
    ],
)
def test_a_broken_picture_is_named_with_its_line(tmp_path, jpeg, change, message):
    path = tmp_path / "face.jpg"
    path.write_bytes(change(jpeg))
    with pytest.raises(ImageError) as error:
        read_record_image(make_record(path))
    assert str(error.value).startswith("list.txt:7: face.jpg: ")
    assert message in str(error.value)


def test_a_missing_picture_is_named_with_its_line(tmp_path):
    with pytest.raises(ImageError, match=r"list.txt:7: gone.jpg: can't be read: No"):
        read_record_image(make_record(tmp_path / "gone.jpg"))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path, jpeg):
    (tmp_path / "face.jpg").write_bytes(jpeg + b"trailing")
    assert read_record_image(make_record(tmp_path / "face.jpg")).shape == (80, 80, 3)


def test_records_are_immutable(tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_record(tmp_path / "a.jpg").line = 3


def test_a_square_crop_has_the_longer_side_around_the_same_middle():
    box = np.array([20, 30, 60, 90], np.float32)
    square = crop_box(box, margin=0.0, factor=1.5, square=True)
    np.testing.assert_allclose(square, [40 - 45, 60 - 45, 40 + 45, 60 + 45])
    stretched = crop_box(box, margin=10.0, factor=2.0)
    np.testing.assert_allclose(stretched, [40 - 60, 60 - 80, 40 + 60, 60 + 80])


def test_the_landmarks_box_holds_the_true_points(tmp_path):
    landmarks = np.random.default_rng(0).uniform(10, 90, (98, 2)).astype(np.float32)
    record = dataclasses.replace(make_record(tmp_path / "a.jpg"), landmarks=landmarks)
    found = face_box(record, "landmarks")
    np.testing.assert_array_equal(found[:2], landmarks.min(axis=0))
    np.testing.assert_array_equal(found[2:], landmarks.max(axis=0))
    np.testing.assert_array_equal(face_box(record, "rectangle"), record.box)
