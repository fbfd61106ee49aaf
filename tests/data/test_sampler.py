import dataclasses
import itertools

import numpy as np
import pytest

from flm_jax.data.sampler import EvaluationSampler, TrainingSampler, fingerprint
from flm_jax.errors import InputError


def make_sampler(**settings):
    return TrainingSampler(
        **{"num_faces": 23, "batch_size": 4, "num_epochs": 3, "seed": 5, **settings}
    )


def rows_of(sampler, steps=None):
    return np.concatenate([sampler[step] for step in steps or range(len(sampler))])


def test_every_epoch_visits_whole_batches_of_different_faces_in_its_own_order():
    sampler = make_sampler()
    assert (sampler.steps_per_epoch, len(sampler)) == (5, 15)
    epochs = rows_of(sampler).reshape(3, 20)
    for rows in epochs:
        assert len(set(rows)) == 20
        assert set(rows) <= set(range(23))
    for a, b in itertools.combinations(epochs, 2):
        assert (a != b).any()
        assert set(a) != set(b)


def test_drawn_faces_make_their_share_of_every_epoch():
    sampler = make_sampler(num_faces=30, batch_size=5, num_drawn=100, drawn_share=0.25)
    assert len(sampler) == 3 * (30 + 10) // 5
    epochs = rows_of(sampler).reshape(3, 40)
    for rows in epochs:
        assert set(range(30)) < set(rows)
        assert len({row for row in rows if 30 <= row < 130}) == 10
    assert len(set(epochs[epochs >= 30])) > 20  # other ones in other epochs
    few = make_sampler(num_faces=30, batch_size=5, num_drawn=3, drawn_share=0.25)
    assert set(rows_of(few)) == set(range(33))


def test_the_rows_depend_on_the_seed_and_the_step_alone():
    rows = rows_of(make_sampler())
    np.testing.assert_array_equal(rows, rows_of(make_sampler(num_epochs=9), range(15)))
    assert (rows != rows_of(make_sampler(seed=6))).any()


@pytest.mark.parametrize(
    "sampler",
    [make_sampler(batch_size=8), EvaluationSampler(num_faces=23, batch_size=8)],
)
def test_processes_share_every_global_batch(sampler):
    shares = [dataclasses.replace(sampler, process_index=i, process_count=4) for i in range(4)]
    for step in range(len(sampler)):
        rows = np.concatenate([share[step] for share in shares])
        np.testing.assert_array_equal(rows, sampler[step])


def test_evaluation_counts_every_face_once_and_pads():
    rows = rows_of(EvaluationSampler(num_faces=10, batch_size=4))
    np.testing.assert_array_equal(rows, [*range(10), -1, -1])


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(InputError, match="batch_size=64 exceeds the 23 training faces"):
        make_sampler(batch_size=64)


def test_the_fingerprint_depends_on_the_faces_and_their_order_not_on_their_place(test_records):
    moved = [dataclasses.replace(record, image_path="elsewhere") for record in test_records]
    first = dataclasses.replace(test_records[0], landmarks=test_records[0].landmarks + 1)
    expected = fingerprint(test_records)
    assert fingerprint(moved) == expected
    assert fingerprint([first, *test_records[1:]]) != expected
    assert fingerprint(test_records[::-1]) != expected
