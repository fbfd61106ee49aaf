"""What training tells of its steps and epochs: metrics, a progress bar, and what went wrong."""

import collections
import math
import time
from collections.abc import Callable, Sequence

import jax
from tqdm import tqdm

from flm_jax.data.loader import image_error
from flm_jax.data.sampler import TrainingSampler
from flm_jax.data.wflw import Record
from flm_jax.errors import InputError
from flm_jax.runtime.checkpoint import Progress
from flm_jax.training.metrics_writer import MetricsWriter

# Steps that the devices may be behind the loop: they never wait for it, and it hoards no batches.
_STEPS_AHEAD = 2


class StepLog:
    """Reads the steps' scalars when the devices have long computed them, in order.

    Args:
        progress: of the steps before `start`; follows.
        start: the step that the run continues from.
        order: which faces make which step.
        batch_size: of the global batch.
        every_steps: how often a row is written.
        skip_nonfinite: whether a step without finite numbers is one that changed nothing. Else
            it is the end.
        describe: the faces of a step.
        writer: where the rows go; None: nowhere.
        bar: what shows the images seen.
    """

    def __init__(
        self,
        progress: Progress,
        start: int,
        order: TrainingSampler,
        *,
        batch_size: int,
        every_steps: int,
        skip_nonfinite: bool,
        describe: Callable[[int], str],
        writer: MetricsWriter | None,
        bar: tqdm,
    ):
        self.progress = progress
        self._order, self._batch_size, self._every = order, batch_size, every_steps
        self._skip, self._describe = skip_nonfinite, describe
        self._writer, self._bar = writer, bar
        self._pending: collections.deque = collections.deque()
        self._mark = (time.perf_counter(), start)

    def add(self, step: int, scalars: dict[str, jax.Array]) -> None:
        self._pending.append((step, scalars))
        if len(self._pending) > _STEPS_AHEAD:
            self._read()

    def finish(self) -> None:
        """Reads what is left, so that `progress` is that of the last step.

        Raises:
            InputError: a step's loss or gradient is not finite.
        """
        while self._pending:
            self._read()

    def end_epoch(self, step: int, scores: dict[str, float]) -> None:
        """Writes the row of the epoch that ends with `step`.

        Raises:
            InputError: no loss of it was finite.
        """
        steps = self._order.steps_per_epoch - self.progress.epoch_skipped
        if steps == 0:
            raise InputError(f"step {step}: no step of the epoch had a finite loss and gradient")
        loss = scores["validation_loss"]
        if not math.isfinite(loss):
            raise InputError(_diverged(step, f"the validation loss is {loss}"))
        row = {
            "epoch": step // self._order.steps_per_epoch,
            "training_loss": self.progress.epoch_loss / steps,
            **scores,
        }
        self._write(step, row)
        self._say(
            f"epoch {row['epoch']:>3}: training loss {row['training_loss']:.3f}, "
            f"validation loss {row['validation_loss']:.3f}, "
            f"validation NME {row['validation_nme']:.2f} %"
        )
        self._mark = (time.perf_counter(), step)  # The rate is the training's alone.

    def _read(self):
        step, scalars = self._pending.popleft()
        row = {name: float(value) for name, value in scalars.items()}
        if (step - 1) % self._order.steps_per_epoch == 0:
            self.progress.epoch_loss, self.progress.epoch_skipped = 0.0, 0
        self._bar.update(self._batch_size)
        if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
            self._tell_non_finite(step, row)
            return
        self.progress.epoch_loss += row["loss"]
        if step % self._every == 0 or step == len(self._order):
            now = time.perf_counter()
            since, at = self._mark
            self._mark = (now, step)
            rate = (step - at) * self._batch_size / (now - since)
            self._write(step, {**row, "images_per_second": rate})
            self._bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)

    def _tell_non_finite(self, step, row):
        what = f"the loss is {row['loss']} and the gradient's norm {row['gradient_norm']}"
        if not self._skip:
            raise InputError(f"{_diverged(step, what)}. {self._describe(step)}")
        self.progress.epoch_skipped += 1
        self._write(step, {"skipped": 1.0})
        self._say(f"step {step}: {what}; it changes nothing. {self._describe(step)}")

    def _write(self, step, row):
        if self._writer is not None:
            self._writer.write(step, row)

    def _say(self, text):
        if self._writer is not None:
            tqdm.write(text)


class Unreadable:
    """The faces of a list whose pictures can't be read: each is told of once, and counted.

    Args:
        kind: what they are for, as messages name it.
        records: the list.
        share: how many of them may be so.
    """

    def __init__(self, kind: str, records: Sequence[Record], share: float):
        self.rows: set[int] = set()
        self._kind, self._records, self._share = kind, records, share

    def add(self, row: int) -> None:
        """Raises PictureError where there are more than may be."""
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


def describe_step(order: TrainingSampler, records: Sequence[Record], step: int) -> str:
    """Which faces the step's batch holds, over all processes."""
    rows = order.whole()[step - 1]
    epoch, batch = divmod(step - 1, order.steps_per_epoch)
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
