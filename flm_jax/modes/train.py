"""--mode train: trains, or continues what the work folder holds, and ends with an evaluation."""

import collections
import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from flm_jax import experiment, metrics, visualization
from flm_jax.checkpoint import Checkpoints, Progress
from flm_jax.data import input_pipeline
from flm_jax.metrics_writer import MetricsWriter, read_metrics
from flm_jax.modes import evaluate
from flm_jax.predictor import predict_faces
from flm_jax.train_state import TrainState, create_train_state, train_state_shapes
from flm_jax.train_step import (
    pmap_eval_step,
    pmap_train_step,
    replicated,
    split_over_devices,
)

# Steps that the devices may be behind the loop: they never wait for it, and it hoards no batches.
_STEPS_AHEAD = 2


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains for `num_epochs` and evaluates the best weights.

    Raises:
        SystemExit: with 128 + the signal, after SIGINT or SIGTERM and a checkpoint.
        InputError: the config, the data or the work folder can't be used.
    """
    experiment.check(config)
    workdir.mkdir(parents=True, exist_ok=True)
    keep = config.checkpoint
    checkpoints = Checkpoints(workdir, keep_last=keep.keep_last, keep_best=keep.keep_best)
    with contextlib.closing(checkpoints):
        if (last := checkpoints.last_step()) is not None:
            experiment.check_restart(checkpoints.config(last), config, workdir)
        splits = experiment.read_splits(config, workdir)
        write = lambda path: path.write_text(config.to_json(indent=2) + "\n")  # noqa: E731
        experiment.write_atomically(workdir / "config.json", write)
        received = _train(config, workdir, splits, checkpoints)
    draw = lambda path: visualization.draw_loss_curve(path, read_metrics(workdir))  # noqa: E731
    experiment.write_atomically(workdir / "loss_curve.png", draw)
    if received:
        sys.exit(128 + received)
    evaluate.run(config, workdir)


def _train(
    config: ConfigDict, workdir: Path, splits: experiment.Splits, checkpoints: Checkpoints
) -> int:
    """The loop. Returns the signal that ended it early, or 0."""
    order = experiment.training_order(config, len(splits.training))
    model, face_loss = experiment.build_model(config), experiment.build_face_loss(config)
    optimizer, schedule = experiment.build_optimizer(config, len(order))
    train_step = pmap_train_step(model, optimizer, face_loss, schedule)
    eval_step = pmap_eval_step(model, face_loss)
    state, progress = _initial_state(config, splits, model, optimizer, checkpoints)
    start = int(state.step)
    devices = jax.local_device_count()
    print(
        f"{len(splits.training)} training, {len(splits.validation)} validation and "
        f"{len(splits.test)} test faces; {len(order)} steps of {config.batch_size} faces on "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
        + (f"; continuing after step {start}" if start else "")
    )

    writer = MetricsWriter(workdir, start)
    bar = tqdm(
        total=len(order) * config.batch_size,
        initial=start * config.batch_size,
        unit=" images",
        dynamic_ncols=True,
        smoothing=0.05,
    )
    log = _StepLog(config, writer, bar, progress)
    batches = experiment.training_batches(config, splits.training, start)
    with contextlib.closing(writer), bar, contextlib.closing(batches), _signals() as received:
        for step, batch in zip(itertools.count(start + 1), batches):
            state, scalars = train_step(state, split_over_devices(batch, devices))
            log.add(step, scalars)
            stop = received or step == len(order)
            if step % order.steps_per_epoch == 0:
                log.finish()
                row = {
                    "epoch": step // order.steps_per_epoch,
                    "training_loss": progress.epoch_loss / order.steps_per_epoch,
                    **_validate(config, eval_step, state, splits.validation),
                }
                writer.write(step, row)
                tqdm.write(_describe(row))
                progress.epoch_loss = 0.0
                checkpoints.save(
                    state, progress, experiment.as_json(config), row["validation_loss"]
                )
            elif step % config.checkpoint.every_steps == 0 or stop:
                log.finish()
                checkpoints.save(state, progress, experiment.as_json(config))
            if stop:
                break
        if received:
            checkpoints.wait()
            tqdm.write(
                f"stopped by {signal.Signals(received[0]).name} after step {int(state.step)}, "
                "which is saved; the same command continues"
            )
    return received[0] if received else 0


def _initial_state(config, splits, model, optimizer, checkpoints) -> tuple[TrainState, Progress]:
    """The last checkpoint, or the state before the first step."""
    progress = Progress(fingerprint=input_pipeline.fingerprint(splits.training))
    size = config.data.image_size
    if (last := checkpoints.last_step()) is None:
        key = jax.random.key(config.seed)
        return create_train_state(model, optimizer, key, size, replicated()), progress
    shapes = train_state_shapes(model, optimizer, size)
    state, saved = checkpoints.restore(last, shapes, replicated())
    if saved.fingerprint != progress.fingerprint:
        raise experiment.InputError(
            "the training faces are not those of the checkpoint: the list has changed, and with "
            "it what the steps would see; restore the list, or choose another --workdir"
        )
    return state, saved


def _validate(config, eval_step, state, records) -> dict[str, float]:
    predictions = predict_faces(
        eval_step, state, experiment.evaluation_batches(config, records), len(records)
    )
    truth = np.stack([record.landmarks for record in records])
    return {
        "validation_loss": float(predictions.loss.mean(dtype=np.float64)),
        "validation_nme": 100 * float(metrics.nme(predictions.landmarks, truth).mean()),
    }


def _describe(row: dict[str, float]) -> str:
    return (
        f"epoch {row['epoch']:>3}: training loss {row['training_loss']:.3f}, "
        f"validation loss {row['validation_loss']:.3f}, "
        f"validation NME {row['validation_nme']:.2f} %"
    )


class _StepLog:
    """Reads the steps' scalars when the devices have long computed them, in order."""

    def __init__(self, config: ConfigDict, writer: MetricsWriter, bar: tqdm, progress: Progress):
        self._every, self._batch_size = config.log.every_steps, config.batch_size
        self._writer, self._bar, self._progress = writer, bar, progress
        self._pending: collections.deque = collections.deque()
        self._mark = (time.perf_counter(), 0)

    def add(self, step: int, scalars: dict[str, jax.Array]) -> None:
        self._pending.append((step, scalars))
        if len(self._pending) > _STEPS_AHEAD:
            self._read()

    def finish(self) -> None:
        while self._pending:
            self._read()

    def _read(self) -> None:
        step, scalars = self._pending.popleft()
        row = {name: float(value) for name, value in scalars.items()}
        self._progress.epoch_loss += row["loss"]
        self._bar.update(self._batch_size)
        if step % self._every == 0:
            now = time.perf_counter()
            since, at = self._mark
            rate = (step - at) * self._batch_size / (now - since)
            self._mark = (now, step)
            self._writer.write(step, {**row, "images_per_second": rate})
            self._bar.set_postfix(loss=f"{row['loss']:.3f}")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in a list; a second one ends the process at once."""
    received: list[int] = []

    def receive(number, frame):
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
