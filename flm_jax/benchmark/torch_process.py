"""PyTorch's steps in a process of their own: thread pools in one would be in each other's way."""

import concurrent.futures
import contextlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from flm_jax.data.workers import start_worker
from flm_jax.errors import InputError

LOSSES = ("wing", "l1", "smooth_l1")  # of ours that it knows


@contextlib.contextmanager
def torch_process(
    job: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], Callable[[str, float], float]]]:
    """Starts the process, which idles while it is not asked.

    Args:
        job: what the steps are, as `torch_steps.Steps` takes it.

    Yields:
        `Steps.about`; and a function of `train` or `eval` and of seconds: images a second.

    Raises:
        InputError: PyTorch is not installed, does not know the network or the loss, or failed.
    """
    if job["loss"]["name"] not in LOSSES:
        raise InputError(
            f"benchmark.against=torch: knows the losses {', '.join(LOSSES)}, not "
            f"loss.name={job['loss']['name']}; leave the comparison out"
        )
    for part, known in (("backbone", "resnet"), ("head", "regression")):
        if job[part]["name"] != known:
            raise InputError(f"benchmark.against=torch: knows model.{part}.name={known} alone")
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "benchmark.against=torch: torch is not installed; `pip install torch` in this "
            "environment, or leave the comparison out"
        )
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _start, (job,)) as pool:

        def ask(function, *arguments):
            try:
                return pool.submit(function, *arguments).result()
            except BrokenProcessPool:
                raise InputError(
                    "benchmark.against=torch: its process ended with the error above; fix that, "
                    "or leave the comparison out"
                ) from None

        yield ask(_about), partial(ask, _rate)


_steps: Any = None  # of the process


def _start(job):
    global _steps
    start_worker()
    from flm_jax.benchmark import torch_steps  # Not in the process that measures JAX.

    _steps = torch_steps.Steps(job)


def _about():
    return _steps.about


def _rate(kind, seconds):
    return _steps.rate(kind, seconds)
