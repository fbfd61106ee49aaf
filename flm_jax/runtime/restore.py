"""Reads checkpoints and verifies them by their checksums."""

import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from flm_jax.errors import InputError
from flm_jax.runtime import scores, work_folder
from flm_jax.runtime.checksums import checksum, describe, differences, leaves, shape
from flm_jax.runtime.later_json import LaterJsonHandler, LaterJsonRestore


class DamagedError(InputError):
    """A checkpoint does not hold what was saved."""


class SavedCheckpoints:
    """The checkpoints of a work folder, which it leaves as they are.

    A restore returns exactly what was saved or raises DamagedError.

    Args:
        workdir: the work folder.

    Raises:
        InputError: it holds no checkpoints, or they can't be read from a path such as its own.
    """

    _hint = "; evaluate.checkpoint can name another one"

    def __init__(self, workdir: Path):
        work_folder.check_path(workdir)
        self._folder = workdir.absolute() / "checkpoints"
        if not self._folder.is_dir():
            raise self._none_found()
        # Without an interval of 0 Orbax warns that it sets one.
        self._manager = self._open(read_only=True, create=False, save_interval_steps=0)
        self._losses: dict[int, float] = {}

    def close(self) -> None:
        self._manager.close()

    def is_there(self, step: int) -> bool:
        """Whether the checkpoint is still there: a training may replace it at any moment."""
        return (self._folder / str(step)).is_dir()

    def is_validated(self, step: int) -> bool:
        """Whether the checkpoint has a validation loss."""
        return math.isfinite(self._loss(step))

    def find(self, which: str) -> int:
        """The step that `best`, `last` or a number names.

        Raises:
            InputError: there is no such checkpoint.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise self._none_found()
        if which == "last":
            return steps[-1]
        if which == "best":
            # The newest, where none has been validated.
            return min(reversed(steps), key=self._loss)
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise InputError(
            f"evaluate.checkpoint={which}: expected best, last or one of the steps {steps} in "
            f"{self._folder}"
        )

    def config(self, step: int) -> dict[str, Any]:
        """The config of the run that saved the checkpoint; raises DamagedError."""
        return self._read(step)["config"]

    def restore(
        self, step: int, shapes: Any, sharding: jax.sharding.Sharding
    ) -> tuple[Any, dict[str, Any]]:
        """Restores a whole state, and the progress saved with it.

        Args:
            step: the checkpoint.
            shapes: the state's tree, with the shape and dtype of each array.
            sharding: where the arrays go.

        Raises:
            DamagedError: the checkpoint is not what was saved.
            InputError: its arrays are not those of `shapes`; names the ones that differ.
        """
        described = self._read(step)
        arrays = described["checksums"]["arrays"]
        self._compare(step, arrays, shapes)
        return self._restore_arrays(step, shapes, sharding, arrays), described["progress"]

    def restore_weights(
        self, step: int, shapes: Any, sharding: jax.sharding.Sharding
    ) -> dict[str, Any]:
        """Restores what a network is applied with: no optimiser's state is read or known.

        Args:
            step: the checkpoint.
            shapes: the network's variables, with the shape and dtype of each.
            sharding: where the arrays go.

        Returns:
            {"params": ..., "batch_stats": ...}: the moving averages where the run kept them.

        Raises:
            DamagedError: the checkpoint is not what was saved.
            InputError: its arrays are not those of `shapes`; names the ones that differ.
        """
        arrays = self._read(step)["checksums"]["arrays"]
        root = "ema/" if any(name.startswith("ema/") for name in arrays) else ""
        kept = {
            name.removeprefix(root): entry
            for name, entry in arrays.items()
            if name.startswith((f"{root}params/", f"{root}batch_stats/"))
        }
        self._compare(step, kept, shapes)
        part = {"ema": shapes} if root else shapes
        restored = self._restore_arrays(step, part, sharding, arrays)
        return {"params": {}, "batch_stats": {}, **restored.get("ema", restored)}

    def _open(self, **options):
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(**options),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
                "checksums": LaterJsonHandler(),
                scores.NAME: ocp.JsonCheckpointHandler(scores.FILE),
            },
        )

    def _loss(self, step):
        if step not in self._losses:
            self._losses[step] = scores.read(self._folder / str(step))
        return self._losses[step]

    def _read(self, step):
        """The verified items of a checkpoint beside the arrays."""
        json = ocp.args.JsonRestore()
        items = self._restore(step, progress=json, config=json, checksums=LaterJsonRestore())
        try:
            sums = items["checksums"]
            whole = [items["progress"], items["config"], sums["arrays"]]
            same = checksum(whole) == sums["crc32"]
        except (KeyError, TypeError) as error:
            raise self._damaged_error(step, f"no {error}") from error
        if not same:
            raise self._damaged_error(step, "its description is not what was saved")
        return items

    def _compare(self, step, arrays, shapes):
        expected = {name: shape(leaf) for name, leaf in leaves(shapes).items()}
        if rows := differences(arrays, expected):
            raise InputError(
                f"{self._folder / str(step)}: the checkpoint is of another network (its arrays -> "
                f"this network's):\n{rows}\nuse the network that it was trained with, or choose "
                "another --workdir"
            )

    def _restore_arrays(self, step, shapes, sharding, arrays):
        """The arrays of `shapes`, which may be a part of the state; verified."""
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )
        arguments = ocp.args.PyTreeRestore(
            like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        restored = self._restore(step, state=arguments)["state"]
        for name, leaf in leaves(restored).items():
            if describe(leaf) != arrays[name]:
                raise self._damaged_error(step, f"{name} is not what was saved")
        return restored

    def _restore(self, step, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except MemoryError:
            raise
        except Exception as error:  # Damage may surface anywhere below.
            raise self._damaged_error(step, first_line(error)) from error

    def _none_found(self):
        return InputError(
            f"{self._folder}: no checkpoint there; train first (--mode train), or name the work "
            "folder of a trained run with --workdir"
        )

    def _damaged_error(self, step, how):
        place = self._folder / str(step)
        return DamagedError(f"{place}: the checkpoint is damaged ({how}){self._hint}")


def first_line(error: BaseException) -> str:
    """What an error of a library says in a message of ours."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
