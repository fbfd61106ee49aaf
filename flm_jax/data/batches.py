"""Steps -> batches: the records of their rows are read, cropped, augmented and normalised."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data import augmentation
from flm_jax.data.crop import crop_map, face_box, normalise
from flm_jax.data.images import ImageError
from flm_jax.data.prepared_face import cut_face
from flm_jax.data.sampler import PADDING, EvaluationSampler, TrainingSampler
from flm_jax.data.wflw import Record
from flm_jax.landmarks import MIRROR

_PIECE_TRIES = 8


@dataclasses.dataclass(frozen=True)
class ReadBatches:
    """Steps and memory for their images -> their batches; padding is zero, with index -1, mask 0.

    A batch is image f32[b, s, s, 3], landmarks f32[b, 98, 2] in its pixels, image_from_crop
    f32[b, 2, 3], index i32[b], mask f32[b] and unreadable bool[b], which the loader takes out: an
    empty sample, whose picture can't be read. Where image_from_crop mirrors, landmark i is landmark
    MIRROR[i] of the record.

    Attributes:
        order: the rows of every step.
        records: what the rows count.
        image_size: the side s of the crop.
        box: the face's box, one of `crop.BOXES`.
        crop: keywords of `crop.crop_box`.
        augmentation: settings of `augmentation`, for training; None: the faces as they are.
        flip: whether every face is mirrored.
    """

    order: TrainingSampler | EvaluationSampler
    records: Sequence[Record] = dataclasses.field(repr=False)  # grain asks for the text.
    image_size: int
    box: str
    crop: Mapping[str, Any]
    augmentation: augmentation.Settings | None
    flip: bool

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
            "mask": (rows != PADDING).astype(np.float32),
            "unreadable": np.zeros(len(rows), bool),
        }
        flat = images.reshape(len(rows), *images.shape[2:])
        flat[rows == PADDING] = 0
        (places,) = np.nonzero(rows != PADDING)
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
            except ImageError:
                samples["unreadable"][i] = True
                for array in (images, samples["landmarks"], samples["image_from_crop"]):
                    array[i] = 0
                continue
            if self.augmentation is not None:
                crop = augmentation.distort(rng, crop, self.augmentation, self._cut_any)
            normalise(crop, out=images[i])

    def _crops_from_images(self, steps, rows, records):
        """The generator of each face, if any, and its map."""
        if self.augmentation is None:
            return len(rows) * [None], self._plain_crops_from_images(records)
        assert isinstance(self.order, TrainingSampler)
        seed, batch_size = self.order.seed, len(rows) // len(steps)  # No step has padding.
        rngs = [
            augmentation.face_generator(seed, self.order.epoch(steps[i // batch_size]), row)
            for i, row in enumerate(rows)
        ]
        maps = [
            augmentation.random_crop_map(
                rng,
                face_box(record, self.box),
                self.image_size,
                self.crop,
                self.augmentation,
            )
            for rng, record in zip(rngs, records, strict=True)
        ]
        return rngs, np.stack(maps)

    def _plain_crops_from_images(self, records):
        boxes = np.stack([face_box(record, self.box) for record in records])
        return crop_map(boxes, self.image_size, flip=self.flip, **self.crop)

    def _cut_any(self, rng):
        """The crop of any face that can be read, which pieces are cut from."""
        for _ in range(_PIECE_TRIES):
            record = self.records[rng.integers(len(self.records))]
            try:
                (crop_from_image,) = self._plain_crops_from_images([record])
                return cut_face(record, geometry.invert(crop_from_image), self.image_size)
            except ImageError:
                pass  # It is told of when its own turn comes.
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)
