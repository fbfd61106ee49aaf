"""The grain loader: reads batches ahead, in threads or in processes.

    steps -> groups of them -> `ReadBatches` -> prefetch -> batches

An element of the grain dataset is a group of batches, or one large batch, written once into their
arrays. Its number is the training step of the first, so a run continues exactly from any step,
whatever number of processes, workers and threads reads.
"""

import dataclasses
import pickle
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from numpy import ndarray

from flm_jax.data import augmentation, shared_memory
from flm_jax.data.batch_memory import BatchMemory
from flm_jax.data.batches import ReadBatches
from flm_jax.data.images import ImageError, read_record_image
from flm_jax.data.prepared_face import read_face
from flm_jax.data.sampler import EvaluationSampler, TrainingSampler
from flm_jax.data.shared_memory import WorkerMemory
from flm_jax.data.wflw import Record
from flm_jax.data.workers import num_cores, start_reading, start_worker
from flm_jax.errors import InputError

_MOST_THREADS = 16
_AHEAD = 2  # groups that wait for this process, besides one for each of its threads

# Faces that are read at a time, at most, if a batch has fewer. What is done once for them all, and
# sending them from process to process, takes as long for few.
_FACES_AT_A_TIME = 64


class WorkerError(InputError):
    """A worker process has died."""


def batches(
    order: TrainingSampler | EvaluationSampler,
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
    """Yields the order's batches from `start` on, as `ReadBatches` makes them, read ahead.

    Args:
        order: which rows make which batch.
        records: what the rows count.
        image_size, box, crop, augmentation, flip: of `ReadBatches`.
        num_workers: worker processes; 0 reads in threads of this process.
        num_threads: threads of every process; 0: what `default_threads` says. How many batches
            wait at a time, `most_waiting` says.
        start: the first batch.
        at_unreadable: called with the row of a picture that can't be read, when its batch is due.
            Its sample is empty then, with mask 0. None: PictureError.

    Raises:
        PictureError: a picture can't be read, when its batch is due.
        WorkerError: a worker process has died.
    """
    if start >= len(order):
        return
    read = ReadBatches(order, records, image_size, box, crop, augmentation, flip)
    num_threads = num_threads or default_threads(num_workers)
    dataset = _dataset(range(start, len(order)), read, num_workers, num_threads)
    start_reading()
    # Worker processes inherit the mask: a signal for the whole group must not reach them before
    # they ignore it, or the parent loses what it could still save. (The resource tracker, where it
    # is started meanwhile, would unblock it again.)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        iterator = iter(dataset)
        group = _next(iterator)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        while group is not None:
            images, batches = group
            if num_workers:
                images, batches = _receive(images, iterator), pickle.loads(batches)
            for image, batch in zip(images, batches, strict=False):  # The last one has fewer.
                for row in batch["index"][batch["unreadable"]]:
                    if at_unreadable is None:
                        raise picture_error(records[row])
                    at_unreadable(int(row))
                batch["mask"][batch.pop("unreadable")] = 0
                yield {"image": image, **batch}
            group = _next(iterator)
    finally:
        iterator.close()


@dataclasses.dataclass(frozen=True)
class _ReadGroup:
    """Step -> the images of that step and the next ones, and what else is in their batches."""

    read: ReadBatches
    memory: BatchMemory | WorkerMemory
    size: int
    end: int
    pickled: bool

    def map(self, step):
        steps = range(step, min(step + self.size, self.end))
        images = self.memory.empty((self.size, *self.read.image_shape(step)))
        batches = self.read.write(steps, images[: len(steps)])
        return self.memory.send(images), _pickled(batches) if self.pickled else batches


def _pickled(batches):
    """One array, of which grain sends the name. A message that fills the pipe would do harm: of a
    process that is killed or stopped meanwhile, half would arrive, and the other half be awaited.
    """
    return np.frombuffer(pickle.dumps(batches), np.uint8)


def _dataset(steps, read, num_workers, num_threads):
    """The groups of the steps' batches, read ahead by grain."""
    import grain  # Prediction needs none of it.

    rows = read.image_shape(steps[0])[0]
    # Of a short order every thread has its share.
    share = len(steps) // num_readers(num_workers, num_threads)
    size = max(1, min(batches_at_a_time(rows), share))
    memory = WorkerMemory() if num_workers and shared_memory.is_available() else BatchMemory()
    ahead = num_threads + (0 if num_workers else _AHEAD)
    dataset = (
        grain.MapDataset.range(steps.start, steps.stop, size)
        .map(_ReadGroup(read, memory, size, steps.stop, pickled=num_workers > 0).map)
        .to_iter_dataset(grain.ReadOptions(num_threads, prefetch_buffer_size=ahead))
    )
    if not num_workers:
        return dataset
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=1)
    return dataset.mp_prefetch(options, worker_init_fn=start_worker)


def batches_at_a_time(rows: int) -> int:
    """How many batches of `rows` faces are read together, at most."""
    return max(1, _FACES_AT_A_TIME // max(1, rows))


def most_waiting(rows: int, num_workers: int, num_threads: int) -> int:
    """How many batches of `rows` faces wait when nobody takes any, at most.

    num_workers and num_threads are those of `batches`.
    """
    num_threads = num_threads or default_threads(num_workers)
    groups = num_threads + _AHEAD
    if num_workers:
        # Besides one for each thread: one that is sent, one in the queue between the processes, and
        # two that this process has taken from it.
        groups = num_workers * (num_threads + 4)
    return groups * batches_at_a_time(rows)


def default_threads(num_workers: int) -> int:
    """One for each core that this process may use, shared by the processes; at most 16 together.

    More would hold many batches, and wait for one another's turn in Python.
    """
    return max(1, min(_MOST_THREADS, num_cores()) // max(1, num_workers))


def num_readers(num_workers: int, num_threads: int) -> int:
    """The threads of all processes that read.

    num_workers and num_threads are those of `batches`.
    """
    return max(1, num_workers) * (num_threads or default_threads(num_workers))


def picture_error(record: Record) -> ImageError:
    """Why a picture can't be read."""
    try:
        read_record_image(record)
        if record.shard:
            read_face(record)
    except ImageError as error:
        return error
    return ImageError(f"{record.place}: could not be read a moment ago, and can be now")


def _next(iterator):
    try:
        return next(iterator, None)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise _worker_error(str(error).splitlines()[0].split(". ")[0]) from None


def _receive(images, iterator):
    try:
        return shared_memory.receive(images)
    except FileNotFoundError:
        while _next(iterator) is not None:  # Until grain tells of the process's exit code.
            pass
        raise _worker_error("it has ended before what it has read was taken") from None


def _worker_error(reason):
    return WorkerError(
        f"a process that reads pictures has died: {reason}. It may have been out of memory; "
        "fewer data.num_workers need less, and 0 none"
    )
