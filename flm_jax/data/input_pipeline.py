"""The grain loader: records to batches, in an order that the seed and the step alone decide.

    step -> this process's rows -> read, crop, augment, normalise -> prefetch

An element of the grain dataset is a group of batches, or one large batch, written once into their
arrays. Its number is the training step of the first, so a run continues exactly from any step,
whatever number of processes, workers and threads reads.
"""

import dataclasses
import functools
import pickle
import signal
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data import augmentation, shared_memory, transforms
from flm_jax.data.batch_memory import BatchMemory
from flm_jax.data.prepared_face import cut_face, read_face
from flm_jax.data.shared_memory import WorkerMemory
from flm_jax.data.transforms import PictureError
from flm_jax.data.wflw import Record
from flm_jax.data.workers import num_cores, start_reading, start_worker
from flm_jax.errors import InputError
from flm_jax.landmarks import MIRROR

_PADDING = -1
_PIECE_TRIES = 8
_MOST_THREADS = 16
_AHEAD = 2  # groups that wait for this process, besides one for each of its threads

# Faces that are read at a time, at most, if a batch has fewer. What is done once for them all, and
# sending them from process to process, takes as long for few.
_FACES_AT_A_TIME = 64


class WorkerError(InputError):
    """A worker process has died."""


@dataclasses.dataclass(frozen=True)
class TrainingOrder:
    """Rows of every training step's batch: each epoch visits n // batch batches of a new order.

    What an epoch leaves out differs from epoch to epoch, since each has its own permutation.

    Attributes:
        num_faces: how many there are.
        batch_size: of the global batch.
        num_epochs: how often they are visited.
        seed: decides the order.
        process_index: which rows of the batch are read here, of `process_count` equal shares.
    """

    num_faces: int
    batch_size: int
    num_epochs: int
    seed: int
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        if self.num_faces < self.batch_size:
            raise InputError(
                f"batch_size={self.batch_size} exceeds the {self.num_faces} training faces; "
                f"--config.batch_size={self.num_faces} is the largest that works"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.num_faces // self.batch_size

    def __len__(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def __getitem__(self, step: int) -> Int[ndarray, " rows"]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.seed, epoch, self.num_faces)
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return _share(rows, self.process_index, self.process_count)

    def whole(self) -> "TrainingOrder":
        """The order of the global batches, which all processes share."""
        return dataclasses.replace(self, process_index=0, process_count=1)


@functools.lru_cache(maxsize=2)  # Of an epoch's end and the next one's start.
def _epoch_order(seed, epoch, num_faces):
    order = np.random.default_rng([seed, epoch]).permutation(num_faces)
    order.setflags(write=False)
    return order


@dataclasses.dataclass(frozen=True)
class EvaluationOrder:
    """Rows of every evaluation batch: each face once, in order, then padding (-1)."""

    num_faces: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def __len__(self) -> int:
        return -(-self.num_faces // self.batch_size)

    def __getitem__(self, batch: int) -> Int[ndarray, " rows"]:
        rows = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        rows = np.where(rows < self.num_faces, rows, _PADDING)
        return _share(rows, self.process_index, self.process_count)


def _share(rows, process_index, process_count):
    size = len(rows) // process_count
    return rows[process_index * size : (process_index + 1) * size]


@dataclasses.dataclass(frozen=True)
class ReadBatches:
    """Steps and memory for their images -> their batches; padding is zero, with index -1, mask 0.

    A batch is image f32[b, s, s, 3], landmarks f32[b, 98, 2] in its pixels, image_from_crop
    f32[b, 2, 3], index i32[b] and mask f32[b], and here unreadable bool[b]: an empty sample, whose
    picture can't be read. Where image_from_crop mirrors, landmark i is landmark MIRROR[i] of the
    record.

    Attributes:
        order: the rows of every step.
        records: what the rows count.
        image_size: the side s of the crop.
        box: the face's box, one of `transforms.BOXES`.
        crop: keywords of `transforms.crop_box`.
        augmentation: settings of `augmentation`, for training; None: the faces as they are.
        mirror: whether every face is mirrored.
    """

    order: TrainingOrder | EvaluationOrder
    records: Sequence[Record] = dataclasses.field(repr=False)  # grain asks for the text.
    image_size: int
    box: str
    crop: Mapping[str, Any]
    augmentation: augmentation.Settings | None
    mirror: bool

    def image_shape(self, step: int) -> tuple[int, ...]:
        return len(self.order[step]), self.image_size, self.image_size, 3

    def write(self, steps: range, images: Float[ndarray, "n b s s 3"]) -> list[dict[str, ndarray]]:
        """The batches of n steps but for their images, which are written to the (contiguous) ones
        given."""
        rows = np.concatenate([self.order[step] for step in steps])
        samples = {
            "landmarks": np.zeros((len(rows), 98, 2), np.float32),
            "image_from_crop": np.zeros((len(rows), 2, 3), np.float32),
            "index": rows.astype(np.int32),
            "mask": (rows != _PADDING).astype(np.float32),
            "unreadable": np.zeros(len(rows), bool),
        }
        flat = images.reshape(len(rows), *images.shape[2:])
        flat[rows == _PADDING] = 0
        (places,) = np.nonzero(rows != _PADDING)
        if len(places):
            self._write_samples(steps, places, samples, flat)
        split = {name: np.split(values, len(steps)) for name, values in samples.items()}
        return [{name: split[name][i] for name in split} for i in range(len(steps))]

    def _write_samples(self, steps, places, samples, images):
        """Fills the places of the samples and of their images.

        What all can share goes first. Between the long calls for each picture, which let other
        threads run, as little as possible is left to do in Python, which does not.
        """
        rows = samples["index"][places].tolist()
        records = [self.records[row] for row in rows]
        rngs, maps = self._crops_from_images(steps, rows, records)
        landmarks = geometry.apply(maps, np.stack([record.landmarks for record in records]))
        mirrored = geometry.mirrors(maps)
        landmarks[mirrored] = landmarks[mirrored][:, MIRROR]
        samples["landmarks"][places] = landmarks
        inverses = [geometry.invert(crop_from_image) for crop_from_image in maps]
        samples["image_from_crop"][places] = inverses
        for i, record, rng, image_from_crop in zip(places, records, rngs, inverses, strict=True):
            try:
                crop = cut_face(record, image_from_crop, self.image_size)
            except PictureError:
                samples["unreadable"][i] = True
                for array in (images, samples["landmarks"], samples["image_from_crop"]):
                    array[i] = 0
                continue
            if self.augmentation is not None:
                crop = augmentation.distort(rng, crop, self.augmentation, self._cut_any)
            transforms.normalise(crop, out=images[i])

    def _crops_from_images(self, steps, rows, records):
        """The generator of each face, if any, and its map."""
        if self.augmentation is None:
            return len(rows) * [None], self._plain_crops_from_images(records)
        assert isinstance(self.order, TrainingOrder)
        seed, batch_size = self.order.seed, len(rows) // len(steps)  # No step has padding.
        rngs = [
            augmentation.face_generator(seed, self.order.epoch(steps[i // batch_size]), row)
            for i, row in enumerate(rows)
        ]
        maps = [
            augmentation.crop_from_image(
                rng,
                transforms.face_box(record, self.box),
                self.image_size,
                self.crop,
                self.augmentation,
            )
            for rng, record in zip(rngs, records, strict=True)
        ]
        return rngs, np.stack(maps)

    def _plain_crops_from_images(self, records):
        boxes = np.stack([transforms.face_box(record, self.box) for record in records])
        return transforms.crop_from_image(boxes, self.image_size, mirror=self.mirror, **self.crop)

    def _cut_any(self, rng):
        """The crop of any face that can be read, which pieces are cut from."""
        for _ in range(_PIECE_TRIES):
            record = self.records[rng.integers(len(self.records))]
            try:
                (crop_from_image,) = self._plain_crops_from_images([record])
                return cut_face(record, geometry.invert(crop_from_image), self.image_size)
            except PictureError:
                pass  # It is told of when its own turn comes.
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)


def batches(
    order: TrainingOrder | EvaluationOrder,
    records: Sequence[Record],
    *,
    image_size: int,
    box: str,
    crop: Mapping[str, Any],
    augmentation: augmentation.Settings | None = None,
    mirror: bool = False,
    num_workers: int,
    num_threads: int,
    start: int = 0,
    at_unreadable: Callable[[int], object] | None = None,
) -> Generator[dict[str, ndarray]]:
    """Yields the order's batches from `start` on, as `ReadBatches` makes them, read ahead.

    Args:
        order: which rows make which batch.
        records: what the rows count.
        image_size, box, crop, augmentation, mirror: of `ReadBatches`.
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
    read = ReadBatches(order, records, image_size, box, crop, augmentation, mirror)
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


def picture_error(record: Record) -> PictureError:
    """Why a picture can't be read."""
    try:
        transforms.read_image(record)
        if record.shard:
            read_face(record)
    except PictureError as error:
        return error
    return PictureError(f"{record.place}: could not be read a moment ago, and can be now")


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


def fingerprint(records: Sequence[Record]) -> int:
    """A number that tells these faces in this order from others, wherever they lie on disk."""
    checksum = 0
    for record in records:
        checksum = zlib.crc32(record.image_name.encode(), checksum)
        checksum = zlib.crc32(record.landmarks.tobytes() + record.box.tobytes(), checksum)
    return checksum
