import contextlib
import dataclasses
import itertools
import multiprocessing
import signal
import time

import numpy as np
import pytest
from support.faces import CROP, OFF, TURNED, address

from flm_jax.data import loader, shared_memory
from flm_jax.data.batches import ReadBatches
from flm_jax.data.images import ImageError
from flm_jax.data.loader import WorkerError
from flm_jax.data.sampler import EvaluationSampler, TrainingSampler


def read(order, records, **settings):
    settings = {"box": "rectangle", "crop": CROP, "num_workers": 0, "num_threads": 2, **settings}
    return list(loader.batches(order, records, **{"image_size": 32, **settings}))


def make_order(**settings):
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


def test_a_batch_holds_what_a_step_takes(test_records):
    first, last = read(EvaluationSampler(5, 4), test_records)
    for batch in (first, last):
        assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
            "image": (np.float32, (4, 32, 32, 3)),
            "landmarks": (np.float32, (4, 98, 2)),
            "image_from_crop": (np.float32, (4, 2, 3)),
            "index": (np.int32, (4,)),
            "mask": (np.float32, (4,)),
        }
    np.testing.assert_array_equal(last["mask"], [1, 0, 0, 0])
    np.testing.assert_array_equal(last["index"], [4, -1, -1, -1])
    assert not last["image"][1:].any()


@pytest.mark.parametrize("settings", [None, TURNED])
def test_threads_and_start_do_not_change_the_batches(train_records, settings):
    order = make_order(num_faces=len(train_records), batch_size=16, num_epochs=2)
    whole = read(order, train_records, num_threads=1, augmentation=settings)
    assert_same(whole, read(order, train_records, num_threads=5, augmentation=settings))
    start = 3  # So that other batches are read together.
    assert_same(whole[start:], read(order, train_records, start=start, augmentation=settings))
    assert read(order, train_records, start=len(order)) == []


def test_a_short_order_is_shared_by_the_threads(train_records, monkeypatch):
    sizes = []
    write = ReadBatches.write

    def counted(self, steps, images):
        sizes.append(len(steps))
        return write(self, steps, images)

    monkeypatch.setattr(ReadBatches, "write", counted)
    for num_faces, num_threads, expected in ((40, 5, [2] * 5), (40, 1, [10]), (12, 5, [1] * 3)):
        sizes.clear()
        read(EvaluationSampler(num_faces, 4), train_records, num_threads=num_threads)
        assert sizes == expected


@pytest.mark.parametrize("shared", [True, False])
def test_worker_processes_do_not_change_the_batches(train_records, monkeypatch, shared):
    """They send some at a time, through memory that is shared where the system has it."""
    monkeypatch.setattr(shared_memory, "is_available", lambda: shared)
    order = make_order(num_faces=len(train_records), batch_size=10, num_epochs=4)
    start = 1
    assert (len(order) - start) % (64 // 10) != 0
    expected = read(order, train_records, start=start)
    assert_same(expected, read(order, train_records, start=start, num_workers=2))


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_is_bounded_by_the_batches_that_wait(
    train_records, monkeypatch, num_workers, num_threads
):
    places = set()
    receive = shared_memory.receive

    def received(sent):
        places.add(sent.descriptor)  # One address is not one memory: it is looked at anew.
        return receive(sent)

    monkeypatch.setattr(shared_memory, "receive", received)
    order = make_order(num_faces=len(train_records), batch_size=16, num_epochs=100)
    settings = {"image_size": 16, "box": "rectangle", "crop": CROP, "num_threads": num_threads}
    batches = loader.batches(order, train_records, num_workers=num_workers, **settings)
    next(batches)
    time.sleep(2)  # All that may wait does.
    for batch in itertools.islice(batches, 100):
        if not num_workers:
            places.add(address(batch["image"].base))
    batches.close()
    together = 64 // 16
    in_hand = 1 if num_workers else 2  # Of threads: and the next one, before it is let go.
    most = loader.most_waiting(16, num_workers, num_threads)
    assert 1 < len(places) <= most / together + in_hand


def test_batches_of_workers_that_have_ended_are_there(train_records, monkeypatch):
    """The workers of a short order, which they share, end while its first batches are looked at."""
    sizes = []
    receive = shared_memory.receive

    def received(sent):
        sizes.append(sent.shape[0])
        return receive(sent)

    monkeypatch.setattr(shared_memory, "receive", received)
    order = make_order(num_faces=len(train_records), batch_size=16, num_epochs=2)
    settings = {"image_size": 16, "box": "rectangle", "crop": CROP, "num_threads": 1}
    batches = loader.batches(order, train_records, num_workers=3, **settings)
    found = [next(batches)]
    time.sleep(3)
    assert len(multiprocessing.active_children()) < 3
    found += batches
    assert sizes == [2, 2, 2]
    assert_same(read(order, train_records, image_size=16), found)


@contextlib.contextmanager
def at_most(seconds):
    """What hangs fails."""

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
    order = make_order(num_faces=len(records), batch_size=512, num_epochs=100)
    settings = {"image_size": 8, "box": "rectangle", "crop": CROP, "num_threads": 1}
    batches = loader.batches(order, records, num_workers=1, **settings)
    next(batches)
    time.sleep(3)  # Its queue is full then, and nobody takes any.
    (worker,) = multiprocessing.active_children()
    with at_most(15):
        if kill:
            worker.kill()
            with pytest.raises(WorkerError, match="has died"):
                list(batches)
        batches.close()
    assert worker.exitcode == (-signal.SIGKILL if kill else 0)


def test_a_worker_that_has_ended_before_its_images_arrive_is_told_of(train_records, monkeypatch):
    def receive(sent):
        raise FileNotFoundError("the worker has ended")

    monkeypatch.setattr(shared_memory, "receive", receive)
    with pytest.raises(WorkerError, match=r"has died: it has ended .*fewer data\.num_workers"):
        read(make_order(num_faces=len(train_records)), train_records, num_workers=1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_picture_raises_its_own_error(tmp_path, test_records, num_workers):
    (tmp_path / "broken.jpg").write_bytes(b"")
    broken = dataclasses.replace(test_records[3], image_path=str(tmp_path / "broken.jpg"))
    records = [*test_records[:3], broken, *test_records[4:]]
    with pytest.raises(ImageError, match=f":{broken.line}: .*the file is empty"):
        read(EvaluationSampler(len(records), 2), records, num_workers=num_workers)


def unreadable_at(rows, records):
    return [
        dataclasses.replace(record, image_path="/nowhere.jpg") if i in rows else record
        for i, record in enumerate(records)
    ]


@pytest.mark.usefixtures("used_memory")
def test_a_face_that_can_not_be_read_counts_for_nothing(train_records):
    broken = unreadable_at({1, 6}, train_records[:8])
    told = []
    found = read(EvaluationSampler(8, 4), broken, at_unreadable=told.append)
    expected = read(EvaluationSampler(8, 4), train_records[:8])
    assert told == [1, 6]
    np.testing.assert_array_equal(
        np.concatenate([b["mask"] for b in found]) == 0, [i in told for i in range(8)]
    )
    for batch, whole in zip(found, expected, strict=True):
        real = batch["mask"] > 0
        for name in ("image", "landmarks", "image_from_crop"):
            np.testing.assert_array_equal(batch[name][real], whole[name][real])
            assert not batch[name][~real].any()


def test_a_face_that_can_not_be_read_spoils_no_other_by_a_piece_of_it(train_records):
    """Though pieces of other pictures cover every face."""
    settings = {name: dict(values) for name, values in OFF.items()}
    settings["paste"]["probability"] = 1.0
    broken = unreadable_at(set(range(2, 8)), train_records[:8])
    order = TrainingSampler(num_faces=8, batch_size=8, num_epochs=6, seed=0)
    told = []
    for batch in read(order, broken, augmentation=settings, at_unreadable=told.append):
        assert sorted(batch["index"][batch["mask"] > 0]) == [0, 1]
    assert sorted(told) == sorted(6 * list(range(2, 8)))
