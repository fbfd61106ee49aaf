"""Numbers that are not finite, images that can't be read, workers that die: in whole runs."""

import io
import multiprocessing
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.launches import read_log, read_state
from support.networks import change, tiny_config
from tqdm import tqdm

from configs import demo
from flm_jax.data import wflw
from flm_jax.data.images import ImageError
from flm_jax.data.loader import WorkerError
from flm_jax.data.sampler import TrainingSampler
from flm_jax.errors import InputError
from flm_jax.evaluation.faces import FacePredictions
from flm_jax.evaluation.metrics import nme
from flm_jax.modes import train
from flm_jax.training.progress import StepLog, Unreadable, describe_step
from flm_jax.training.state import Progress, TrainState


@pytest.fixture
def root(faces_root, tmp_path):
    shutil.copytree(faces_root, tmp_path / "faces")
    return tmp_path / "faces"


@pytest.fixture(scope="module")
def split(faces_root):
    """The training and the validation faces of `tiny` runs."""
    return wflw.split_by_image(wflw.read_list(faces_root, wflw.TRAIN_LIST), 0.1, seed=0)


# Of numbers so large, which are a mistake in a label.
warns = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def break_point(root, line):
    """Gives a training face a coordinate that is finite, and whose loss is not."""
    path = root / wflw.TRAIN_LIST
    lines = path.read_text().splitlines()
    lines[line - 1] = " ".join(["3.4e38", "-3.4e38", *lines[line - 1].split()[2:]])
    path.write_text("\n".join(lines) + "\n")


def first_step_of(row):
    order = TrainingSampler(num_faces=44, batch_size=16, num_epochs=4, seed=0)
    return next((step for step in range(1, len(order) + 1) if row in order[step - 1]), 0)


@pytest.fixture(scope="module")
def late_face(split):
    """A face that does not come in the first steps: its line and its first step.

    The first of the two of an epoch: before a validation, all steps are looked at anyway.
    """
    training, _ = split
    row = max(range(len(training)), key=lambda row: (first_step_of(row) % 2, first_step_of(row)))
    assert first_step_of(row) in (3, 5, 7)
    return training[row].line, first_step_of(row)


@warns
def test_a_loss_that_is_not_finite_stops_before_good_checkpoints_go(root, late_face, tmp_path):
    line, step = late_face
    break_point(root, line)
    config = change(tiny_config(root), "checkpoint.every_steps", 1)
    with pytest.raises(InputError) as error:
        train.run(config, tmp_path)
    text = str(error.value)
    said = re.search(rf"step {step}: the loss is .*{wflw.TRAIN_LIST}, lines (.*)", text)
    assert said, text
    assert str(line) in said[1].split(", ")
    assert len(said[1].split(", ")) == 16
    assert f"number {(step - 1) % 2 + 1} of epoch {(step - 1) // 2 + 1}" in text
    last, state = read_state(tmp_path)
    assert last == step - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@warns
def test_such_a_step_can_be_skipped(root, late_face, tmp_path, capsys):
    line, step = late_face
    break_point(root, line)
    train.run(change(tiny_config(root), "on_nonfinite", "skip"), tmp_path)
    output = capsys.readouterr().out
    assert re.search(rf"step {step}: the loss is .* step is skipped.* lines .*\b{line}\b", output)
    rows = read_log(tmp_path)
    assert {"step": step, "skipped": 1.0} in rows
    last, state = read_state(tmp_path)
    assert last == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    # Its epoch's mean is over the other steps.
    epoch = (step - 1) // 2 + 1
    losses = [r["loss"] for r in rows if "loss" in r and (r["step"] - 1) // 2 + 1 == epoch]
    row = next(r for r in rows if r.get("epoch") == epoch)
    assert row["training_loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def make_log(records, *, skip_nonfinite, bar=None):
    sampler = TrainingSampler(len(records), batch_size=4, num_epochs=2, seed=0)
    return StepLog(
        *(Progress(0), 0, sampler, records),
        every_steps=1,
        skip_nonfinite=skip_nonfinite,
        writer=None,
        bar=bar or tqdm(disable=True),
    )


def add(log, step, **scalars):
    scalars = {"loss": 1.0, "gradient_norm": 1.0, **scalars}
    log.add(step, {name: jnp.float32(value) for name, value in scalars.items()})


def test_a_bar_in_a_file_is_drawn_no_more_often_than_its_interval(train_records):
    file = io.StringIO()
    with tqdm(total=400, file=file, mininterval=1000) as bar:
        log = make_log(train_records * 10, skip_nonfinite=False, bar=bar)
        for step in range(1, 100):
            add(log, step)
        log.finish()
        assert len(file.getvalue().split("\r")) < 4
    assert "loss=1.000" in file.getvalue()


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_or_gradient_that_is_not_finite_is_an_error(train_records, name, value):
    log = make_log(train_records, skip_nonfinite=False)
    add(log, 1, **{name: value})
    with pytest.raises(InputError, match=f"step 1: .* {value}.* number 1 of epoch 1: .*, lines"):
        log.finish()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_validation_loss_that_is_not_finite_is_an_error(train_records, value, skip):
    """Even where every step's loss was finite."""
    log = make_log(train_records[:8], skip_nonfinite=skip)
    for step in (1, 2):
        add(log, step)
    log.finish()
    with pytest.raises(InputError, match=f"step 2: the validation loss is {value}"):
        log.end_epoch(2, {"validation_loss": value, "validation_nme": 1.0})


def test_an_epoch_of_skipped_steps_alone_is_an_error(train_records):
    log = make_log(train_records[:8], skip_nonfinite=True)
    for step in (1, 2):
        add(log, step, loss=np.nan)
    log.finish()
    with pytest.raises(InputError, match="no step of the epoch had a finite loss"):
        log.end_epoch(2, {"validation_loss": 1.0, "validation_nme": 1.0})


def test_a_step_is_described_by_the_faces_of_all_processes(train_records):
    orders = [
        TrainingSampler(len(train_records), 8, 2, 0, process_index=i, process_count=2)
        for i in range(2)
    ]
    rows = np.concatenate([order[4] for order in orders])
    lines = ", ".join(str(train_records[row].line) for row in rows)
    for order in orders:
        assert describe_step(order, train_records, 5).endswith(f"lines {lines}")


def empty_images(root, records):
    """Makes images unreadable; returns the faces that are on them."""
    names = {record.image_name for record in records}
    for name in names:
        (root / wflw.IMAGES / name).write_bytes(b"")
    return names


def test_unreadable_images_up_to_a_share_are_counted_and_listed(root, split, tmp_path, capsys):
    training, validation = split
    names = empty_images(root, [training[3], training[30], validation[0]])
    config = change(tiny_config(root), "data.max_unreadable", 0.3)
    train.run(change(config, "data.num_workers", 1), tmp_path)
    output = capsys.readouterr().out
    for kind, records in (("training", training), ("validation", validation)):
        lines = [record.line for record in records if record.image_name in names]
        assert (
            f"{len(lines)} of {len(records)} {kind} faces can't be read: {root / wflw.TRAIN_LIST}, "
            f"lines {', '.join(map(str, lines))}\n" in output
        )
        for line in lines:
            assert output.count(f"left out: {root / wflw.TRAIN_LIST}:{line}: ") == 1
    assert all(np.isfinite(row.get("loss", 0)) for row in read_log(tmp_path))


def test_more_unreadable_images_than_that_stop_the_run(root, split, tmp_path):
    training, _ = split
    empty_images(root, training[:12])
    told = rf"the file is empty. With it 5 of {len(training)} .*more than data.max_unreadable"
    with pytest.raises(ImageError, match=told):
        train.run(change(tiny_config(root), "data.max_unreadable", 0.1), tmp_path)


def test_an_unreadable_image_is_told_of_and_counted_once(train_records, tmp_path):
    broken = [
        record if i % 2 else wflw.Record(**{**vars(record), "image_path": str(tmp_path / "no.jpg")})
        for i, record in enumerate(train_records[:4])
    ]
    unreadable = Unreadable("training", broken, 0.5)
    for row in (0, 2, 0, 2):
        unreadable.add(row)
    assert str(unreadable).startswith("2 of 4 training faces can't be read")
    with pytest.raises(ImageError, match="can't be read"):
        Unreadable("training", broken, 0.0).add(0)


def test_a_validation_is_over_the_faces_that_can_be_read(train_records, monkeypatch):
    """The others' zeros are no predictions, and their loss of 0 is none."""
    records, read = train_records[:4], np.array([True, False, True, True])
    truth = np.stack([record.landmarks for record in records])
    landmarks = np.where(read[:, None, None], truth + 1, 0)
    predictions = FacePredictions(landmarks, {}, np.float32([1, 0, 3, 5]), read)
    monkeypatch.setattr(train, "predict_faces", lambda *_: predictions)
    unreadable, state = Unreadable("validation", records, 0.5), TrainState(0, {}, {}, ())
    scores = train._validate(demo.get_config(), dict, None, state, records, unreadable, None)
    assert scores["validation_loss"] == 3
    assert scores["validation_nme"] == pytest.approx(100 * nme(landmarks, truth)[read].mean())


def test_an_unreadable_validation_image_loses_no_step(trained, root, split, tmp_path, capsys):
    """The epoch's checkpoint is saved without validation, which the next start makes up for."""
    _, validation = split
    path = pathlib.Path(root / wflw.IMAGES / validation[0].image_name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    told = f"{wflw.TRAIN_LIST}:{validation[0].line}: .*the JPEG is truncated"
    with pytest.raises(ImageError, match=told):
        train.run(tiny_config(root), tmp_path)
    assert read_state(tmp_path)[0] == 2
    path.write_bytes(content)
    train.run(tiny_config(root), tmp_path)
    assert "continuing after step 2" in capsys.readouterr().out
    assert read_log(tmp_path) == read_log(trained)
    results = [(at / "evaluation.json").read_text() for at in (tmp_path, trained)]
    assert results[0] == results[1]


def test_a_worker_that_dies_is_an_error_and_the_steps_are_saved(faces_root, tmp_path, monkeypatch):
    put, steps = train.put_on_devices, []

    def kill(batch):
        steps.append(batch)
        if len(steps) == 3:
            multiprocessing.active_children()[0].kill()
        return put(batch)

    monkeypatch.setattr(train, "put_on_devices", kill)
    config = change(tiny_config(faces_root), "data.num_workers", 2)
    # Eleven steps an epoch: the last one has no checkpoint of its own.
    config.batch_size, config.num_epochs = 4, 500
    with pytest.raises(WorkerError, match="a process that reads images has died.*exit code -9"):
        train.run(config, tmp_path)
    # The steps that were trained are not lost with it.
    assert read_state(tmp_path)[0] == max(row["step"] for row in read_log(tmp_path))
