"""Training progress log: metrics of steps and epochs, a progress bar, and what went wrong."""

import collections
import math
import time
from collections.abc import Sequence

import jax
from tqdm import tqdm

from flm_jax.data.loader import image_error
from flm_jax.data.sampler import TrainingSampler
from flm_jax.data.wflw import Record
from flm_jax.errors import InputError
from flm_jax.training.metrics_writer import MetricsWriter
from flm_jax.training.state import Progress

# How many steps the devices may be behind the loop: it never waits for a scalar that is not
# computed yet, and keeps few batches alive.
_STEPS_AHEAD = 2


class StepLog:
    """Logs the scalars of the steps, in order, once the devices have computed them.

    Args:
        progress: of the steps before `start`; updated with every step.
        start: the step that the run continues from.
        sampler: the faces of each step's batch.
        records: the training faces.
        every_steps: the interval of the rows in the log.
        skip_nonfinite: whether a step without a finite loss and gradient is skipped, as the train
            step does; otherwise it is an error.
        writer: writes the rows; None on all processes but the first.
        bar: counts the images seen.
    """

    def __init__(
        self,
        progress: Progress,
        start: int,
        sampler: TrainingSampler,
        records: Sequence[Record],
        *,
        every_steps: int,
        skip_nonfinite: bool,
        writer: MetricsWriter | None,
        bar: tqdm,
    ):
        self.progress = progress
        self._sampler, self._records = sampler, records
        self._every_steps, self._skip = every_steps, skip_nonfinite
        self._writer, self._bar = writer, bar
        self._pending: collections.deque = collections.deque()
        self._mark = (time.perf_counter(), start)

    def add(self, step: int, scalars: dict[str, jax.Array]) -> None:
        """Takes a step's scalars; logs those of an earlier step."""
        self._pending.append((step, scalars))
        if len(self._pending) > _STEPS_AHEAD:
            self._log_oldest()

    def finish(self) -> None:
        """Waits for the steps in flight, so that `progress` includes the last one.

        Raises:
            InputError: a step's loss or gradient is not finite.
        """
        while self._pending:
            self._log_oldest()

    def end_epoch(self, step: int, scores: dict[str, float]) -> None:
        """Logs the epoch that ends with `step`.

        Raises:
            InputError: no step's loss was finite, or the validation loss is not.
        """
        steps = self._sampler.steps_per_epoch - self.progress.epoch_skipped
        if steps == 0:
            raise InputError(f"step {step}: no step of the epoch had a finite loss and gradient")
        loss = scores["validation_loss"]
        if not math.isfinite(loss):
            raise InputError(_diverged(step, f"the validation loss is {loss}"))
        epoch = step // self._sampler.steps_per_epoch
        training_loss = self.progress.epoch_loss / steps
        self._write(step, {"epoch": epoch, "training_loss": training_loss, **scores})
        self._print(
            f"epoch {epoch:>3}: training loss {training_loss:.3f}, validation loss {loss:.3f}, "
            f"validation NME {scores['validation_nme']:.2f} %"
        )
        self._mark = (time.perf_counter(), step)  # The rate excludes the validation.

    def _log_oldest(self):
        step, scalars = self._pending.popleft()
        row = {name: float(value) for name, value in scalars.items()}
        if (step - 1) % self._sampler.steps_per_epoch == 0:
            self.progress.epoch_loss, self.progress.epoch_skipped = 0.0, 0
        self._bar.update(self._sampler.batch_size)
        if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
            self._log_nonfinite(step, row)
            return
        self.progress.epoch_loss += row["loss"]
        if step % self._every_steps == 0 or step == len(self._sampler):
            now = time.perf_counter()
            since, at = self._mark
            self._mark = (now, step)
            rate = (step - at) * self._sampler.batch_size / (now - since)
            self._write(step, {**row, "images_per_second": rate})
            self._bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)

    def _log_nonfinite(self, step, row):
        what = f"the loss is {row['loss']} and the gradient's norm {row['gradient_norm']}"
        faces = describe_step(self._sampler, self._records, step)
        if not self._skip:
            raise InputError(f"{_diverged(step, what)}. {faces}")
        self.progress.epoch_skipped += 1
        self._write(step, {"skipped": 1.0})
        self._print(f"step {step}: {what}; the step is skipped. {faces}")

    def _write(self, step, row):
        if self._writer is not None:
            self._writer.write(step, row)

    def _print(self, text):
        if self._writer is not None:
            tqdm.write(text)


class Unreadable:
    """The unreadable images of a list: each is reported once, and they are counted.

    Args:
        kind: the name of the list in messages.
        records: the list.
        share: the largest share of its faces that may be unreadable.
    """

    def __init__(self, kind: str, records: Sequence[Record], share: float):
        self.rows: set[int] = set()
        self._kind, self._records, self._share = kind, records, share

    def add(self, row: int) -> None:
        """Reports a face; raises ImageError where there are more than `share`."""
        if row in self.rows:
            return
        self.rows.add(row)
        error = image_error(self._records[row])
        if len(self.rows) > self._share * len(self._records):
            if self._share:
                raise type(error)(f"{error}. With it {self}, more than data.max_unreadable")
            raise error
        tqdm.write(f"left out: {error}")

    def __str__(self) -> str:
        lines = sorted(self._records[row].line for row in self.rows)
        return (
            f"{len(self.rows)} of {len(self._records)} {self._kind} faces can't be read: "
            f"{self._records[0].list_path}, lines {', '.join(map(str, lines))}"
        )


def describe_step(sampler: TrainingSampler, records: Sequence[Record], step: int) -> str:
    """One sentence that names the faces of a step's batch, over all processes."""
    rows = sampler.whole()[step - 1]
    epoch, batch = divmod(step - 1, sampler.steps_per_epoch)
    lines = ", ".join(str(records[row].line) for row in rows)
    return (
        f"The faces of this batch, number {batch + 1} of epoch {epoch + 1}: "
        f"{records[rows[0]].list_path}, lines {lines}"
    )


def _diverged(step: int, what: str) -> str:
    return (
        f"step {step}: {what}. The checkpoints are from before it; a lower "
        "schedule.learning_rate in another --workdir may help"
    )
