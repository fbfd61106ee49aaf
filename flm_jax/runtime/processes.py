"""Runs of several processes: connecting them, stopping them together; the first one writes."""

import collections
import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from flm_jax.errors import InputError
from flm_jax.runtime.log import write_error

# How many steps the devices may be behind the training loop.
_STEPS_AHEAD = 2


# Seconds until it is said that the other processes are missing, and until they are given up.
_PATIENCE = (10, 300)

# What names the processes of a run, where no flags do.
_ANNOUNCED = (
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)

_ALONE = "--num_processes=1 runs this process alone"

# In an error of a computation over several processes.
_LOST = re.compile("gloo|nccl|connection (closed|reset)|coordination service", re.IGNORECASE)


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    announced: bool = True,
) -> None:
    """Connects to the run's other processes, before anything is computed.

    Args:
        coordinator: host:port of the first process, the same for all.
        num_processes: how many there are; 1 needs neither of the others.
        process_id: which one this is, from 0.
        announced: whether, without these three, those of Slurm, Open MPI or TPUs are taken; without
            any of them, one process.

    Raises:
        InputError: the three are not given together, or the others could not be reached.
    """
    given = (coordinator, num_processes, process_id)
    if num_processes == 1 or not (announced or any(value is not None for value in given)):
        return
    if None in given and given != (None, None, None):
        raise InputError("--coordinator, --num_processes and --process_id are given together")
    # JAX's own handling of SIGTERM would compete with signals.py.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _said_while_waiting(_awaited(*given)):
            # JAX itself would abort where the others do not come.
            jax.distributed.initialize(*given, initialization_timeout=2 * _PATIENCE[1])
    except (RuntimeError, ValueError) as error:
        if coordinator is not None or "coordinator_address should be defined" not in str(error):
            raise InputError(
                f"the processes of the run ({_awaited(*given)}) did not come together: "
                f"{str(error).splitlines()[0]}; {_ALONE}"
            ) from None


def _awaited(coordinator, num_processes, process_id) -> str:
    """What says that there are other processes."""
    names = [name for name in _ANNOUNCED if name in os.environ]
    if coordinator is not None:
        return f"--coordinator={coordinator} --num_processes={num_processes}, this one {process_id}"
    return ", ".join(f"{name}={os.environ[name]}" for name in names) or "the cluster's environment"


@contextlib.contextmanager
def _said_while_waiting(awaited: str) -> Iterator[None]:
    """Says after a while what its block waits for, and ends the process when that is in vain."""
    done = threading.Event()

    def watch() -> None:
        if done.wait(_PATIENCE[0]):
            return
        write_error(f"waiting for the other processes of the run ({awaited}); {_ALONE}\n")
        if not done.wait(_PATIENCE[1] - _PATIENCE[0]):
            write_error(f"error: the other processes did not come ({awaited}); {_ALONE}\n")
            os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def lost_process(error: Exception) -> str:
    """What to say where the error came because another process has ended; '' where not."""
    if not _LOST.search(str(error)) or jax.process_count() == 1:
        return ""
    return (
        f"another process of the run has ended ({str(error).splitlines()[0][:200]}); look at its "
        "output. The same command, in all processes, continues from the last checkpoint"
    )


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
