import dataclasses
import itertools

import numpy as np
import pytest

from flm_jax.data.sampler import EvaluationSampler, TrainingSampler, fingerprint
from flm_jax.errors import InputError


def make_order(**settings):
    return TrainingSampler(
        **{"num_faces": 23, "batch_size": 4, "num_epochs": 3, "seed": 5, **settings}
    )


def epoch_rows(order, epoch):
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order[step] for step in steps])


def test_an_epoch_visits_whole_batches_of_different_faces():
    order = make_order()
    assert order.steps_per_epoch == 5
    assert len(order) == 15
    for epoch in range(3):
        rows = epoch_rows(order, epoch)
        assert len(rows) == len(set(rows)) == 20
        assert set(rows) <= set(range(23))


def test_every_epoch_has_its_own_order_and_leaves_out_others():
    order = make_order()
    rows = [epoch_rows(order, epoch) for epoch in range(3)]
    for a, b in itertools.combinations(rows, 2):
        assert (a != b).any()
        assert set(a) != set(b)


def test_the_order_depends_on_the_seed_alone():
    assert all((make_order()[step] == make_order()[step]).all() for step in range(15))
    assert any((make_order()[step] != make_order(seed=6)[step]).any() for step in range(15))


def test_more_epochs_continue_the_same_order():
    longer = make_order(num_epochs=9)
    assert all((make_order()[step] == longer[step]).all() for step in range(15))


@pytest.mark.parametrize("order_class", [TrainingSampler, EvaluationSampler])
def test_processes_share_every_global_batch(order_class):
    more = {"num_epochs": 2, "seed": 0} if order_class is TrainingSampler else {}
    whole = order_class(num_faces=23, batch_size=8, **more)
    shares = [
        order_class(num_faces=23, batch_size=8, **more, process_index=i, process_count=4)
        for i in range(4)
    ]
    for step in range(len(whole)):
        rows = np.concatenate([share[step] for share in shares])
        np.testing.assert_array_equal(rows, whole[step])


def test_evaluation_counts_every_face_once_and_pads():
    order = EvaluationSampler(num_faces=10, batch_size=4)
    rows = np.concatenate([order[batch] for batch in range(len(order))])
    np.testing.assert_array_equal(rows, [*range(10), -1, -1])


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(InputError, match="batch_size=64 exceeds the 23 training faces"):
        make_order(batch_size=64)


def test_fingerprint_tells_lists_apart_but_not_places(test_records):
    moved = [dataclasses.replace(record, image_path="elsewhere") for record in test_records]
    shifted = [
        dataclasses.replace(test_records[0], landmarks=test_records[0].landmarks + 1),
        *test_records[1:],
    ]
    prints = [fingerprint(records) for records in (test_records, moved, shifted)]
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint(test_records[::-1]) != prints[0]
