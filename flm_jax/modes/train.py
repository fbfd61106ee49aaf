"""--mode train: trains, or continues what the work folder holds, and ends with an evaluation."""

import contextlib
import dataclasses
import itertools
import sys
from functools import partial
from pathlib import Path
from signal import Signals

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from flm_jax.config import build, schema
from flm_jax.data import sampler
from flm_jax.data.images import ImageError
from flm_jax.data.loader import WorkerError
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics, plots
from flm_jax.evaluation.faces import predict_faces
from flm_jax.modes import evaluate
from flm_jax.runtime import processes, work_folder
from flm_jax.runtime.checkpoint import Checkpoints, DamagedError, SaveError
from flm_jax.runtime.devices import put_on_devices, replicated
from flm_jax.runtime.orbax_messages import told_once
from flm_jax.runtime.processes import StopAgreement
from flm_jax.runtime.signals import collect_signals
from flm_jax.training.metrics_writer import MetricsWriter, read_metrics
from flm_jax.training.progress import StepLog, Unreadable, describe_step
from flm_jax.training.state import Progress, TrainState, create_train_state, train_state_shapes
from flm_jax.training.step import pmap_eval_step, pmap_train_step


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains for `num_epochs` and evaluates the best weights.

    Raises:
        SystemExit: with 128 + the signal, after SIGINT or SIGTERM and a checkpoint.
        InputError: the config, the data or the work folder can't be used.
    """
    schema.check(config)
    work_folder.make(workdir)
    try:
        with work_folder.only_run_in(workdir) if processes.is_first() else contextlib.nullcontext():
            if processes.is_first():
                work_folder.remove_litter(workdir)
            _run(config, workdir)
    except OSError as error:
        raise InputError(f"{error.filename or workdir}: {error.strerror or error}") from error


def _run(config: ConfigDict, workdir: Path) -> None:
    build.enable_compilation_cache(config, workdir)
    with processes.first_alone():
        splits = build.read_splits(config, workdir)
    build.select_split(config, workdir, splits)  # Rather now than after the training.
    keep = config.checkpoint
    checkpoints = Checkpoints(workdir, keep_last=keep.keep_last, keep_best=keep.keep_best)
    with collect_signals() as received:
        with told_once(), contextlib.closing(checkpoints):
            signal = _train(config, workdir, splits, checkpoints, StopAgreement(received))
        if processes.is_first():
            rows = read_metrics(workdir)
            work_folder.write_atomically(
                workdir / "loss_curve.png", lambda path: plots.draw_loss_curve(path, rows)
            )
        if signal:
            sys.exit(128 + signal)
    evaluate.run(config, workdir)


def _train(
    config: ConfigDict,
    workdir: Path,
    splits: build.Splits,
    checkpoints: Checkpoints,
    stop: StopAgreement,
) -> int:
    """Prepares the loop and runs it, from the last checkpoint or from the start.

    Returns:
        The signal that stopped it, or 0.
    """
    order = build.training_sampler(config, len(splits.training))
    model, face_loss = build.build_model(config), build.build_face_loss(config)
    schedule = build.build_schedule(config, len(order))
    optimizer = build.build_optimizer(config, schedule)
    state, progress = _initial_state(config, workdir, splits, model, optimizer, checkpoints)
    if processes.is_first():
        work_folder.write_atomically(
            workdir / "config.json", lambda path: path.write_text(config.to_json(indent=2) + "\n")
        )
    start = int(state.step)
    processes.say(build.describe_source(config, workdir))
    _announce(splits, order, start)
    if signal := stop.settle():
        processes.say(f"stopped by {Signals(signal).name} before a step: nothing to save")
        return signal
    skip = config.on_nonfinite == "skip"
    train_step = pmap_train_step(
        model, optimizer, face_loss, schedule, config.ema_decay, skip_nonfinite=skip
    )
    folded_model = build.build_model(config, folded=True)
    eval_step = pmap_eval_step(folded_model, face_loss)
    ends_epoch = start > 0 and start % order.steps_per_epoch == 0
    unvalidated = ends_epoch and not checkpoints.is_validated(start)
    share = config.data.max_unreadable
    unreadable = {
        "training": Unreadable("training", splits.training, share),
        "validation": Unreadable("validation", splits.validation, share),
    }
    with (
        _writer(workdir, start, not unvalidated) as writer,
        _progress_bar(config, start, len(order)) as bar,
        contextlib.closing(
            build.training_batches(config, splits.training, start, unreadable["training"].add)
        ) as batches,
    ):
        log = StepLog(
            progress,
            start,
            order,
            batch_size=config.batch_size,
            every_steps=config.log.every_steps,
            skip_nonfinite=skip,
            describe=partial(describe_step, order, splits.training),
            writer=writer,
            bar=bar,
        )

        def validate(state):
            return _validate(
                config,
                folded_model,
                eval_step,
                state,
                splits.validation,
                unreadable["validation"],
                stop,
            )

        if unvalidated and (scores := validate(state)) is not None:
            log.end_epoch(start, scores)
            checkpoints.set_validation_loss(start, scores["validation_loss"])
        if not stop.settle():
            state = _loop(
                config, order, state, batches, train_step, validate, log, checkpoints, stop
            )
        signal = stop.settle()
    for each in unreadable.values():
        if each.rows:
            print(each)
    if signal:
        processes.say(
            f"stopped by {Signals(signal).name} after step {int(state.step)}, "
            "which is saved; the same command continues"
        )
    return signal


def _announce(splits, order, start):
    processes.say(
        f"{len(splits.training)} training, {len(splits.validation)} validation and "
        f"{len(splits.test)} test faces; {len(order)} steps of {order.batch_size} faces on "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
        + _of_the_start(start, len(order))
    )


def _of_the_start(start, num_steps):
    if start == num_steps:
        return "; all of them are done"
    return f"; continuing after step {start}" if start else ""


def _loop(
    config, order, state, batches, train_step, validate, log, checkpoints, stop
) -> TrainState:
    """Steps until the end or a signal, and checkpoints on the way and at last."""

    def save(*, last=False, **scores):
        log.finish()
        try:
            checkpoints.save(
                state, dataclasses.asdict(log.progress), schema.as_json(config), **scores
            )
            if last:
                checkpoints.wait()
        except SaveError as error:
            if last or config.checkpoint.on_save_error == "stop":
                raise
            tqdm.write(f"warning: {error}")

    def check():
        try:
            checkpoints.check()
        except SaveError as error:
            if config.checkpoint.on_save_error == "stop":
                raise
            tqdm.write(f"warning: {error}")

    try:
        for step, batch in zip(itertools.count(int(state.step) + 1), batches):
            # Both calls return at once: the batch travels while the devices are steps behind.
            state, scalars = train_step(state, put_on_devices(stop.ask_with(batch)))
            stop.hear(scalars)
            log.add(step, scalars)
            check()
            if step % order.steps_per_epoch == 0:
                log.finish()
                if (scores := validate(state)) is not None:
                    log.end_epoch(step, scores)
                    save(validation_loss=scores["validation_loss"])
            elif step % config.checkpoint.every_steps == 0:
                save()
            if stop.heard() or (step % order.steps_per_epoch == 0 and stop.settle()):
                break
    except (ImageError, WorkerError):
        # The steps until here are good. Of several processes, the others are not here to save.
        if jax.process_count() == 1:
            save(last=True)
        raise
    save(last=True)
    return state


def _writer(workdir, start, validated):
    if not processes.is_first():
        return contextlib.nullcontext()
    return contextlib.closing(MetricsWriter(workdir, start, validated=validated))


def _progress_bar(config: ConfigDict, start: int, num_steps: int) -> tqdm:
    return tqdm(
        total=num_steps * config.batch_size,
        initial=start * config.batch_size,
        unit=" images",
        dynamic_ncols=True,
        smoothing=0.05,
        mininterval=0.1 if sys.stderr.isatty() else 30,  # A line each, in a file.
        disable=not processes.is_first(),
    )


def _initial_state(
    config, workdir, splits, model, optimizer, checkpoints
) -> tuple[TrainState, Progress]:
    """The last checkpoint that is whole, or the state before the first step."""
    progress = Progress(fingerprint=sampler.fingerprint(splits.training))
    size, averaged = config.data.image_size, config.ema_decay > 0
    shapes = train_state_shapes(model, optimizer, size, averaged)
    while (last := checkpoints.last_step()) is not None:
        try:
            schema.check_restart(checkpoints.config(last), config, workdir)
            state, described = checkpoints.restore(last, shapes, replicated())
            break
        except DamagedError as error:
            place = checkpoints.set_aside(last)
            processes.say(f"{error}. It is now {place}; continuing from the one before it")
    else:
        key = jax.random.key(config.seed)
        given = build.starting_values(config, model, splits.training)
        state = create_train_state(
            model, optimizer, key, size, replicated(), averaged=averaged, given=given
        )
        return state, progress
    saved = Progress(**described)
    if saved.fingerprint != progress.fingerprint:
        raise InputError(
            "the training faces are not those of the checkpoint: the list has changed, and with "
            "it what the steps would see; restore the list, or choose another --workdir"
        )
    return state, saved


class _StoppedError(Exception):
    """A signal came."""


def _validate(
    config, model, eval_step, state, records, unreadable, stop
) -> dict[str, float] | None:
    """Loss and NME of what can be read; None where a signal came first."""

    def until_stopped(batches):
        for batch in batches:
            if stop.settle():
                raise _StoppedError
            yield batch

    batches = build.evaluation_batches(
        config, records, box=config.data.box, at_unreadable=unreadable.add
    )
    variables = model.fold_batch_norm(state.averaged_variables)
    with contextlib.closing(batches):
        try:
            predictions = predict_faces(eval_step, variables, until_stopped(batches), len(records))
        except _StoppedError:
            return None
    truth = np.stack([record.landmarks for record in records])
    errors = metrics.nme(predictions.landmarks, truth)
    return {
        "validation_loss": float(predictions.loss[predictions.read].mean(dtype=np.float64)),
        "validation_nme": 100 * float(errors[predictions.read].mean()),
    }
