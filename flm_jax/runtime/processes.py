"""Runs of several processes: connecting them, stopping them together; the first one writes."""

import collections
import contextlib
import os
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from flm_jax.errors import InputError

# How many steps the devices may be behind the training loop.
_STEPS_AHEAD = 2


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects to the run's other processes, before anything is computed.

    Args:
        coordinator: host:port of the first process, the same for all. None: as Slurm, Open MPI or
            TPUs announce it; without any of them, one process.
        num_processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        InputError: the three are not given together, or the others could not be reached.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise InputError("--coordinator, --num_processes and --process_id are given together")
    # JAX's own handling of SIGTERM would compete with signals.py.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        if coordinator is not None or "coordinator_address should be defined" not in str(error):
            raise InputError(
                f"--coordinator={coordinator}: the {num_processes} processes did not come "
                f"together: {str(error).splitlines()[0]}"
            ) from None


def is_first() -> bool:
    """Whether this process writes the files and prints."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line on the first process alone."""
    if is_first():
        print(text, flush=True)


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Runs its block on the first process, then on the others."""
    if jax.process_count() == 1:
        yield
        return
    if not is_first():
        multihost_utils.sync_global_devices("first alone")
    yield
    if is_first():
        multihost_utils.sync_global_devices("first alone")


class StopAgreement:
    """Makes all processes stop at the same step, whichever of them receives the signal.

    While steps are in flight, the question travels with their batches: on a CPU, two programs that
    communicate at the same time would deadlock.

    Args:
        received: the list of `collect_signals`.
    """

    def __init__(self, received: list[int]):
        self._received = received
        self._agreed = 0
        self._several = jax.process_count() > 1
        self._pending: collections.deque = collections.deque()

    def ask_with(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch of a step, with this process's signal in `stop`, i32[b]."""
        if not self._several:
            return batch
        return {**batch, "stop": np.full(len(batch["mask"]), self._own(), np.int32)}

    def hear(self, scalars: dict[str, jax.Array]) -> None:
        """Takes the largest `stop` out of a step's scalars; reads it some steps later."""
        if self._several:
            self._pending.append(scalars.pop("stop"))
            if len(self._pending) > _STEPS_AHEAD:
                self._read()

    def heard(self) -> int:
        """The signal that all processes have agreed on, or 0."""
        return self._agreed if self._several else self._own()

    def settle(self) -> int:
        """Agrees now, after the steps in flight; returns the signal, or 0."""
        if not self._several:
            return self._own()
        while self._pending:
            self._read()
        numbers = multihost_utils.process_allgather(np.int32(self._own()))
        self._agreed = self._agreed or int(numbers.max())
        return self._agreed

    def _read(self):
        number = int(self._pending.popleft())
        self._agreed = self._agreed or number

    def _own(self):
        return self._received[0] if self._received else 0


def leave(code: int) -> None:
    """Exits; of several processes at once, without waiting for the others, which then end too."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
