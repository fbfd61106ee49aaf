"""Each point's visibility, from the list to the batch."""

import contextlib
import dataclasses

import numpy as np
import pytest
from support.faces import CROP, OFF, line_of, make_fields, write_list

from flm_jax.data import loader, wflw
from flm_jax.data.sampler import EvaluationSampler, TrainingSampler
from flm_jax.landmarks import MIRROR

SEEN = np.arange(98) % 3 > 0


def write_visibility(root, *lines):
    path = root / wflw.VISIBILITY / "list_98pt_rect_attr_train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def read_batch(records, sampler=None, **settings):
    sampler = sampler or EvaluationSampler(len(records), len(records))
    settings = {"image_size": 32, "box": "rectangle", "crop": CROP, **settings}
    batches = loader.batches(sampler, records, num_workers=0, num_threads=1, **settings)
    with contextlib.closing(batches):
        return next(batches)


def test_it_is_read_from_beside_the_list_and_unknown_without(tmp_path):
    write_list(tmp_path, [line_of(make_fields())])
    assert wflw.read_list(tmp_path, wflw.TRAIN_LIST)[0].visible is None
    write_visibility(tmp_path, " ".join(str(int(seen)) for seen in SEEN))
    np.testing.assert_array_equal(wflw.read_list(tmp_path, wflw.TRAIN_LIST)[0].visible, SEEN)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 " * 97 + "2"], "train.txt:1: expected 98 times 0 or 1"),
        (["1 " * 98] * 2, "train.txt:2: 2 lines, expected 1"),
        (["1 " * 97], "train.txt:1: 97 fields, expected 98"),
    ],
)
def test_lines_that_do_not_fit_the_list_are_refused(tmp_path, lines, message):
    write_list(tmp_path, [line_of(make_fields())])
    write_visibility(tmp_path, *lines)
    with pytest.raises(wflw.ListError, match=message):
        wflw.read_list(tmp_path, wflw.TRAIN_LIST)


def test_a_batch_has_it_mirrored_with_the_points_and_unknown_as_such(test_records):
    known = dataclasses.replace(test_records[0], visible=SEEN)
    unknown = dataclasses.replace(test_records[1], visible=None)
    plain = read_batch([known, unknown])["visible"]
    np.testing.assert_array_equal(plain, [SEEN, np.full(98, -1)])
    np.testing.assert_array_equal(
        read_batch([known, unknown], flip=True)["visible"][0], SEEN[MIRROR]
    )


def test_what_augmentation_covers_is_hidden(test_records):
    record = dataclasses.replace(test_records[0], visible=np.ones(98, bool))
    settings = {**OFF, "erase_flat": {"probability": 1.0, "max": 0.5}}
    hidden = 0
    for seed in range(8):
        sampler = TrainingSampler(num_faces=1, batch_size=1, num_epochs=1, seed=seed)
        covered = read_batch([record], sampler, augmentation=settings)
        plain = read_batch([record])
        points = covered["landmarks"][0]
        x, y = np.clip(points.round().astype(int), 0, 31).T
        inside = ((points > 0.5) & (points < 30.5)).all(axis=1)
        changed = (covered["image"][0] != plain["image"][0]).any(axis=2)[y, x]
        # At a patch's edge the nearest pixel may be covered and the point not.
        differs = (covered["visible"][0] == 0)[inside] != changed[inside]
        assert differs.mean() < 0.2
        hidden += (covered["visible"][0] == 0).sum()
    assert hidden > 20
