"""Checkpoints by Orbax: the state, where the input stands, and the config that they belong to.

Each carries a checksum of every array and of the rest. What comes back is what was saved, or the
checkpoint is called damaged.
"""

import contextlib
import json
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from flm_jax.errors import InputError
from flm_jax.runtime.checksums import checksum, describe, differences, leaves, shape
from flm_jax.runtime.devices import replicated
from flm_jax.runtime.orbax_messages import is_of_orbax, no_warning_of_reading, quiet_if_it_fails

_SCORE = "validation_loss"
_SCORE_FILE = "score.json"
_CHECKSUM = "crc32"

# Beside the folder of the checkpoints:
_DAMAGED = "damaged_checkpoints"
_DISCARDED = "discarded_checkpoints"

_REMOVALS = 50  # tries to empty the folder of what a failed save left


class DamagedError(InputError):
    """A checkpoint does not hold what was saved."""


class SaveError(InputError):
    """A checkpoint could not be saved."""


class Checkpoints:
    """The folder `<workdir>/checkpoints/<step>`, with the last and the best by validation loss.

    Saving is asynchronous: `check` raises if a save has failed meanwhile, and so do the next `save`
    and `close`, which waits for the last one.

    Args:
        workdir: the work folder.
        keep_last: how many of the newest stay.
        keep_best: how many of the lowest validation losses stay besides.
        read_only: leaves the folder as it is, whoever else writes to it.
    """

    def __init__(
        self, workdir: Path, *, keep_last: int = 1, keep_best: int = 1, read_only: bool = False
    ):
        self._workdir = workdir.absolute()
        self._folder = self._workdir / "checkpoints"
        self._read_only = read_only
        self._cleans = not read_only and jax.process_index() == 0
        if read_only and not self._folder.is_dir():
            raise InputError(_no_checkpoint(self._folder))
        if self._cleans:
            # Orbax's own cleaning runs in a thread that outlives an early exit.
            self._remove_unfinished()
            self._discard(at_rest=True)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._losses: dict[int, float] = {}
        self._manager = self._open()

    def save(
        self,
        state: Any,
        progress: dict[str, Any],
        config: dict[str, Any],
        validation_loss: float = math.inf,
    ) -> None:
        """Saves the state under its step. Without a validation loss it is worse than any other.

        Raises:
            SaveError: this or an earlier one could not be saved.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arrays = {name: describe(leaf) for name, leaf in leaves(state).items()}
        checksums = {"arrays": arrays, _CHECKSUM: checksum([progress, config, arrays])}
        self._losses[step] = _loss(_score(validation_loss))
        if jax.process_count() > 1:  # The mapped step leaves every process a copy of its own.
            everywhere: Any = replicated()
            state = multihost_utils.host_local_array_to_global_array(
                state, everywhere.mesh, everywhere.spec
            )
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    progress=ocp.args.JsonSave(progress),
                    config=ocp.args.JsonSave(config),
                    checksums=ocp.args.JsonSave(checksums),
                    **{_SCORE: ocp.args.JsonSave(_score(validation_loss))},
                ),
            )
        except Exception as error:
            raise self._failed(error) from error

    def check(self) -> None:
        """Raises SaveError if a save has failed meanwhile; waits only then."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error
        self._discard()

    def set_validation_loss(self, step: int, validation_loss: float) -> None:
        """Gives a checkpoint that was saved without a validation loss its own."""
        if jax.process_index() == 0:
            path = self._folder / str(step) / _SCORE / _SCORE_FILE
            new = path.with_name(f"{_SCORE_FILE}.new")
            new.write_text(json.dumps(_score(validation_loss)))
            os.replace(new, path)
        self._losses[step] = validation_loss

    def is_validated(self, step: int) -> bool:
        """Whether the checkpoint has a validation loss."""
        return math.isfinite(self._loss(step))

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Orbax's question after a save: which of the checkpoints, by rising step, stay."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(steps[-self._keep_last :])
        validated = [step for step in steps if self.is_validated(step)]
        kept |= set(sorted(validated, key=self._loss)[: self._keep_best])
        return [step in kept for step in steps]

    def last_step(self) -> int | None:
        """The newest checkpoint, or None if there never was one.

        Raises:
            DamagedError: there is none but damaged ones.
        """
        last = self._manager.latest_step()
        damaged = self._workdir / _DAMAGED
        if last is None and damaged.is_dir():
            raise DamagedError(
                f"{damaged}: every checkpoint was damaged, and none is left to continue from; "
                "remove that folder to train from the start, or choose another --workdir"
            )
        return last

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way, and returns where to."""
        folder = self._workdir / _DAMAGED
        place = folder / str(step)
        for number in range(2, 1000):
            if not place.exists():
                break
            place = folder / f"{step}_{number}"
        if jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(place)
        _wait_for_all("damaged checkpoint")
        self._manager.reload()
        return place

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
            return min(reversed(steps), key=self._loss)
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise InputError(
            f"evaluate.checkpoint={which}: expected best, last or one of the steps {steps} in "
            f"{self._folder}"
        )

    def config(self, step: int) -> dict[str, Any]:
        """The config that the checkpoint was trained with.

        Raises:
            DamagedError: it is not what was saved.
        """
        return self._read(step)["config"]

    def restore(
        self, step: int, shapes: Any, sharding: jax.sharding.Sharding
    ) -> tuple[Any, dict[str, Any]]:
        """Restores what has the shapes and dtypes of `shapes`, placed as `sharding` says.

        Raises:
            DamagedError: the checkpoint is not what was saved.
            InputError: its arrays are not those of `shapes`; names those that differ.
        """
        described = self._read(step)
        arrays = described["checksums"]["arrays"]
        self._compare(step, arrays, {n: shape(leaf) for n, leaf in leaves(shapes).items()})
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )
        state = self._restore(step, state=ocp.args.StandardRestore(like))["state"]
        for name, leaf in leaves(state).items():
            if describe(leaf) != arrays[name]:
                raise self._damaged(step, f"{name} is not what was saved")
        return state, described["progress"]

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises SaveError if it could not be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()
            self._discard(at_rest=True)

    def _open(self):
        with no_warning_of_reading() if self._read_only else contextlib.nullcontext():
            return self._make_manager()

    def _make_manager(self):
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if self._read_only else self,
                read_only=self._read_only,
                create=not self._read_only,
                # One that is killed while it removes a checkpoint leaves none that lacks a part.
                todelete_subdir=None if self._read_only else f"../{_DISCARDED}",
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
                "checksums": ocp.JsonCheckpointHandler(),
                # Not Orbax's own metrics: it opens no folder in which a checkpoint's are damaged.
                _SCORE: ocp.JsonCheckpointHandler(_SCORE_FILE),
            },
        )

    def _loss(self, step):
        """The checkpoint's validation loss; infinite where it has none, or a damaged one."""
        if step not in self._losses:
            try:
                content = (self._folder / str(step) / _SCORE / _SCORE_FILE).read_bytes()
                self._losses[step] = _loss(json.loads(content))
            except (OSError, ValueError):
                self._losses[step] = math.inf
        return self._losses[step]

    def _read(self, step):
        """What a checkpoint holds beside the arrays."""
        names = ("progress", "config", "checksums")
        items = self._restore(step, **{name: ocp.args.JsonRestore() for name in names})
        try:
            sums = items["checksums"]
            whole = [items["progress"], items["config"], sums["arrays"]]
            same = checksum(whole) == sums[_CHECKSUM]
        except (KeyError, TypeError) as error:
            raise self._damaged(step, f"no {error}") from error
        if not same:
            raise self._damaged(step, "its description is not what was saved")
        return items

    def _compare(self, step, arrays, expected):
        if rows := differences(arrays, expected):
            raise InputError(
                f"{self._folder / str(step)}: the checkpoint is of another network (its arrays -> "
                f"this network's):\n{rows}\nuse the network that it was trained with, or choose "
                "another --workdir"
            )

    def _restore(self, step, **items):
        try:
            with quiet_if_it_fails():
                return self._manager.restore(step, args=ocp.args.Composite(**items))
        except MemoryError:
            raise
        except Exception as error:  # Damage may surface anywhere below.
            raise self._damaged(step, _first_line(error)) from error

    def _damaged(self, step, how):
        hint = "; evaluate.checkpoint can name another one" if self._read_only else ""
        return DamagedError(f"{self._folder / str(step)}: the checkpoint is damaged ({how}){hint}")

    def _failed(self, error):
        # Orbax tells of the first error; its other threads still write, and keep theirs for the
        # next save to raise. Of several processes only one may be here, and the run ends.
        for thread in threading.enumerate():
            if is_of_orbax(thread):
                with contextlib.suppress(Exception):
                    thread.join()
        alone = jax.process_count() == 1
        if alone:
            with contextlib.suppress(Exception):
                self._manager.close()
        if self._cleans:
            self._remove_unfinished()
        if alone:
            self._manager = self._open()
        return SaveError(
            f"{self._folder}: a checkpoint could not be saved: {_first_line(error)}. The ones "
            "there are whole; make room, and the same command continues from the last"
        )

    def _remove_unfinished(self):
        """What a save leaves that was killed or has failed."""
        for _ in range(_REMOVALS):
            if not (leftovers := list(self._folder.glob("*.orbax-checkpoint-tmp*"))):
                return
            for leftover in leftovers:
                shutil.rmtree(leftover, ignore_errors=True)
            # TensorStore's threads, which can't be waited for, may have written meanwhile.
            time.sleep(0.02)

    def _discard(self, at_rest=False):
        """Removes what Orbax has put away; the folder too, where no other can be on its way."""
        folder = self._workdir / _DISCARDED
        if self._cleans and folder.is_dir():
            for checkpoint in folder.iterdir():
                shutil.rmtree(checkpoint, ignore_errors=True)
            if at_rest:
                shutil.rmtree(folder, ignore_errors=True)


def _no_checkpoint(folder: Path) -> str:
    return (
        f"{folder}: no checkpoint there; train first (--mode train), or name the work folder of a "
        "trained run with --workdir"
    )


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _score(validation_loss):
    """What is saved of a validation loss. NaN would compare as the best."""
    loss = validation_loss if math.isfinite(validation_loss) else math.inf
    return {_SCORE: loss, _CHECKSUM: checksum(loss)}


def _loss(score):
    """The validation loss that was saved; infinite where it is damaged."""
    try:
        whole = score[_CHECKSUM] == checksum(score[_SCORE])
    except (KeyError, TypeError):
        return math.inf
    return score[_SCORE] if whole else math.inf


def _first_line(error):
    return str(error).splitlines()[0] if str(error) else type(error).__name__
