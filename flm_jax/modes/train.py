"""--mode train: trains, or continues what the work folder holds, and ends with an evaluation."""

import collections
import contextlib
import itertools
import math
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from flm_jax import experiment, metrics, visualization
from flm_jax.checkpoint import Checkpoints, Progress
from flm_jax.data import input_pipeline
from flm_jax.data.transforms import PictureError
from flm_jax.errors import InputError
from flm_jax.metrics_writer import MetricsWriter, read_metrics
from flm_jax.models.resnet import fold_batch_norm
from flm_jax.modes import evaluate
from flm_jax.predictor import predict_faces
from flm_jax.signals import collect_signals
from flm_jax.train_state import TrainState, create_train_state, train_state_shapes
from flm_jax.train_step import (
    pmap_eval_step,
    pmap_train_step,
    put_on_devices,
    replicated,
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
    experiment.make_workdir(workdir)
    splits = experiment.read_splits(config, workdir)
    experiment.select_split(config, workdir, splits)  # Rather now than after the training.
    keep = config.checkpoint
    checkpoints = Checkpoints(workdir, keep_last=keep.keep_last, keep_best=keep.keep_best)
    with collect_signals() as received:
        with contextlib.closing(checkpoints):
            _train(config, workdir, splits, checkpoints, received)
        rows = read_metrics(workdir)
        experiment.write_atomically(
            workdir / "loss_curve.png", lambda path: visualization.draw_loss_curve(path, rows)
        )
        if received:
            sys.exit(128 + received[0])
    evaluate.run(config, workdir)


def _train(
    config: ConfigDict,
    workdir: Path,
    splits: experiment.Splits,
    checkpoints: Checkpoints,
    received: list[int],
) -> None:
    """Prepares the loop and runs it, from the last checkpoint or from the start."""
    order = experiment.training_order(config, len(splits.training))
    model, face_loss = experiment.build_model(config), experiment.build_face_loss(config)
    schedule = experiment.build_schedule(config, len(order))
    optimizer = experiment.build_optimizer(config, schedule)
    if (last := checkpoints.last_step()) is not None:
        experiment.check_restart(checkpoints.config(last), config, workdir)
    state, progress = _initial_state(config, splits, model, optimizer, checkpoints)
    experiment.write_atomically(
        workdir / "config.json", lambda path: path.write_text(config.to_json(indent=2) + "\n")
    )
    start = int(state.step)
    print(
        f"{len(splits.training)} training, {len(splits.validation)} validation and "
        f"{len(splits.test)} test faces; {len(order)} steps of {config.batch_size} faces on "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
        + (f"; continuing after step {start}" if start else "")
    )
    if received:
        print(f"stopped by {signal.Signals(received[0]).name} before a step: nothing to save")
        return
    train_step = pmap_train_step(model, optimizer, face_loss, schedule, config.average_decay)
    eval_step = pmap_eval_step(experiment.build_model(config, folded=True), face_loss)
    with (
        contextlib.closing(MetricsWriter(workdir, start)) as writer,
        _progress_bar(config, start, len(order)) as bar,
        contextlib.closing(experiment.training_batches(config, splits.training, start)) as batches,
    ):
        log = _StepLog(config, writer, bar, progress, start, len(order))

        def validate(state):
            return _validate(config, eval_step, state, splits.validation)

        state = _loop(
            config, order, state, batches, train_step, validate, log, checkpoints, received
        )
        if received:
            checkpoints.wait()
            tqdm.write(
                f"stopped by {signal.Signals(received[0]).name} after step {int(state.step)}, "
                "which is saved; the same command continues"
            )


def _loop(
    config, order, state, batches, train_step, validate, log, checkpoints, received
) -> TrainState:
    """Steps until the end or a signal, and checkpoints on the way."""

    def save(**scores):
        checkpoints.save(state, log.progress, experiment.as_json(config), **scores)

    try:
        for step, batch in zip(itertools.count(int(state.step) + 1), batches):
            # Both calls return at once: the batch travels while the devices are steps behind.
            state, scalars = train_step(state, put_on_devices(batch))
            log.add(step, scalars)
            if step % order.steps_per_epoch == 0:
                log.finish()
                scores = validate(state)
                log.end_epoch(step, order.steps_per_epoch, scores)
                save(validation_loss=scores["validation_loss"])
            elif step % config.checkpoint.every_steps == 0 or received:
                log.finish()
                save()
            if received:
                break
    except PictureError:
        # The steps until here are good, unless they end an epoch that could not be validated.
        log.finish()
        if int(state.step) % order.steps_per_epoch:
            save()
        raise
    return state


def _progress_bar(config: ConfigDict, start: int, num_steps: int) -> tqdm:
    return tqdm(
        total=num_steps * config.batch_size,
        initial=start * config.batch_size,
        unit=" images",
        dynamic_ncols=True,
        smoothing=0.05,
    )


def _initial_state(config, splits, model, optimizer, checkpoints) -> tuple[TrainState, Progress]:
    """The last checkpoint, or the state before the first step."""
    progress = Progress(fingerprint=input_pipeline.fingerprint(splits.training))
    size, averaged = config.data.image_size, config.average_decay > 0
    if (last := checkpoints.last_step()) is None:
        key = jax.random.key(config.seed)
        given = experiment.starting_values(config, model, splits.training)
        state = create_train_state(
            model, optimizer, key, size, replicated(), averaged=averaged, given=given
        )
        return state, progress
    shapes = train_state_shapes(model, optimizer, size, averaged)
    state, saved = checkpoints.restore(last, shapes, replicated())
    if saved.fingerprint != progress.fingerprint:
        raise InputError(
            "the training faces are not those of the checkpoint: the list has changed, and with "
            "it what the steps would see; restore the list, or choose another --workdir"
        )
    return state, saved


def _validate(config, eval_step, state, records) -> dict[str, float]:
    predictions = predict_faces(
        eval_step,
        fold_batch_norm(state.averaged_variables),
        experiment.evaluation_batches(config, records, box=config.data.box),
        len(records),
    )
    truth = np.stack([record.landmarks for record in records])
    return {
        "validation_loss": float(predictions.loss.mean(dtype=np.float64)),
        "validation_nme": 100 * float(metrics.nme(predictions.landmarks, truth).mean()),
    }


class _StepLog:
    """Reads the steps' scalars when the devices have long computed them, in order."""

    def __init__(
        self,
        config: ConfigDict,
        writer: MetricsWriter,
        bar: tqdm,
        progress: Progress,
        start: int,
        num_steps: int,
    ):
        self.progress = progress
        self._every, self._batch_size = config.log.every_steps, config.batch_size
        self._num_steps = num_steps
        self._writer, self._bar = writer, bar
        self._pending: collections.deque = collections.deque()
        self._mark = (time.perf_counter(), start)

    def add(self, step: int, scalars: dict[str, jax.Array]) -> None:
        self._pending.append((step, scalars))
        if len(self._pending) > _STEPS_AHEAD:
            self._read()

    def finish(self) -> None:
        """Reads what is left, so that `progress` is that of the last step."""
        while self._pending:
            self._read()

    def end_epoch(self, step: int, steps: int, scores: dict[str, float]) -> None:
        """Writes the epoch's row, of so many steps, and starts the next."""
        row = {
            "epoch": step // steps,
            "training_loss": self.progress.epoch_loss / steps,
            **scores,
        }
        if not math.isfinite(scores["validation_loss"]):
            raise _diverged(step, "validation loss", scores["validation_loss"])
        self._writer.write(step, row)
        tqdm.write(
            f"epoch {row['epoch']:>3}: training loss {row['training_loss']:.3f}, "
            f"validation loss {row['validation_loss']:.3f}, "
            f"validation NME {row['validation_nme']:.2f} %"
        )
        self.progress.epoch_loss = 0.0
        self._mark = (time.perf_counter(), step)  # The rate is the training's alone.

    def _read(self) -> None:
        step, scalars = self._pending.popleft()
        row = {name: float(value) for name, value in scalars.items()}
        if not math.isfinite(row["loss"]):
            raise _diverged(step, "loss", row["loss"])
        self.progress.epoch_loss += row["loss"]
        self._bar.update(self._batch_size)
        if step % self._every == 0 or step == self._num_steps:
            now = time.perf_counter()
            since, at = self._mark
            self._mark = (now, step)
            rate = (step - at) * self._batch_size / (now - since)
            self._writer.write(step, {**row, "images_per_second": rate})
            self._bar.set_postfix(loss=f"{row['loss']:.3f}")


def _diverged(step: int, name: str, value: float) -> InputError:
    return InputError(
        f"step {step}: the {name} is {value}. The checkpoints are from before it; a lower "
        "schedule.learning_rate in another --workdir may help"
    )
