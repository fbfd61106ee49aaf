"""Lists, pictures and checkpoints from strangers."""

import os
import pathlib
import pickle
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.faces import line_of, make_fields, make_record, write_list
from support.launches import launch, tiny

from flm_jax.config import weights
from flm_jax.data import wflw
from flm_jax.data.images import ImageError, read_record_image
from flm_jax.errors import InputError
from flm_jax.training.metrics_writer import read_metrics


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "..", "a/..", "\0", "/", "//x"],
)
def test_no_name_leaves_the_data_root(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    root = tmp_path / "root"
    fields = make_fields()
    fields[-1] = name
    write_list(root, [line_of(fields)])
    match = "(?s)list_98pt_rect_attr_train.txt:1: .*must stay inside"
    with pytest.raises(wflw.ListError, match=match):
        wflw.read_list(root, wflw.TRAIN_LIST)


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width, height):
    """A PNG of so many black pixels, in a thousandth of the bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(height * (1 + 3 * width), 10**7)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg(width, height):
    """A JPEG whose header claims a size."""
    _, data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    content = bytearray(data.tobytes())
    at = content.find(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [png(20_000, 20_000), png(2**30, 1), png(2**31 - 1, 2**31 - 1), jpeg(65_500, 65_500)],
)
def test_an_absurd_size_is_refused_before_it_is_decoded(tmp_path, content):
    path = tmp_path / "bomb"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="can't be decoded|not an image"):
        read_record_image(make_record(path))


def test_a_large_picture_of_a_camera_is_read(tmp_path):
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.zeros((6_000, 9_000, 3), np.uint8))
    assert read_record_image(make_record(path)).shape == (6_000, 9_000, 3)


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match="1099511627776 bytes"):
        read_record_image(make_record(path))


@pytest.mark.slow
def test_any_bytes_give_a_picture_or_a_picture_error(tmp_path, test_records, request):
    path = tmp_path / "picture"
    record = make_record(path)
    whole = pathlib.Path(test_records[0].image_path).read_bytes()

    @settings(
        max_examples=2000 if request.config.getoption("--full") else 100,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.integers(0, len(whole)),
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=20),
        st.binary(max_size=32),
    )
    def check(length, changes, tail):
        content = bytearray(whole)
        for at, value in changes:
            content[at] = value
        path.write_bytes(bytes(content[:length]) + tail)
        try:
            image = read_record_image(record)
        except ImageError as error:
            assert str(error).startswith(record.place)
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "text", "fields"])
def test_any_list_gives_records_or_a_list_error_with_a_line(tmp_path, kind, request):
    """Thousands of lists with `--full`."""
    fields = make_fields()
    field = st.one_of(
        st.text(max_size=12),
        st.floats().map(str),
        st.integers().map(str),
        st.sampled_from(["nan", "inf", "1e400", "-0", "1_0", "٣", "../x", "/x", "\x85", "\u2028"]),
    )
    changes = st.lists(st.tuples(st.integers(0, 206), field), max_size=6)
    lists = {
        "bytes": st.binary(max_size=4000),
        "text": st.lists(st.lists(field, max_size=210), max_size=4).map(
            lambda lines: "\n".join(" ".join(line) for line in lines).encode(errors="replace")
        ),
        "fields": st.lists(changes, min_size=1, max_size=4).map(
            lambda lines: b"\n".join(changed(fields, line) for line in lines)
        ),
    }

    @settings(
        max_examples=5000 if request.config.getoption("--full") else 150,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(lists[kind])
    def check(content):
        path = write_list(tmp_path, [])
        path.write_bytes(content)
        try:
            records = wflw.read_list(tmp_path, wflw.TRAIN_LIST)
        except wflw.ListError as error:
            place, line, _ = str(error).removeprefix(str(path)).split(":", 2)
            assert place == ""
            assert 1 <= int(line) <= content.count(b"\n") + 1
        else:
            assert all(np.isfinite(record.landmarks).all() for record in records)
            images = tmp_path / wflw.IMAGES
            for record in records:
                assert pathlib.Path(record.image_path).resolve().is_relative_to(images)

    check()


def changed(fields, changes):
    fields = list(fields)
    for index, value in changes:
        fields[index] = value
    return " ".join(fields).encode(errors="surrogatepass")


class Payload:
    """What a pickle may do to who loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# Ends the program where Python is about to unpickle a name or to compile text.
WATCH = """
import sys, runpy
def watch(event, arguments):
    if event in ("pickle.find_class", "marshal.loads") and watching:
        import traceback; traceback.print_stack()
        raise SystemExit(f"{event} {arguments}")
watching = []
sys.addaudithook(watch)
from flm_jax.runtime.restore import SavedCheckpoints
restore = SavedCheckpoints._restore
def restore_watched(*arguments, **items):
    watching.append(1)
    try:
        return restore(*arguments, **items)
    finally:
        watching.clear()
SavedCheckpoints._restore = restore_watched
runpy.run_path("launch.py", run_name="__main__")
"""


def test_a_checkpoint_is_read_without_executing_anything_in_it(trained, faces_root, tmp_path):
    (tmp_path / "watched.py").write_text(WATCH)
    shutil.copytree(trained, tmp_path / "work")
    arguments = tiny(faces_root, tmp_path / "work", "--mode=evaluate")
    launch(*arguments, program=tmp_path / "watched.py")


def test_a_pipe_in_a_work_folder_is_not_waited_for(tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="no checkpoint there"):
        weights.trained_config(tmp_path, {})
    with pytest.raises(OSError, match="not a regular file"):
        read_metrics(tmp_path)


def test_pickles_in_the_place_of_its_files_do_nothing(trained, faces_root, tmp_path):
    workdir, made = tmp_path / "work", tmp_path / "made"
    shutil.copytree(trained, workdir)
    for path in (p for p in (workdir / "checkpoints").rglob("*") if p.is_file()):
        path.write_bytes(pickle.dumps(Payload(made)))
    for mode in ("evaluate", "train"):
        assert "damaged" in launch(*tiny(faces_root, workdir, f"--mode={mode}"), code=1)
        assert not made.exists()
    pickle.loads(pickle.dumps(Payload(made)))
    assert made.exists()  # So it would have.
