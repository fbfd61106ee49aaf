import numpy as np
from support.faces import CROP, TURNED

from flm_jax import geometry
from flm_jax.data.batches import ReadBatches
from flm_jax.data.sampler import EvaluationSampler, TrainingSampler


def reading(order, records, augmentation=None):
    settings = {"image_size": 32, "box": "rectangle", "crop": CROP, "flip": False}
    return ReadBatches(order, records, augmentation=augmentation, **settings)


def write(read, steps):
    """The batches of the steps, in memory that has been used before."""
    images = np.full((len(steps), *read.image_shape(steps[0])), 7, np.float32)
    batches = read.write(steps, images)
    return [{"image": image, **batch} for image, batch in zip(images, batches, strict=True)]


def test_samples_are_the_crops_of_their_records(test_records):
    (batch,) = write(reading(EvaluationSampler(len(test_records), 8), test_records), range(1))
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
        "image": (np.float32, (8, 32, 32, 3)),
        "landmarks": (np.float32, (8, 98, 2)),
        "image_from_crop": (np.float32, (8, 2, 3)),
        "index": (np.int32, (8,)),
        "mask": (np.float32, (8,)),
        "unreadable": (np.bool_, (8,)),
    }
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1
    home = geometry.apply(batch["image_from_crop"], batch["landmarks"])
    truth = np.stack([record.landmarks for record in test_records[:8]])
    np.testing.assert_allclose(home, truth, atol=1e-3)
    box = geometry.expand_box(test_records[0].box, 10.0)
    corners = geometry.apply(batch["image_from_crop"][0], np.array([[-0.5, -0.5], [31.5, 31.5]]))
    np.testing.assert_allclose(corners.ravel(), box, atol=1e-3)


def test_padding_is_masked_and_empty(test_records):
    last = write(reading(EvaluationSampler(5, 4), test_records), range(2))[-1]
    np.testing.assert_array_equal(last["mask"], [1, 0, 0, 0])
    np.testing.assert_array_equal(last["index"], [4, -1, -1, -1])
    assert (last["image"][1:] == 0).all()


def test_batches_that_are_read_together_are_those_read_alone(train_records):
    """Each in its own epoch: a face is augmented anew in every one."""
    order = TrainingSampler(num_faces=4, batch_size=4, num_epochs=8, seed=5)
    read = reading(order, train_records[:4], augmentation=TURNED)
    together = write(read, range(8))
    for step, batch in enumerate(together):
        (alone,) = write(read, range(step, step + 1))
        for name in batch:
            np.testing.assert_array_equal(batch[name], alone[name])
    maps = [batch["image_from_crop"][batch["index"] == 2] for batch in together]
    assert len(np.unique(maps, axis=0)) == 8


def test_its_text_holds_no_faces(test_records):
    """grain asks for it when it starts to read: thousands of faces take seconds to print."""
    read = reading(EvaluationSampler(len(test_records), 8), test_records)
    assert len(repr(read.write)) < 1000
