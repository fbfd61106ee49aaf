"""The process of `benchmark_torch`: started, asked, and ended with this one."""

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from flm_jax.benchmark.timing import peak_bytes_of
from flm_jax.errors import InputError

LOSSES = ("wing", "l1", "smooth_l1")  # of ours that it knows


class TorchProcess:
    """PyTorch's steps, warmed up; it idles while it is not asked.

    Attributes:
        about: its version, the memory layouts that it chose, and its memory at most, where the
            system tells: with each of its steps in both layouts.
    """

    def __init__(self, process: subprocess.Popen, job: dict[str, Any]):
        self._process = process
        self.about = self._ask(job)
        self.about["host_peak_bytes"] = peak_bytes_of(process.pid)

    def rate(self, kind: str, seconds: float) -> float:
        """Images a second of its `train` or `eval` step."""
        return self._ask({"measure": kind, "seconds": seconds})["rate"]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise InputError(
                "benchmark.against=torch: its process ended, as it says above; mend that, or "
                "leave the comparison out"
            )
        return json.loads(answer)


@contextlib.contextmanager
def torch_process(job: dict[str, Any]) -> Iterator[TorchProcess]:
    """Starts PyTorch in a process of its own: two thread pools in one would be in each other's way.

    Raises:
        InputError: PyTorch is not installed, or its process ended.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "benchmark.against=torch: torch is not installed; `pip install torch` in this "
            "environment, or leave the comparison out"
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "flm_jax.benchmark.torch_steps"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield TorchProcess(process, job)
    finally:
        process.kill()
        process.communicate()
