import cv2
import numpy as np
import pytest
from PIL import Image
from support.faces import make_record

from flm_jax.data.images import ImageError, read_record_image

RED = np.full((40, 60, 3), (0, 0, 255), np.uint8)


def read(path):
    return read_record_image(make_record(path))


def test_grey_rgba_and_cmyk_images_read_as_colour(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.jpg"), np.full((40, 60), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "rgba.png"), np.dstack([RED, np.full((40, 60), 10, np.uint8)]))
    cmyk = Image.fromarray(RED[..., ::-1]).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.jpg", quality=95)
    for name, colour, atol in (("grey.jpg", 90, 2), ("rgba.png", RED, 0), ("cmyk.jpg", RED, 55)):
        image = read(tmp_path / name)
        assert image.shape == (40, 60, 3)
        np.testing.assert_allclose(image.astype(int), np.broadcast_to(colour, RED.shape), atol=atol)


def test_the_stored_orientation_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to view"
    Image.fromarray(RED).save(tmp_path / "turned.jpg", exif=exif)
    assert read(tmp_path / "turned.jpg").shape == (40, 60, 3)


@pytest.fixture
def jpeg():
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def with_thumbnail(jpeg):
    """The JPEG with another, whole, in a segment of its header, as cameras have it."""
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    return jpeg[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + jpeg[2:]


def with_fill_bytes(jpeg):
    """Any marker may have more than one 0xff before it: that of the end, and of a scan here."""
    start = jpeg.index(b"\xff\xda")
    return jpeg[:start] + b"\xff\xff" + jpeg[start:-2] + b"\xff\xff\xff\xd9"


@pytest.mark.parametrize(
    "change",
    [
        with_thumbnail,
        with_fill_bytes,
        lambda jpeg: jpeg + b"trailing",
        lambda jpeg: jpeg + b"\x00\x00\x00\x18ftypmp42 and \xff\xda in the video of a motion photo",
        lambda jpeg: jpeg + with_thumbnail(jpeg)[:-100],
    ],
)
def test_other_bytes_in_a_whole_jpeg_do_no_harm(tmp_path, jpeg, change):
    (tmp_path / "face.jpg").write_bytes(change(jpeg))
    assert read(tmp_path / "face.jpg").shape == (80, 80, 3)


@pytest.mark.parametrize(
    "flag", [cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL, cv2.IMWRITE_JPEG_OPTIMIZE]
)
def test_every_kind_of_jpeg_is_read_whole_and_refused_where_any_of_its_scans_ends(tmp_path, flag):
    noise = np.random.default_rng(1).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise, [flag, 1])[1].tobytes()
    path = tmp_path / "face.jpg"
    path.write_bytes(jpeg + b"\xff\xda\xff")
    assert read(path).shape == (80, 80, 3)
    first = jpeg.index(b"\xff\xda") + 20
    for size in (*np.linspace(first, len(jpeg) - 1, 20).astype(int), len(jpeg) - 2):
        path.write_bytes(jpeg[:size])
        with pytest.raises(ImageError, match="the JPEG is truncated"):
            read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda jpeg: b"", "the file is empty"),
        (lambda jpeg: jpeg[: len(jpeg) // 2], "the JPEG is truncated"),
        (lambda jpeg: with_thumbnail(jpeg)[: -len(jpeg) // 2], "the JPEG is truncated"),
        (lambda jpeg: jpeg[:200], "not an image, or a damaged one"),
        (lambda jpeg: b"<html>not found</html>", "not an image, or a damaged one"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_broken_image_is_named_with_its_line(tmp_path, jpeg, change, message):
    path = tmp_path / "face.jpg"
    if change:
        path.write_bytes(change(jpeg))
    with pytest.raises(ImageError) as error:
        read(path)
    assert str(error.value).startswith(f"list.txt:7: face.jpg: {message}")
