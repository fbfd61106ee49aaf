"""Images whose EXIF orientation says that they are to be turned."""

import dataclasses
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from support.faces import blob_position, make_record, uses_of
from support.networks import tiny_config

from flm_jax.config import build
from flm_jax.data import orientation, prepared_face
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.modes import prepare, preview, train


def turned_image(path):
    """A blob at (10, 30) of the upright image of 40 x 60 px, which is stored on its side."""
    upright = np.zeros((60, 40, 3), np.uint8)
    cv2.circle(upright, (10, 30), 3, (255, 255, 255), -1)
    exif = Image.Exif()
    exif[274] = 6  # "turn by 90 degrees to the right to view"
    stored = np.ascontiguousarray(np.rot90(upright))
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    return path


def test_an_image_is_read_as_its_points_mean_it_prepared_too(tmp_path):
    record = make_record(turned_image(tmp_path / "a.jpg"))
    assert read_record_image(record).shape == (40, 60, 3)
    upright = dataclasses.replace(record, upright=True)
    image = read_record_image(upright)
    assert image.shape == (60, 40, 3)
    np.testing.assert_allclose(blob_position(image), [10, 30], atol=0.5)
    box = np.array([5, 25, 15, 35], np.float32)
    content = prepared_face.encode_face(dataclasses.replace(upright, box=box), uses_of(4))
    assert np.frombuffer(content, prepared_face._HEADER, 1)[0]["original_size"].tolist() == [40, 60]


def test_turned_images_and_faces_outside_of_theirs_are_counted(tmp_path):
    points = np.full((98, 2), (20, 50), np.float32)  # within the upright image alone
    record = make_record(turned_image(tmp_path / "a.jpg"), points)
    plain, far = (
        dataclasses.replace(record, image_path=str(tmp_path / "b.png"), landmarks=own)
        for own in (points, points + 30)
    )
    cv2.imwrite(plain.image_path, np.zeros((60, 40, 3), np.uint8))
    first, second = orientation.describe_suspects([record, record, plain, far])
    assert first.startswith(
        "1 of 2 images have an EXIF orientation and are read as they are stored"
    )
    assert "list.txt:7: a.jpg. " in first
    assert second.startswith("3 of 4 faces lie outside of their image")
    upright = dataclasses.replace(record, upright=True)
    missing = dataclasses.replace(record, image_path=str(tmp_path / "missing.jpg"))
    assert orientation.describe_suspects([upright, plain, missing]) == []


@pytest.mark.parametrize("field", [(3, 1, b"\0"), (3, 1, b"\x09"), (2, 2, b"6")])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, field):
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI8s", 0x0112, *field)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    record = make_record(tmp_path / "a.jpg", np.full((98, 2), (50, 20), np.float32))
    for upright in (False, True):
        record = dataclasses.replace(record, upright=upright)
        assert orientation.describe_suspects([record]) == []
        assert read_record_image(record).shape == (40, 60, 3)


@pytest.mark.parametrize("mode", [prepare, preview, train])
def test_whatever_reads_the_images_tells_of_turned_ones(mode, faces_root, tmp_path, monkeypatch):
    def tell(records):
        raise InputError(f"told of {len(records)} faces")

    monkeypatch.setattr(orientation, "warn_of_suspects", tell)
    config = tiny_config(faces_root)
    if mode is prepare:
        config.data.prepared = str(tmp_path / "faces")
    with pytest.raises(InputError, match="told of 68 faces"):
        mode.run(config, tmp_path / "work")


def test_prepared_faces_are_turned_as_the_config_says(faces_root):
    config = tiny_config(faces_root)
    for upright in (True, False):
        config.data.exif_upright = upright
        assert build.prepared_uses(config).exif_upright == upright
