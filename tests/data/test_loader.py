"""Batches: what they hold, and that threads, workers and starts do not change it."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import weakref

import numpy as np
import pytest
from support.faces import CROP, OFF, TURNED, address

from flm_jax import geometry
from flm_jax.data import loader, memory
from flm_jax.data.images import ImageError
from flm_jax.data.loader import WorkerError
from flm_jax.data.sampler import EvaluationSampler, TrainingSampler

SETTINGS = {"image_size": 16, "box": "rectangle", "crop": CROP}


def read(sampler, records, **settings):
    settings = {**SETTINGS, "num_workers": 0, "num_threads": 2, **settings}
    return list(loader.batches(sampler, records, **settings))


def make_sampler(**settings):
    return TrainingSampler(**{"batch_size": 4, "num_epochs": 3, "seed": 5, **settings})


@pytest.fixture
def used_memory(monkeypatch):
    """New arrays hold what was there before."""
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 7, dtype))


def assert_same(a, b):
    assert len(a) == len(b)
    for first, second in zip(a, b, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.usefixtures("used_memory")
def test_a_batch_holds_the_crops_of_its_records_and_empty_padding(test_records):
    first, last = read(EvaluationSampler(5, 4), test_records)
    for batch in (first, last):
        assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
            "image": (np.float32, (4, 16, 16, 3)),
            "landmarks": (np.float32, (4, 98, 2)),
            "image_from_crop": (np.float32, (4, 2, 3)),
            "visible": (np.int8, (4, 98)),
            "index": (np.int32, (4,)),
            "mask": (np.float32, (4,)),
        }
    assert -1 <= first["image"].min() < first["image"].max() <= 1
    home = geometry.apply(first["image_from_crop"], first["landmarks"])
    truth = np.stack([record.landmarks for record in test_records[:4]])
    np.testing.assert_allclose(home, truth, atol=1e-3)
    corners = geometry.apply(first["image_from_crop"][0], np.array([[-0.5, -0.5], [15.5, 15.5]]))
    box = geometry.expand_box(test_records[0].box, 10.0)
    np.testing.assert_allclose(corners.ravel(), box, atol=1e-3)
    np.testing.assert_array_equal(last["mask"], [1, 0, 0, 0])
    np.testing.assert_array_equal(last["index"], [4, -1, -1, -1])
    assert not last["image"][1:].any()


def test_threads_workers_and_start_do_not_change_the_batches(train_records):
    sampler = make_sampler(num_faces=len(train_records), batch_size=10, num_epochs=4)
    whole = read(sampler, train_records, num_threads=1, augmentation=TURNED)
    start = 1  # so that other batches are read together, and fewer at the end
    assert (len(sampler) - start) % (64 // 10) != 0
    for changes in ({"num_threads": 5}, {"num_workers": 2}):
        again = read(sampler, train_records, start=start, augmentation=TURNED, **changes)
        assert_same(whole[start:], again)
    assert read(sampler, train_records, start=len(sampler)) == []


def test_workers_do_without_memory_that_is_shared(train_records, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    sampler = make_sampler(num_faces=8)
    assert_same(
        read(sampler, train_records), read(sampler, train_records, num_workers=1, num_threads=1)
    )


def blocks_of(worker):
    """The number of its shared blocks; each has several descriptors."""
    descriptors = pathlib.Path(f"/proc/{worker.pid}/fd").iterdir()
    return len({path.stat().st_ino for path in descriptors if "memfd:batch" in os.readlink(path)})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_is_bounded_by_the_batches_that_wait(train_records, num_workers):
    sampler = make_sampler(num_faces=len(train_records), batch_size=16, num_epochs=1000)
    batches = loader.batches(
        sampler, train_records, **SETTINGS, num_workers=num_workers, num_threads=2
    )
    next(batches)
    time.sleep(1)  # all that may wait does
    places = set()
    for batch in itertools.islice(batches, 60):
        places.add(address(batch["image"].base))
    count = blocks_of(*multiprocessing.active_children()) if num_workers else len(places)
    batches.close()
    in_hand = 2  # the next one arrives before the last one is let go
    assert 1 < count <= loader.most_waiting(16, num_workers, 2) / (64 // 16) + in_hand


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_batch_is_kept_after_those_that_were_read_with_it(train_records, num_workers):
    sampler = make_sampler(num_faces=len(train_records), batch_size=16, num_epochs=10)
    batches = loader.batches(
        sampler, train_records, **SETTINGS, num_workers=num_workers, num_threads=2
    )
    kept = [weakref.ref(batch["image"].base) for batch in itertools.islice(batches, 16)]
    assert [memory() is None for memory in kept] == 12 * [True] + 4 * [False]


def test_batches_of_workers_that_have_ended_are_there(train_records):
    """The workers of a short run, which they share, end while its first batches are looked at."""
    sampler = make_sampler(num_faces=len(train_records), batch_size=16, num_epochs=1)
    batches = loader.batches(sampler, train_records, **SETTINGS, num_workers=2, num_threads=1)
    found = [next(batches)]
    deadline = time.monotonic() + 60
    while len(multiprocessing.active_children()) == 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(multiprocessing.active_children()) < 2
    assert_same(read(sampler, train_records), [*found, *batches])


@contextlib.contextmanager
def at_most(seconds):
    """Fails what hangs."""

    def fail(*_):
        raise AssertionError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kill", [True, False])
def test_large_batches_that_wait_leave_no_worker_waiting(train_records, kill):
    """A worker's messages are small: of a large one half would be in the pipe at any time."""
    records = train_records * 16
    sampler = make_sampler(num_faces=len(records), batch_size=512, num_epochs=100)
    settings = {**SETTINGS, "image_size": 8, "num_threads": 1}
    batches = loader.batches(sampler, records, **settings, num_workers=1)
    next(batches)
    time.sleep(2)  # its queue is full then, and nobody takes any
    (worker,) = multiprocessing.active_children()
    with at_most(60):
        if kill:
            worker.kill()
            with pytest.raises(WorkerError, match="has died"):
                list(batches)
        batches.close()
        worker.join()
    assert worker.exitcode == (-signal.SIGKILL if kill else 0)


def test_a_worker_that_has_ended_before_its_batch_arrives_is_told_of(train_records, monkeypatch):
    arrive = memory._arrive
    monkeypatch.setattr(
        memory, "_arrive", lambda *sent: dataclasses.replace(arrive(*sent), file=None)
    )
    with pytest.raises(WorkerError, match=r"has died: it ended .*fewer data\.num_workers"):
        read(make_sampler(num_faces=len(train_records)), train_records, num_workers=1)


def unreadable_at(rows, records):
    return [
        dataclasses.replace(record, image_path="/nowhere.jpg") if i in rows else record
        for i, record in enumerate(records)
    ]


def test_an_unreadable_image_raises_its_own_error(test_records):
    broken = unreadable_at({3}, test_records[:6])
    with pytest.raises(ImageError, match=f":{broken[3].line}: .*can't be read: No such file"):
        read(EvaluationSampler(6, 2), broken)


@pytest.mark.usefixtures("used_memory")
def test_a_face_that_cannot_be_read_counts_for_nothing(train_records):
    told = []
    broken = unreadable_at({1, 6}, train_records[:8])
    found = read(EvaluationSampler(8, 4), broken, at_unreadable=told.append)
    expected = read(EvaluationSampler(8, 4), train_records[:8])
    assert told == [1, 6]
    for batch, whole in zip(found, expected, strict=True):
        real = batch["mask"] > 0
        np.testing.assert_array_equal(real, ~np.isin(batch["index"], told))
        for name in ("image", "landmarks", "image_from_crop"):
            np.testing.assert_array_equal(batch[name][real], whole[name][real])
            assert not batch[name][~real].any()


def test_batch_norm_sees_a_readable_face_in_place_of_one_that_cannot_be_read(train_records):
    broken = unreadable_at({1, 6}, train_records[:8])
    told = []
    for batch in read(make_sampler(num_faces=8), broken, at_unreadable=told.append):
        left_out = batch["mask"] == 0
        for image in batch["image"][left_out]:
            assert image.any()
            assert (image == batch["image"][~left_out]).all(axis=(1, 2, 3)).any()
    assert sorted(told) == [1, 1, 1, 6, 6, 6]


def test_a_face_that_cannot_be_read_spoils_no_other_by_a_patch_of_it(train_records):
    """Though every face has a patch of another."""
    settings = {**OFF, "paste": {**OFF["paste"], "probability": 1.0}}
    broken = unreadable_at(set(range(2, 8)), train_records[:8])
    sampler = make_sampler(num_faces=8, batch_size=8)
    told = []
    for batch in read(sampler, broken, augmentation=settings, at_unreadable=told.append):
        assert sorted(batch["index"][batch["mask"] > 0]) == [0, 1]
    assert sorted(told) == sorted(3 * list(range(2, 8)))


def test_cores_that_a_process_may_not_use_have_no_thread(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert loader.default_threads(0) == 3
