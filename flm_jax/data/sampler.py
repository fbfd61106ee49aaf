"""In which order the faces are visited: in training, the seed and the step alone decide it.

An order is a sequence of steps: `order[step]` are this process's rows of that step's batch.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from flm_jax.data.wflw import Record
from flm_jax.errors import InputError

PADDING = -1  # a row of no face


@dataclasses.dataclass(frozen=True)
class TrainingSampler:
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

    def whole(self) -> "TrainingSampler":
        """The order of the global batches, which all processes share."""
        return dataclasses.replace(self, process_index=0, process_count=1)


@functools.lru_cache(maxsize=2)  # Of an epoch's end and the next one's start.
def _epoch_order(seed, epoch, num_faces):
    order = np.random.default_rng([seed, epoch]).permutation(num_faces)
    order.setflags(write=False)
    return order


@dataclasses.dataclass(frozen=True)
class EvaluationSampler:
    """Rows of every evaluation batch: each face once, in order, then padding (-1)."""

    num_faces: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def __len__(self) -> int:
        return -(-self.num_faces // self.batch_size)

    def __getitem__(self, batch: int) -> Int[ndarray, " rows"]:
        rows = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        rows = np.where(rows < self.num_faces, rows, PADDING)
        return _share(rows, self.process_index, self.process_count)


def _share(rows, process_index, process_count):
    size = len(rows) // process_count
    return rows[process_index * size : (process_index + 1) * size]


def fingerprint(records: Sequence[Record]) -> int:
    """A number that tells these faces in this order from others, wherever they lie on disk."""
    checksum = 0
    for record in records:
        checksum = zlib.crc32(record.image_name.encode(), checksum)
        checksum = zlib.crc32(record.landmarks.tobytes() + record.box.tobytes(), checksum)
    return checksum
