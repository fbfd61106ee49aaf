"""Checkpoints by Orbax: the state, where the input stands, and the config that they belong to."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from flm_jax.errors import InputError
from flm_jax.train_state import TrainState

_METRIC = "validation_loss"


def _loss(metrics: dict[str, float] | None) -> float:
    return math.inf if metrics is None else metrics[_METRIC]


def _no_checkpoint(folder: Path) -> str:
    return (
        f"{folder}: no checkpoint there; train first (--mode train), or name the work folder of a "
        "trained run with --workdir"
    )


@dataclasses.dataclass
class Progress:
    """What continues a run beside the state.

    Attributes:
        fingerprint: of the training faces in their order; the step then names the next batch.
        epoch_loss: the sum of the losses of this epoch's steps so far.
    """

    fingerprint: int
    epoch_loss: float = 0.0


class Checkpoints:
    """The folder `<workdir>/checkpoints/<step>`, with the last and the best by validation loss.

    Saving is asynchronous: `close` waits for the last one and raises if it failed.

    Args:
        workdir: the work folder.
        keep_last: how many of the newest stay.
        keep_best: how many of the lowest validation losses stay besides.
        read_only: leaves the folder as it is, whoever else writes to it.
    """

    def __init__(
        self, workdir: Path, *, keep_last: int = 1, keep_best: int = 1, read_only: bool = False
    ):
        self._folder = workdir.absolute() / "checkpoints"
        if read_only and not self._folder.is_dir():
            raise InputError(_no_checkpoint(self._folder))
        if not read_only and jax.process_index() == 0:
            # A killed save's. Orbax's own cleaning runs in a thread that outlives an early exit.
            for leftover in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover)
        # best_fn alone would keep the best and not the last, which an interrupted run needs.
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep_last),
                preservation_policy.BestN(get_metric_fn=_loss, reverse=True, n=keep_best),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=_loss,
                best_mode="min",
                read_only=read_only,
                create=not read_only,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def save(
        self,
        state: TrainState,
        progress: Progress,
        config: dict[str, Any],
        validation_loss: float = math.inf,
    ) -> None:
        """Saves the state under its step. Without a validation loss it is worse than any other."""
        if not math.isfinite(validation_loss):
            validation_loss = math.inf  # NaN would compare as the best.
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                config=ocp.args.JsonSave(config),
            ),
            metrics={_METRIC: validation_loss},
        )

    def last_step(self) -> int | None:
        """The newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def find(self, which: str) -> int:
        """The step that `best`, `last` or a number names.

        Raises:
            InputError: there is no such checkpoint.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise InputError(_no_checkpoint(self._folder))
        if which == "last":
            return steps[-1]
        if which == "best":
            # Newest first: it is the answer where none has been validated.
            return min(reversed(steps), key=lambda step: _loss(self._manager.metrics(step)))
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise InputError(
            f"evaluate.checkpoint={which}: expected best, last or one of the steps {steps} in "
            f"{self._folder}"
        )

    def config(self, step: int) -> dict[str, Any]:
        """The config that the checkpoint was trained with."""
        return self._restore(step, config=ocp.args.JsonRestore())["config"]

    def restore(
        self, step: int, shapes: TrainState, sharding: jax.sharding.Sharding
    ) -> tuple[TrainState, Progress]:
        """Restores what has the shapes and dtypes of `shapes`, placed as `sharding` says."""
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )
        items = self._restore(
            step, state=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()
        )
        return items["state"], Progress(**items["progress"])

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises if it could not be."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _restore(self, step, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._folder / str(step)}: the checkpoint is damaged or not of this network "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
                "remove that folder to use the one before it"
            ) from error
