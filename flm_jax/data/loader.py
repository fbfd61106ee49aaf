"""The loader: reads batches ahead with grain, in threads or in worker processes.

    steps -> groups of steps -> `BatchReader` -> prefetch -> batches

An element of the grain dataset is a group of batches (one, if a batch is large), identified by its
first step. So a run continues exactly from any step, with any number of workers and threads.
"""

import collections
import concurrent.futures
import functools
import itertools
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from numpy import ndarray

from flm_jax.data import augmentation
from flm_jax.data.batches import BatchReader
from flm_jax.data.images import ImageError, read_record_image
from flm_jax.data.memory import BatchMemory, WorkerMemory, can_share
from flm_jax.data.prepared_face import read_face
from flm_jax.data.sampler import EvaluationSampler, TrainingSampler
from flm_jax.data.wflw import Record
from flm_jax.data.workers import num_cores, start_reading, start_worker
from flm_jax.errors import InputError
from flm_jax.runtime.signals import SIGNALS

_MAX_THREADS = 16
_MAX_DRAINED = 1000  # groups, after a worker has ended
_AHEAD = 2  # groups that wait in this process, besides one for each of its threads

# Faces in a group, at most, unless a batch has more: the fixed cost of a group is as high for few.
_GROUP_FACES = 64


class WorkerError(InputError):
    """A worker process has died."""


def batches(
    sampler: TrainingSampler | EvaluationSampler,
    records: Sequence[Record],
    *,
    image_size: int,
    box: str,
    crop: Mapping[str, Any],
    augmentation: augmentation.Settings | None = None,
    flip: bool = False,
    num_workers: int,
    num_threads: int,
    start: int = 0,
    at_unreadable: Callable[[int], object] | None = None,
) -> Generator[dict[str, ndarray]]:
    """Yields the sampler's batches from `start` on, as `BatchReader` describes them, read ahead.

    Args:
        sampler: the rows of every batch.
        records: what the rows index.
        image_size, box, crop, augmentation, flip: as in `BatchReader`.
        num_workers: worker processes; 0: read in threads of this process.
        num_threads: threads of every process; 0: `default_threads`.
        start: the first batch.
        at_unreadable: called with the row of an unreadable image when its batch is due; the sample
            is then zero, with mask 0. None: raise ImageError.

    Raises:
        ImageError: an image of the batch cannot be read.
        WorkerError: a worker process has died.
    """
    if start >= len(sampler):
        return
    reader = BatchReader(sampler, records, image_size, box, crop, augmentation, flip)
    num_threads = num_threads or default_threads(num_workers)
    # A short run is shared by all threads.
    share = (len(sampler) - start) // num_readers(num_workers, num_threads)
    size = max(1, min(batches_at_a_time(len(sampler[start])), share))
    dataset = _dataset(range(start, len(sampler), size), reader, num_workers, num_threads)
    iterator, group = _start(dataset)
    try:
        for step in range(start, len(sampler)):
            place = (step - start) % size
            if place == 0:
                arrays = _receive(group if step == start else _next(iterator), iterator)
                group = None  # which would keep its memory
                images = arrays.pop("image")
            # Copies do not keep the memory of the images.
            batch = {name: np.array(array[place]) for name, array in arrays.items()}
            for row in batch["index"][batch["unreadable"]]:
                if at_unreadable is None:
                    raise image_error(records[row])
                at_unreadable(int(row))
            batch["mask"][batch.pop("unreadable")] = 0
            yield {"image": images[place], **batch}
    finally:
        iterator.close()


def _dataset(steps, reader, num_workers, num_threads):
    """The grain dataset of the groups that begin at `steps`."""
    import grain  # here: prediction does without

    memory = WorkerMemory() if num_workers and can_share() else BatchMemory()
    read = functools.partial(_read_group, reader, memory, steps)
    ahead = num_threads + (0 if num_workers else _AHEAD)
    dataset = (
        grain.MapDataset.range(steps.start, steps.stop, steps.step)
        .map(read)
        .to_iter_dataset(grain.ReadOptions(num_threads, prefetch_buffer_size=ahead))
    )
    if not num_workers:
        return dataset
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=1)
    return dataset.mp_prefetch(options, worker_init_fn=start_worker)


def _read_group(reader, memory, steps, step):
    """A block of the batches from `step` up to the next of `steps`."""
    block = memory.take(reader.layout(steps.step))
    reader.read(range(step, min(step + steps.step, steps.stop)), block.arrays)
    return block


def _start(dataset):
    """The dataset's iterator and its first element; starts the workers."""
    start_reading()
    # Workers inherit the signal mask: a signal to the whole group must not reach them before they
    # ignore it. Starting the resource tracker would unblock the signals, so it starts first.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        iterator = iter(dataset)
        return iterator, _next(iterator)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _next(iterator):
    try:
        return next(iterator, None)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise _worker_error(str(error).splitlines()[0].split(". ")[0]) from None


def _receive(group, iterator):
    try:
        return group.receive()
    except LookupError:
        # What was read before, until grain reports the worker's exit code.
        collections.deque(itertools.islice(iter(lambda: _next(iterator), None), _MAX_DRAINED), 0)
        raise _worker_error("it ended before its batch was received") from None


def _worker_error(reason):
    return WorkerError(
        f"a process that reads images has died: {reason}. It may have run out of memory; fewer "
        "data.num_workers need less, and 0 none"
    )


def find_unreadable(records: Sequence[Record], num_threads: int) -> Iterator[int]:
    """The rows of the faces that the loader could not read, by reading all of them."""

    def read(record: Record) -> bool:
        try:
            if record.shard:
                read_face(record)
            else:
                read_record_image(record)
        except ImageError:
            return False
        return True

    start_reading()
    with concurrent.futures.ThreadPoolExecutor(num_threads or default_threads(0)) as pool:
        try:
            for row, is_readable in enumerate(pool.map(read, records)):
                if not is_readable:
                    yield row
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def image_error(record: Record) -> ImageError:
    """Why the record's image cannot be read."""
    try:
        read_record_image(record)
        if record.shard:
            read_face(record)
    except ImageError as error:
        return error
    return ImageError(f"{record.place}: could not be read a moment ago, and can be now")


def batches_at_a_time(rows: int) -> int:
    """How many batches of `rows` faces are read as one group, at most."""
    return max(1, _GROUP_FACES // max(1, rows))


def most_waiting(rows: int, num_workers: int, num_threads: int) -> int:
    """How many batches of `rows` faces wait to be taken, at most, with `batches`' arguments."""
    num_threads = num_threads or default_threads(num_workers)
    groups = num_threads + _AHEAD
    if num_workers:
        # For each worker: one per thread, one being sent, one in the queue between the processes,
        # and two that this process has taken from it.
        groups = num_workers * (num_threads + 4)
    return groups * batches_at_a_time(rows)


def num_readers(num_workers: int, num_threads: int) -> int:
    """The number of reading threads in all processes, with `batches`' arguments."""
    return max(1, num_workers) * (num_threads or default_threads(num_workers))


def default_threads(num_workers: int) -> int:
    """Threads of each process: one per usable core, shared by the workers; at most 16 in all.

    More would hold many batches and compete for the GIL.
    """
    return max(1, min(_MAX_THREADS, num_cores()) // max(1, num_workers))
