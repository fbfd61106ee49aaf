"""Reads batches: the records of a step's rows are cut, augmented and normalised."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data import augmentation
from flm_jax.data.crop import crop_map, face_box, normalise
from flm_jax.data.images import ImageError
from flm_jax.data.memory import Layout
from flm_jax.data.prepared_face import cut_face
from flm_jax.data.sampler import PADDING, EvaluationSampler, TrainingSampler
from flm_jax.data.wflw import Record
from flm_jax.landmarks import MIRROR

_PASTE_TRIES = 8
_UNKNOWN = np.full(98, -1, np.int8)


@dataclasses.dataclass(frozen=True)
class BatchReader:
    """Reads the batches of a sampler.

    A batch is image f32[b, s, s, 3], landmarks f32[b, 98, 2] in pixels of it, visible i8[b, 98] (1,
    0, or -1 where it is unknown), image_from_crop f32[b, 2, 3], index i32[b] (the row), mask f32[b]
    and unreadable bool[b]. Where image_from_crop flips, landmark i is landmark MIRROR[i] of the
    record. Padding is zero, with index -1 and mask 0; a sample whose image cannot be read is zero,
    and unreadable. In training it has the image of another of its batch, so that batch norm sees
    faces alone.

    Attributes:
        sampler: the rows of every step.
        records: what the rows index.
        image_size: side s of the crop in pixels.
        box: the face's box, one of `crop.BOXES`.
        crop: keywords of `crop.crop_box`.
        augmentation: settings valid for `augmentation.check`; None: plain crops.
        flip: whether to flip every face; without augmentation.
    """

    sampler: TrainingSampler | EvaluationSampler
    records: Sequence[Record] = dataclasses.field(repr=False)  # grain prints what it maps
    image_size: int
    box: str
    crop: Mapping[str, Any]
    augmentation: augmentation.Settings | None
    flip: bool

    def layout(self, num_steps: int) -> Layout:
        """The shapes and dtypes of the batches of so many steps, stacked."""
        leading, size = (num_steps, len(self.sampler[0])), self.image_size
        return {
            "image": ((*leading, size, size, 3), np.float32),
            "landmarks": ((*leading, 98, 2), np.float32),
            "image_from_crop": ((*leading, 2, 3), np.float32),
            "index": (leading, np.int32),
            "mask": (leading, np.float32),
            "unreadable": (leading, np.bool_),
            "visible": ((*leading, 98), np.int8),
        }

    def read(self, steps: range, out: Mapping[str, ndarray]) -> None:
        """Writes the batches of the steps to the first rows of `out`, contiguous arrays."""
        # [steps, batch, ...] -> [samples, ...]
        samples = {
            name: array[: len(steps)].reshape(-1, *array.shape[2:]) for name, array in out.items()
        }
        rows = np.concatenate([self.sampler[step] for step in steps])
        samples["index"][:] = rows
        samples["mask"][:] = rows != PADDING
        samples["unreadable"][:] = False
        for name in ("image", "landmarks", "image_from_crop", "visible"):
            samples[name][rows == PADDING] = 0
        (real,) = np.nonzero(rows != PADDING)
        if len(real):
            self._fill(steps, real, samples)

    def _fill(self, steps, real, samples):
        """Fills in the real samples.

        The work that faces can share comes first: between OpenCV's calls, which release the GIL,
        as little Python as possible should hold it.
        """
        rows = samples["index"][real].tolist()
        records = [self.records[row] for row in rows]
        rngs, maps = self._crop_maps(steps, rows, records)
        landmarks = geometry.apply(maps, np.stack([record.landmarks for record in records]))
        flipped = geometry.flips(maps)
        visible = np.stack([_UNKNOWN if each.visible is None else each.visible for each in records])
        for array in (landmarks, visible):
            array[flipped] = array[flipped][:, MIRROR]
        samples["landmarks"][real], samples["visible"][real] = landmarks, visible
        inverses = [geometry.invert(crop_from_image) for crop_from_image in maps]
        samples["image_from_crop"][real] = inverses
        for i, record, rng, image_from_crop in zip(real, records, rngs, inverses, strict=True):
            try:
                crop = cut_face(record, image_from_crop, self.image_size)
            except ImageError:
                samples["unreadable"][i] = True
                for name in ("image", "landmarks", "image_from_crop", "visible"):
                    samples[name][i] = 0
                continue
            if self.augmentation is not None:
                crop, covers = augmentation.distort(
                    rng, crop, samples["landmarks"][i], self.augmentation, self._cut_any
                )
                _hide(samples["visible"][i], samples["landmarks"][i], covers)
            normalise(crop, out=samples["image"][i])
        if isinstance(self.sampler, TrainingSampler):
            self._fill_unreadable(len(steps), samples["image"], samples["unreadable"])

    def _fill_unreadable(self, num_steps, images, unreadable):
        """Gives each unreadable sample the image of one of its batch that is readable."""
        images = images.reshape(num_steps, -1, *images.shape[1:])
        for batch, broken in zip(images, unreadable.reshape(num_steps, -1), strict=True):
            if broken.any() and not broken.all():
                batch[broken] = batch[np.argmin(broken)]

    def _crop_maps(self, steps, rows, records):
        """The generator (None without augmentation) and the map crop_from_image of each face."""
        if self.augmentation is None:
            return len(rows) * [None], self._plain_crop_maps(records)
        assert isinstance(self.sampler, TrainingSampler)
        seed, batch_size = self.sampler.seed, len(rows) // len(steps)  # training has no padding
        rngs = [
            augmentation.face_generator(seed, self.sampler.epoch(steps[i // batch_size]), row)
            for i, row in enumerate(rows)
        ]
        boxes = [face_box(record, self.box) for record in records]
        maps = [
            augmentation.random_crop_map(rng, box, self.image_size, self.crop, self.augmentation)
            for rng, box in zip(rngs, boxes, strict=True)
        ]
        return rngs, np.stack(maps)

    def _plain_crop_maps(self, records):
        boxes = np.stack([face_box(record, self.box) for record in records])
        return crop_map(boxes, self.image_size, flip=self.flip, **self.crop)

    def _cut_any(self, rng: np.random.Generator) -> UInt8[ndarray, "s s 3"]:
        """The plain crop of a random face, for pasted patches."""
        for _ in range(_PASTE_TRIES):
            record = self.records[int(rng.integers(len(self.records)))]
            try:
                (crop_from_image,) = self._plain_crop_maps([record])
                return cut_face(record, geometry.invert(crop_from_image), self.image_size)
            except ImageError:
                pass  # reported when its own turn comes
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)


def _hide(visible, landmarks, covers):
    """Marks the landmarks under a cover (left, top, right, bottom, in whole pixels) as hidden."""
    for *low, right, bottom in covers:
        under = ((landmarks >= low) & (landmarks <= (right - 1, bottom - 1))).all(axis=1)
        visible[under & (visible == 1)] = 0
