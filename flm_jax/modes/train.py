"""--mode train: trains, or continues what the work folder holds, and ends with an evaluation."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from signal import Signals

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from flm_jax.config import build, schema
from flm_jax.data import orientation, sampler
from flm_jax.data.images import ImageError
from flm_jax.data.loader import WorkerError, find_unreadable
from flm_jax.data.wflw import Record
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics, plots
from flm_jax.evaluation.faces import predict_faces
from flm_jax.modes import evaluate
from flm_jax.runtime import processes, work_folder
from flm_jax.runtime.alike import check_alike
from flm_jax.runtime.checkpoint import Checkpoints, SaveError
from flm_jax.runtime.devices import check_batch_size, put_on_devices, replicated
from flm_jax.runtime.processes import StopAgreement
from flm_jax.runtime.restore import DamagedError
from flm_jax.runtime.signals import collect_signals
from flm_jax.training.metrics_writer import MetricsWriter, read_metrics
from flm_jax.training.progress import StepLog, Unreadable
from flm_jax.training.state import Progress, TrainState, create_train_state, train_state_shapes
from flm_jax.training.step import pmap_eval_step, pmap_train_step

# Slurm, Open MPI and TPUs start it as the processes of one run.
SEVERAL_PROCESSES = True


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains for `num_epochs` and evaluates the best weights.

    Raises:
        SystemExit: with 128 + the signal, after one of `signals.SIGNALS` and a checkpoint.
        InputError: the config, the data or the work folder can't be used.
        OSError: a file can't be read or written.
    """
    schema.check(config)
    check_alike({"--mode": "train", **schema.shared(config)})
    check_batch_size(config.batch_size, jax.device_count())
    work_folder.make(workdir)
    with work_folder.only_run_in(workdir) if processes.is_first() else contextlib.nullcontext():
        if processes.is_first():
            work_folder.remove_litter(workdir)
        _run(config, workdir)


def _run(config: ConfigDict, workdir: Path) -> None:
    build.enable_compilation_cache(config, workdir)
    with processes.first_alone():
        splits = build.read_splits(config, workdir)
    check_alike(
        {f"the {name} faces": sampler.fingerprint(each) for name, each in splits._asdict().items()}
    )
    _check_images(config, splits, build.select_split(config, workdir, splits))
    keep = config.checkpoint
    checkpoints = Checkpoints(workdir, keep_last=keep.keep_last, keep_best=keep.keep_best)
    with collect_signals() as received:
        with contextlib.closing(checkpoints):
            training = _Training(config, workdir, splits, checkpoints, StopAgreement(received))
            signal = training.run()
        if processes.is_first():
            rows = read_metrics(workdir)
            work_folder.write_atomically(
                workdir / "loss_curve.png", lambda path: plots.draw_loss_curve(path, rows)
            )
        if signal:
            sys.exit(128 + signal)
    evaluate.run(config, workdir)


def _check_images(config: ConfigDict, splits: build.Splits, evaluated: list[Record]) -> None:
    """Says what is strange about the faces, and fails now rather than after the training where too
    many of the evaluated ones can't be read. The others are read in the first epoch."""
    if not processes.is_first():
        return
    if not config.data.prepared:
        orientation.warn_of_suspects([face for part in splits for face in part])
    unreadable = Unreadable(config.evaluate.split, evaluated, config.data.max_unreadable)
    for row in find_unreadable(evaluated, config.data.num_threads):
        unreadable.add(row)


class _Training:
    """The training loop, from the last checkpoint or the start to the end or a signal."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        splits: build.Splits,
        checkpoints: Checkpoints,
        stop: StopAgreement,
    ):
        self._config, self._workdir, self._splits = config, workdir, splits
        self._checkpoints, self._stop = checkpoints, stop
        self._sampler = build.training_sampler(config, len(splits.training), len(splits.drawn))
        model, face_loss = build.build_model(config), build.build_face_loss(config)
        schedule = build.build_schedule(config, len(self._sampler))
        optimizer = build.build_optimizer(config, schedule)
        self._state, self._progress = _initial_state(
            config, workdir, splits, model, optimizer, checkpoints
        )
        self._train_step = pmap_train_step(
            *(model, optimizer, face_loss, schedule, config.ema_decay),
            skip_nonfinite=config.on_nonfinite == "skip",
        )
        folded = build.build_model(config, folded=True)
        self._fold = jax.jit(folded.fold_batch_norm)
        self._eval_step = pmap_eval_step(folded, face_loss)
        share = config.data.max_unreadable
        self._faces = splits.trained_on
        self._unreadable = Unreadable("training", self._faces, share)
        self._unreadable_validation = Unreadable("validation", splits.validation, share)

    def run(self) -> int:
        """Trains; returns the signal that stopped it, or 0."""
        start = int(self._state.step)
        self._announce(start)
        if signal := self._stop.settle():
            processes.say(f"stopped by {Signals(signal).name} before a step: nothing to save")
            return signal
        ends_epoch = start > 0 and start % self._sampler.steps_per_epoch == 0
        unvalidated = ends_epoch and not self._checkpoints.is_validated(start)
        batches = build.training_batches(
            self._config, self._faces, start, self._unreadable.add, len(self._splits.drawn)
        )
        with (
            contextlib.closing(batches),
            _writer(self._workdir, start, validated=not unvalidated) as writer,
            _progress_bar(self._config, start, len(self._sampler)) as bar,
        ):
            self._log = StepLog(
                *(self._progress, start, self._sampler, self._faces),
                every_steps=self._config.log.every_steps,
                skip_nonfinite=self._config.on_nonfinite == "skip",
                writer=writer,
                bar=bar,
            )
            # A signal or an unreadable image has kept the last epoch from its validation.
            if unvalidated and (scores := self._validate()) is not None:
                self._log.end_epoch(start, scores)
                self._checkpoints.set_validation_loss(start, scores["validation_loss"])
            if not self._stop.settle():
                self._loop(batches, start)
            signal = self._stop.settle()
        for unreadable in (self._unreadable, self._unreadable_validation):
            if unreadable.rows:
                print(unreadable)
        if signal:
            processes.say(
                f"stopped by {Signals(signal).name} after step {int(self._state.step)}, "
                "which is saved; the same command continues"
            )
        return signal

    def _announce(self, start):
        if processes.is_first():
            content = self._config.to_json(indent=2) + "\n"
            work_folder.write_atomically(
                self._workdir / "config.json", lambda path: path.write_text(content)
            )
        processes.say(build.describe_source(self._config, self._workdir))
        continued = f"; continuing after step {start}" if start else ""
        done = start == len(self._sampler)
        processes.say(
            f"{len(self._splits.training)} training, {len(self._splits.validation)} validation and "
            f"{len(self._splits.test)} test faces; {len(self._sampler)} steps of "
            f"{self._sampler.batch_size} faces on {jax.device_count()} "
            f"{jax.devices()[0].device_kind} device(s)"
            + ("; all of them are done" if done else continued)
        )

    def _loop(self, batches, start):
        """Steps to the end or a signal; validates every epoch; saves now and then, and at last."""
        try:
            for step, batch in enumerate(batches, start + 1):
                # Both calls return at once: the devices may be steps behind.
                batch = put_on_devices(self._stop.ask_with(batch))
                self._state, scalars = self._train_step(self._state, batch)
                self._stop.hear(scalars)
                self._log.add(step, scalars)
                with self._tolerated():
                    self._checkpoints.check()
                ends_epoch = step % self._sampler.steps_per_epoch == 0
                if ends_epoch:
                    self._end_epoch(step)
                elif step % self._config.checkpoint.every_steps == 0:
                    with self._tolerated():
                        self._save()
                if self._stop.heard() or (ends_epoch and self._stop.settle()):
                    break
        except (ImageError, WorkerError):
            # The steps so far are good. The other processes are not here to save with this one.
            if jax.process_count() == 1:
                self._save()
                self._checkpoints.wait()
            raise
        self._save()
        self._checkpoints.wait()

    def _end_epoch(self, step):
        self._log.finish()
        if (scores := self._validate()) is not None:
            self._log.end_epoch(step, scores)
            with self._tolerated():
                self._save(validation_loss=scores["validation_loss"])

    def _save(self, **scores):
        self._log.finish()
        progress = dataclasses.asdict(self._log.progress)
        self._checkpoints.save(self._state, progress, schema.as_json(self._config), **scores)

    @contextlib.contextmanager
    def _tolerated(self):
        """Turns a failed save into a warning, where the config says so."""
        try:
            yield
        except SaveError as error:
            if self._config.checkpoint.on_save_error == "stop":
                raise
            tqdm.write(f"warning: {error}")

    def _validate(self):
        return _validate(
            *(self._config, self._fold, self._eval_step, self._state, self._splits.validation),
            *(self._unreadable_validation, self._stop),
        )


def _writer(workdir, start, *, validated):
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
        mininterval=0.1 if sys.stderr.isatty() else 30,  # In a file each update is a line.
        disable=not processes.is_first(),
    )


def _initial_state(
    config, workdir, splits, model, optimizer, checkpoints
) -> tuple[TrainState, Progress]:
    """The last undamaged checkpoint, or the state before the first step."""
    fingerprint = sampler.fingerprint(splits.trained_on)
    size, with_ema = config.data.image_size, config.ema_decay > 0
    shapes = train_state_shapes(model, optimizer, size, with_ema)
    while (last := checkpoints.last_step()) is not None:
        try:
            old = checkpoints.config(last)
            schema.check_restart(old, config, workdir)
            state, saved = checkpoints.restore(last, shapes, replicated())
        except DamagedError as error:
            place = checkpoints.set_aside(last)
            processes.say(f"{error}. It is now {place}; continuing from the one before it")
            continue
        if saved["fingerprint"] != fingerprint:
            raise InputError(
                "the training faces are not those of the checkpoint: the list has changed, and "
                "with it the batches; restore the list, or choose another --workdir"
            )
        rows = build.training_sampler(config, len(splits.training), len(splits.drawn))
        old = schema.upgraded(old, workdir)
        if change := build.schedule_change(old, config, last, rows.steps_per_epoch):
            processes.say(change)
        return state, Progress(**saved)
    state = create_train_state(
        *(model, optimizer, jax.random.key(config.seed), size, replicated()),
        with_ema=with_ema,
        given=build.starting_values(config, model, splits.training),
    )
    return state, Progress(fingerprint)


class _StoppedError(Exception):
    """A signal came."""


def _validate(config, fold, eval_step, state, records, unreadable, stop) -> dict[str, float] | None:
    """Loss and NME of what can be read; None where a signal came first."""

    def until_stopped(batches):
        for batch in batches:
            if stop.settle():
                raise _StoppedError
            yield batch

    batches = build.evaluation_batches(
        config, records, box=config.data.box, at_unreadable=unreadable.add
    )
    variables = fold(state.eval_variables)
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
