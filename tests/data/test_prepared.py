"""Prepared faces: the same landmarks, nearly the same pixels, and never those of other data."""

import dataclasses
import errno
import itertools
import json
import os
import resource
import shutil
import signal

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module
from support.faces import CROPS, OFF, STRONG, attach, fail, prepare, read_lists, uses_of
from support.launches import finish, launch, read_log, start, tiny, wait_for
from support.networks import change, load_evaluation, tiny_config

from flm_jax import geometry
from flm_jax.data import augmentation, loader, prepared, prepared_face, sampler, wflw
from flm_jax.data.crop import crop_image, crop_map, face_box
from flm_jax.data.images import ImageError, read_record_image
from flm_jax.errors import InputError
from flm_jax.modes import prepare as prepare_mode
from flm_jax.modes import train


@pytest.fixture(scope="module")
def folder(faces_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "faces"
    assert prepare(folder, faces_root, uses_of())
    return folder


def test_a_stored_face_is_that_of_its_list_and_says_where_it_lies(folder, faces_root):
    lists = attach(folder, faces_root, uses_of())
    assert [len(records) for records in lists.values()] == [48, 20]
    for name, records in lists.items():
        for record, expected in zip(records, wflw.read_list(faces_root, name), strict=True):
            for part in ("landmarks", "box", "attributes"):
                assert getattr(record, part).tobytes() == getattr(expected, part).tobytes()
            stored, window = prepared_face.read_face(record)
            original = read_record_image(expected)
            assert window.original_size == (original.shape[1], original.shape[0])
            corners = np.array([[-0.5, -0.5], np.array(stored.shape[1::-1]) - 0.5])
            edges = np.array(window.start) + corners * window.scale
            np.testing.assert_allclose(edges, np.reshape(window.bounds, (2, 2)) - 0.5)


def crops_of(records, uses, looks=6):
    """The plain crop of every face, and augmented ones."""
    for record, look in itertools.product(records, range(looks)):
        box = face_box(record, uses.box)
        if look:
            rng = np.random.default_rng(look)
            found = augmentation.random_crop_map(rng, box, uses.image_size, uses.crop, STRONG)
        else:
            found = crop_map(box, uses.image_size, **uses.crop)
        yield record, geometry.invert(found)


@pytest.mark.parametrize(
    ("image_size", "crop", "box"),
    [(32, 0, "rectangle"), (64, 1, "landmarks")],
)
def test_every_crop_is_that_of_the_original_to_what_jpeg_costs(
    faces_root, tmp_path, image_size, crop, box
):
    """And none needs the original, however strong the augmentation."""
    uses = uses_of(image_size, crop, box)
    prepare(tmp_path / "faces", faces_root, uses)
    records = attach(tmp_path / "faces", faces_root, uses)[wflw.TEST_LIST]
    costs = []
    for record, original_from_crop in crops_of(records, uses):
        _, window = prepared_face.read_face(record)
        assert window.serves(original_from_crop, image_size)
        found, direct = (
            prepared_face.cut_face(each, original_from_crop, image_size)
            for each in (record, dataclasses.replace(record, shard=""))
        )
        costs.append(np.abs(found.astype(int) - direct).mean())
    # Of 255. A window of one pixel less, or half a pixel off, costs several times as much.
    assert np.mean(costs) < 0.5
    assert np.quantile(costs, 0.95) < 1.0


def test_a_reduced_window_shows_every_point_where_it_is(test_records, tmp_path):
    """A ramp in x and y, whose value tells the place to a quarter of a pixel."""
    y, x = np.mgrid[:601, :803]
    ramp = np.stack([x / 4, y / 4, (x + y) / 8], axis=2).round().astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "ramp.png"), ramp)
    middle, sides = np.array([400, 300]), np.array([180, 220])
    box = np.concatenate([middle - sides / 2, middle + sides / 2]).astype(np.float32)
    low, high = test_records[0].landmarks.min(axis=0), test_records[0].landmarks.max(axis=0)
    points = middle + ((test_records[0].landmarks - low) / (high - low) - 0.5) * 160
    record = dataclasses.replace(
        *(test_records[0],),
        image_path=str(tmp_path / "ramp.png"),
        landmarks=points.astype(np.float32),
        box=box,
    )
    uses = uses_of(8)
    content = prepared_face.encode_face(record, uses)
    path = str(tmp_path / "shard.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    writer.write(content)
    writer.close()
    prepared_record = dataclasses.replace(record, shard=path)
    _, window = prepared_face.read_face(prepared_record)
    assert window.scale[0] > 1.9
    for _, original_from_crop in crops_of([record], uses, 20):
        found, direct = (
            prepared_face.cut_face(each, original_from_crop, 8)
            for each in (prepared_record, record)
        )
        # In pixels of the original, of which a pixel of the crop shows twenty.
        assert 4 * np.abs(found.astype(int) - direct).mean() < 1.5


def test_a_look_beyond_the_window_or_closer_is_cut_from_the_original(faces_root, tmp_path):
    uses = uses_of(4, settings=OFF)
    prepare(tmp_path / "faces", faces_root, uses)
    records = attach(tmp_path / "faces", faces_root, uses)[wflw.TEST_LIST]
    for factor in (0.2, 6.0):
        served = []
        for record in records:
            box = geometry.scale_box(record.box, factor)
            original_from_crop = geometry.invert(geometry.crop_from_image(box, 4))
            served.append(prepared_face.read_face(record)[1].serves(original_from_crop, 4))
            if not served[-1]:
                found = prepared_face.cut_face(record, original_from_crop, 4)
                direct = crop_image(read_record_image(record), original_from_crop, 4)
                np.testing.assert_array_equal(found, direct)
        assert not all(served), factor


def test_a_face_outside_of_its_image_has_a_window_too(test_records):
    record = test_records[0]
    away = dataclasses.replace(
        record, box=record.box + 5000, landmarks=record.landmarks + np.float32(5000)
    )
    bounds, _ = prepared_face.face_window(away, uses_of(), (300, 200))
    assert list(bounds) == [299, 199, 300, 200]
    assert len(prepared_face.encode_face(away, uses_of())) > len(prepared_face.UNREADABLE)


# What it was cut from.


def copied(faces_root, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(faces_root, root)
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 48}, "data.image_size: 32 -> 48"),
        ({"box": "landmarks"}, "data.box: rectangle -> landmarks"),
        ({"crop": {**CROPS[0], "margin": 12.0}}, "data.crop: .*'margin': 10.0.* -> .*12.0"),
        ({"reach": 9.0}, r"data.augmentation \(reach\): 2\.\d+ -> 9.0"),
        ({"exif_upright": True}, "data.exif_upright: False -> True"),
        ({"zoom": 9.0}, r"data.augmentation \(zoom\): 1\.\d+ -> 9.0"),
    ],
)
def test_faces_for_another_use_are_refused(folder, faces_root, change, message):
    with pytest.raises(InputError, match=message) as error:
        attach(folder, faces_root, dataclasses.replace(uses_of(), **change))
    assert "Run the same command with --mode prepare" in str(error.value)
    assert str(error.value).count("->") == 2  # the heading and this one


def test_faces_of_another_list_or_image_are_refused(folder, faces_root, tmp_path):
    root = copied(faces_root, tmp_path)
    path = root / wflw.TEST_LIST
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=r"list_98pt_rect_attr_test.txt: \{.*\} -> \{.*\}"):
        attach(folder, root, uses_of())
    path.write_text("\n".join(lines) + "\n")
    for image in (root / wflw.IMAGES).rglob("*.jpg"):
        os.utime(image, (1, 1))  # As in a copy of the data.
    attach(folder, root, uses_of())
    image = next((root / wflw.IMAGES).rglob("*.jpg"))
    content = bytearray(image.read_bytes())
    content[-100] ^= 1
    image.write_bytes(content)
    with pytest.raises(InputError, match=f"changed images: .*{image.name}"):
        attach(folder, root, uses_of())


def drop_a_key(index):
    content = json.loads(index.read_text())
    del content["uses"]["zoom"]
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("*.json", lambda path: path.write_text("{"), "prepared.json can't be read"),
        ("*.json", lambda path: path.write_text(10**5 * "["), "can't be read: RecursionError"),
        ("*.json", drop_a_key, "prepared.json can't be read: KeyError 'zoom'"),
        ("*.json", lambda path: path.unlink(), "holds no prepared faces"),
        (
            "*.array_record",
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            r"bytes of .*array_record: \d+ -> \d+",
        ),
        ("*.array_record", lambda path: path.unlink(), r"bytes of .*array_record: \d+ -> None"),
    ],
)
def test_a_damaged_folder_is_refused(folder, faces_root, tmp_path, name, damage, message):
    shutil.copytree(folder, tmp_path / "faces")
    damage(next((tmp_path / "faces").glob(name)))
    with pytest.raises(InputError, match=message) as error:
        attach(tmp_path / "faces", faces_root, uses_of())
    assert "the same command with --mode prepare" in str(error.value)


def test_a_damaged_face_is_named_and_spoils_no_other(folder, faces_root, tmp_path):
    shutil.copytree(folder, tmp_path / "faces")
    (path,) = (tmp_path / "faces").glob("*.array_record")
    records = attach(tmp_path / "faces", faces_root, uses_of())[wflw.TRAIN_LIST]
    content = bytearray(path.read_bytes())
    at = content.find(records[5].landmarks.tobytes())
    content[at + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf":{records[5].line}: .*{path.name} is damaged"):
        prepared_face.read_face(records[5])
    assert f"{path.name} is damaged" in str(loader.image_error(records[5]))
    for record in (records[4], records[6]):
        prepared_face.read_face(record)
    with pytest.raises(ImageError, match="holds another face"):
        prepared_face.read_face(dataclasses.replace(records[6], shard_row=7))


def test_an_unreadable_image_is_reported_and_left_out(faces_root, tmp_path):
    root = copied(faces_root, tmp_path)
    record = read_lists(root)[wflw.TEST_LIST][3]
    with open(record.image_path, "wb"):
        pass
    told = []
    prepare(tmp_path / "faces", root, uses_of(), lambda *face: told.append(face))
    (name, row), *others = told
    assert (name, row) == (wflw.TEST_LIST, 3)
    broken = attach(tmp_path / "faces", root, uses_of())[name][row]
    with pytest.raises(ImageError, match="could not be read when"):
        prepared_face.read_face(broken)
    assert "the file is empty" in str(loader.image_error(broken))
    assert len(others) <= 1  # another face of the same image


# Whole or not at all.


def test_what_is_current_or_of_something_else_is_kept_and_the_rest_replaced(
    faces_root, tmp_path, monkeypatch
):
    folder = tmp_path / "faces"
    prepare(folder, faces_root, uses_of())
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(prepared, "_cut", fail)
        prepare(folder, faces_root, uses_of())
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    prepare(folder, faces_root, uses_of(48))
    assert attach(folder, faces_root, uses_of(48))
    assert len(list(folder.iterdir())) == len(before)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="holds something other than prepared faces"):
        prepare(tmp_path, faces_root, uses_of())
    assert (tmp_path / "thesis.tex").exists()


def test_a_full_disk_is_an_error_that_leaves_nothing(faces_root, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"write\(\) failed: File too large"):
            prepare(tmp_path / "faces", faces_root, uses_of())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_the_folder_that_could_not_be_written_is_named(faces_root, tmp_path, monkeypatch):
    def fill(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepared, "prepare", fill)
    config = change(tiny_config(faces_root), "data.prepared", "here")
    with pytest.raises(InputError, match="data.prepared=here: No space left on device"):
        prepare_mode.run(config, tmp_path)


def test_another_file_beside_them_keeps_prepared_faces_from_being_replaced(faces_root, tmp_path):
    folder = tmp_path / "faces"
    prepare(folder, faces_root, uses_of())
    (folder / "notes.txt").write_text("mine")
    prepare(folder, faces_root, uses_of())
    with pytest.raises(InputError, match="holds 'notes.txt' beside faces that have to be cut anew"):
        prepare(folder, faces_root, uses_of(48))
    assert (folder / "notes.txt").exists()
    assert attach(folder, faces_root, uses_of())


def test_a_link_to_a_folder_is_filled_and_stays(faces_root, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "faces").symlink_to(tmp_path / "disk", target_is_directory=True)
    for size in (32, 48):
        prepare(tmp_path / "faces", faces_root, uses_of(size))
        assert attach(tmp_path / "faces", faces_root, uses_of(size))
    assert (tmp_path / "faces").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "faces"}


def test_a_stop_leaves_nothing_and_keeps_what_was(faces_root, tmp_path):
    calls = itertools.count()
    for _ in range(2):
        assert not prepare(tmp_path / "faces", faces_root, uses_of(48), stopped=lambda: next(calls))
    assert not list(tmp_path.iterdir())
    prepare(tmp_path / "faces", faces_root, uses_of())
    assert not prepare(tmp_path / "faces", faces_root, uses_of(48), stopped=lambda: True)
    assert attach(tmp_path / "faces", faces_root, uses_of())


# The whole program.


def test_a_run_trains_alike_on_prepared_faces_and_says_so(faces_root, tmp_path, capsys):
    config = tiny_config(faces_root)
    config.num_epochs = 2
    for name in ("rotation", "scale"):
        config.data.augmentation[name].probability = 1.0
    prepared_config = change(config, "data.prepared", str(tmp_path / "faces"))
    prepare_mode.run(prepared_config, tmp_path / "prepared")
    assert f"{tmp_path / 'faces'}: 68 faces, " in capsys.readouterr().out
    train.run(prepared_config, tmp_path / "prepared")
    assert f"faces are read from {tmp_path / 'faces'}, as prepared" in capsys.readouterr().out
    train.run(config, tmp_path / "direct")
    assert f"faces are read from the images in {faces_root}" in capsys.readouterr().out
    losses, expected = (
        [row["loss"] for row in read_log(tmp_path / name) if "loss" in row]
        for name in ("prepared", "direct")
    )
    # The first step sees the same weights, and pixels that JPEG alone has changed.
    assert losses[0] == pytest.approx(expected[0], rel=1e-3)
    assert losses == pytest.approx(expected, rel=0.02)
    (figures, arrays), (direct_figures, direct) = (
        load_evaluation(tmp_path / name) for name in ("prepared", "direct")
    )
    np.testing.assert_array_equal(arrays["target"], direct["target"])
    assert figures["nme"] == pytest.approx(direct_figures["nme"], rel=0.02)


def test_batches_of_workers_have_the_very_landmarks_and_nearly_the_pixels(folder, faces_root):
    order = sampler.TrainingSampler(num_faces=48, batch_size=16, num_epochs=1, seed=0)
    geometric = {
        name: {**values, "probability": values["probability"] * ("std" in values)}
        for name, values in STRONG.items()
    }
    settings = {"image_size": 32, "box": "rectangle", "crop": CROPS[0], "augmentation": geometric}
    found, expected = (
        list(loader.batches(order, records, **settings, num_workers=workers, num_threads=1))
        for records, workers in (
            (attach(folder, faces_root, uses_of())[wflw.TRAIN_LIST], 1),
            (read_lists(faces_root)[wflw.TRAIN_LIST], 0),
        )
    )
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        for name in ("landmarks", "image_from_crop", "index", "mask"):
            np.testing.assert_array_equal(a[name], b[name])
        assert 0 < np.abs(a["image"] - b["image"]).mean() < 0.01


def test_a_run_without_its_prepared_faces_is_refused(faces_root, tmp_path):
    config = tiny_config(faces_root)
    with pytest.raises(InputError, match="name the folder for the faces with --config.data.prep"):
        prepare_mode.run(config, tmp_path)
    config.data.prepared = str(tmp_path / "faces")
    with pytest.raises(InputError, match="holds no prepared faces. Run the same command with --mo"):
        train.run(config, tmp_path)


def test_a_kill_or_a_stop_leaves_nothing_half_made(faces_root, tmp_path):
    root = copied(faces_root, tmp_path)
    train_list = root / wflw.TRAIN_LIST
    for path in (train_list, root / wflw.VISIBILITY / train_list.name):
        path.write_text(30 * path.read_text())  # So that cutting takes a while.
    folder = tmp_path / "faces"
    arguments = tiny(root, tmp_path / "work", f"--config.data.prepared={folder}", "--mode=prepare")
    partial = ".faces.*.partial/*.array_record"
    killed = start(*arguments)
    wait_for(killed, lambda: list(tmp_path.glob(partial)))
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    left = list(tmp_path.glob(partial))
    assert left
    stopped = start(*arguments)
    wait_for(stopped, lambda: {*tmp_path.glob(partial)} - {*left})
    assert not any(path.exists() for path in left)
    stopped.send_signal(signal.SIGTERM)
    output = finish(stopped, 128 + signal.SIGTERM)
    assert f"stopped by SIGTERM: {folder} is unchanged" in output
    assert not list(tmp_path.glob(".faces.*"))
    assert not folder.exists()
    assert "1460 faces" in launch(*arguments)
    assert not list(tmp_path.glob(".faces.*"))
