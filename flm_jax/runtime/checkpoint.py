"""Checkpoints of a training run, saved and restored by Orbax and verified by checksums.

`<workdir>/checkpoints/<step>` holds the state, the run's progress, its config and its validation
loss. A restore returns exactly what was saved or raises DamagedError.
"""

import contextlib
import functools
import math
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from flm_jax.errors import InputError
from flm_jax.runtime import scores, work_folder
from flm_jax.runtime.checksums import checksum, describe, leaves
from flm_jax.runtime.devices import replicated
from flm_jax.runtime.later_json import LaterJsonSave
from flm_jax.runtime.restore import DamagedError, SavedCheckpoints, first_line

_UNFINISHED = re.compile(r"\d+\.orbax-checkpoint-tmp(-\d+)?")
_STEP = re.compile(r"\d+")


class SaveError(InputError):
    """A checkpoint could not be saved."""


class Checkpoints(SavedCheckpoints):
    """The checkpoints of a work folder: the newest, and the best by validation loss.

    Saving is asynchronous: a failure is raised by the next `check`, `save`, `wait` or `close`.

    Args:
        workdir: the work folder.
        keep_last: how many of the newest are kept.
        keep_best: how many with the lowest validation losses are kept besides.

    Raises:
        InputError: there can't be checkpoints.
    """

    _hint = ""  # Training sets a damaged one aside.

    def __init__(self, workdir: Path, *, keep_last: int = 1, keep_best: int = 1):
        work_folder.check_path(workdir)
        workdir = workdir.absolute()
        # It may be a link to another disk, and `..` leads from where it points to.
        self._folder = workdir / "checkpoints"
        self._damaged = workdir / "damaged_checkpoints"
        self._discarded = self._folder.resolve().with_name("discarded_checkpoints")
        self._keep_last, self._keep_best = keep_last, keep_best
        self._losses: dict[int, float] = {}
        try:  # Over a file, Orbax would wait forever.
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self._folder}: can't be made: {error.strerror}") from None
        # Orbax's own cleaning runs in a thread that outlives an early exit.
        self._remove_unfinished()
        self._remove_discarded(at_rest=True)
        self._manager = self._open_for_saving()

    def save(
        self,
        state: Any,
        progress: dict[str, Any],
        config: dict[str, Any],
        validation_loss: float = math.inf,
    ) -> None:
        """Saves a state under its step, if that is not saved yet.

        Args:
            state: a pytree of arrays with an integer `step`.
            progress: what else continues the run, as JSON.
            config: the run's config, as JSON.
            validation_loss: infinite where the state was not validated: never the best.

        Raises:
            SaveError: this or an earlier checkpoint could not be saved.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # On a CPU it would be the array's own memory, which the next step takes.
        on_host = np.array if jax.default_backend() == "cpu" else np.asarray
        arrays = {name: on_host(leaf) for name, leaf in leaves(state).items()}
        score = scores.score(validation_loss)
        self._losses[step] = score[scores.NAME]
        if jax.process_count() > 1:  # The mapped step leaves every process a copy of its own.
            everywhere: Any = replicated()
            state = multihost_utils.host_local_array_to_global_array(
                state, everywhere.mesh, everywhere.spec
            )
        described = {"progress": progress, "config": config, scores.NAME: score}
        items: Any = {name: ocp.args.JsonSave(content) for name, content in described.items()}
        # They take half a second for 400 MB, in which the training goes on.
        items["checksums"] = LaterJsonSave(functools.partial(_checksums, arrays, progress, config))
        with self._save_errors():
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), **items)
            )

    def check(self) -> None:
        """Raises SaveError if a save has failed; does not wait for one in progress."""
        with self._save_errors():
            self._manager.check_for_errors()
        self._remove_discarded()

    def wait(self) -> None:
        """Waits until every save is on disk; raises SaveError if one failed."""
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()
            self._remove_discarded(at_rest=True)

    def set_validation_loss(self, step: int, validation_loss: float) -> None:
        """Adds the validation loss of a checkpoint that was saved without one."""
        if jax.process_index() == 0:
            scores.write(self._folder / str(step), validation_loss)
        self._losses[step] = validation_loss

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Which of the checkpoints, by rising step, are kept: Orbax asks after every save."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        validated = [step for step in steps if self.is_validated(step)]
        best = sorted(validated, key=self._loss)[: self._keep_best]
        return [step in {*steps[-self._keep_last :], *best} for step in steps]

    def last_step(self) -> int | None:
        """The newest checkpoint, or None if there never was one.

        Raises:
            DamagedError: all checkpoints were damaged and have been set aside.
        """
        last = self._manager.latest_step()
        if last is None and self._damaged.is_dir():
            raise DamagedError(
                f"{self._damaged}: every checkpoint was damaged, and none is left to continue "
                "from; remove that folder to train from the start, or choose another --workdir"
            )
        return last

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint to `damaged_checkpoints`; returns its new path."""
        place, number = self._damaged / str(step), 1
        while place.exists():
            number += 1
            place = self._damaged / f"{step}_{number}"
        if jax.process_index() == 0:
            self._damaged.mkdir(exist_ok=True)
            shutil.move(self._folder / str(step), place)  # to another disk, too
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoint moved")
        self._manager.reload()
        return place

    def _open_for_saving(self):
        # A kill while Orbax removes a checkpoint leaves none that lacks a part.
        return self._open(preservation_policy=self, todelete_subdir=f"../{self._discarded.name}")

    @contextlib.contextmanager
    def _save_errors(self):
        """Turns an error of Orbax's into SaveError, ready for the next save."""
        try:
            yield
        except Exception as error:
            self._recover()
            raise SaveError(
                f"{self._folder}: a checkpoint could not be saved: {first_line(error)}. The "
                "earlier ones are whole; make room, and the same command continues from the last"
            ) from error

    def _recover(self):
        # Orbax raises the first error; its other threads still write, and keep their errors for
        # the next save. Of several processes only one may be here, and the run ends.
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                with contextlib.suppress(Exception):
                    thread.join()
        alone = jax.process_count() == 1
        if alone:
            with contextlib.suppress(Exception):
                self._manager.close()
        self._remove_unfinished()
        if alone:
            self._manager = self._open_for_saving()

    def _remove_unfinished(self):
        """Removes what a killed or failed save left."""
        if jax.process_index() > 0:
            return
        for _ in range(50):
            if not (leftovers := _named(self._folder, _UNFINISHED)):
                return
            for leftover in leftovers:
                shutil.rmtree(leftover, ignore_errors=True)
            # TensorStore's threads, which can't be waited for, may still write.
            time.sleep(0.02)

    def _remove_discarded(self, at_rest=False):
        """Removes what Orbax moved there; the folder too, where no save is in progress."""
        if jax.process_index() == 0 and self._discarded.is_dir():
            for checkpoint in _named(self._discarded, _STEP):
                shutil.rmtree(checkpoint, ignore_errors=True)
            if at_rest:
                with contextlib.suppress(OSError):  # A file of the user's may be there.
                    self._discarded.rmdir()


def _checksums(arrays, progress, config):
    described = {name: describe(values) for name, values in arrays.items()}
    return {"arrays": described, "crc32": checksum([progress, config, described])}


def _named(folder: Path, pattern: re.Pattern) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if pattern.fullmatch(path.name)]
