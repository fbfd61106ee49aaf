"""Samplers: which faces make up which batch.

A sampler is a sequence of steps: `sampler[step]` holds this process's rows of that step's batch. In
training the seed and the step alone decide them, so a resumed run sees the same batches.
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

PADDING = -1  # stands for a row without a face


@dataclasses.dataclass(frozen=True)
class TrainingSampler:
    """Rows of every training batch: each epoch is a new permutation, cut into whole batches.

    The faces that do not fill a last batch are left out; they differ from epoch to epoch. Drawn
    faces may be mixed in: their rows follow those of the training set, and every epoch has others.

    Attributes:
        num_faces: size of the training set.
        batch_size: of the global batch.
        num_epochs: number of passes over the training set.
        seed: of the permutations.
        process_index: which of `process_count` equal shares of each batch is read here.
        num_drawn: size of the pool of drawn faces.
        drawn_share: their share of an epoch.
    """

    num_faces: int
    batch_size: int
    num_epochs: int
    seed: int
    process_index: int = 0
    process_count: int = 1
    num_drawn: int = 0
    drawn_share: float = 0.0

    def __post_init__(self):
        if self.num_faces < self.batch_size:
            raise InputError(
                f"batch_size={self.batch_size} exceeds the {self.num_faces} training faces; "
                f"--config.batch_size={self.num_faces} is the largest that works"
            )

    @property
    def _mixed_in(self) -> int:
        """How many drawn faces an epoch has."""
        if not self.num_drawn:
            return 0
        return round(self.num_faces * self.drawn_share / (1 - self.drawn_share))

    @property
    def steps_per_epoch(self) -> int:
        return (self.num_faces + self._mixed_in) // self.batch_size

    def __len__(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def __getitem__(self, step: int) -> Int[ndarray, " rows"]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        permutation = _permutation(self.seed, epoch, self.num_faces, self._mixed_in, self.num_drawn)
        rows = permutation[batch * self.batch_size : (batch + 1) * self.batch_size]
        return _share(rows, self.process_index, self.process_count)

    def whole(self) -> "TrainingSampler":
        """The sampler of the global batches, the same in every process."""
        return dataclasses.replace(self, process_index=0, process_count=1)


@functools.lru_cache(maxsize=2)  # batches on both sides of an epoch's end
def _permutation(seed, epoch, num_faces, mixed_in, num_drawn):
    rng = np.random.default_rng([seed, epoch])
    permutation = rng.permutation(num_faces + mixed_in)
    if mixed_in:
        drawn = rng.choice(num_drawn, mixed_in, replace=mixed_in > num_drawn)
        places = permutation >= num_faces
        permutation[places] = num_faces + drawn
    permutation.setflags(write=False)
    return permutation


@dataclasses.dataclass(frozen=True)
class EvaluationSampler:
    """Rows of every evaluation batch: each face once, in order, then `PADDING`."""

    num_faces: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def __len__(self) -> int:
        return -(-self.num_faces // self.batch_size)

    def __getitem__(self, step: int) -> Int[ndarray, " rows"]:
        rows = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rows = np.where(rows < self.num_faces, rows, PADDING)
        return _share(rows, self.process_index, self.process_count)


def _share(rows, process_index, process_count):
    size = len(rows) // process_count
    return rows[process_index * size : (process_index + 1) * size]


def fingerprint(records: Sequence[Record]) -> int:
    """A checksum of the faces and their order, independent of where they lie on disk."""
    checksum = 0
    for record in records:
        checksum = zlib.crc32(record.image_name.encode(), checksum)
        checksum = zlib.crc32(record.landmarks.tobytes() + record.box.tobytes(), checksum)
    return checksum
