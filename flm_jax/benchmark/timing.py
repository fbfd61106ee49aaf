"""What a process has taken: time since its start, memory, compilations; and how fast it calls."""

import collections
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# Steps that the devices may be behind, as in training.
_STEPS_AHEAD = 2

_IMPORTED = time.time()


def seconds_since_start() -> float:
    """Since this process began, where /proc tells; else since this module was imported.

    A program that starts itself again (`os.execv`) stays the same process.
    """
    try:
        # After the program's name, which may hold spaces: field 22 of proc(5)'s stat, from 1.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.time() - _IMPORTED
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return peak_bytes_of(os.getpid()) or _peak_by_rusage()


def peak_bytes_of(process: int) -> int | None:
    """The most memory that a process has held, where /proc tells."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _peak_by_rusage():
    # On Linux a process would start with what the one that started it has held.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def calls_per_second(run: Callable[[], Any], seconds: float) -> float:
    """Calls a second, for at least so long; the devices are at most a few calls behind."""
    pending: collections.deque = collections.deque()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not count:
        pending.append(run())
        count += 1
        if len(pending) > _STEPS_AHEAD:
            jax.block_until_ready(pending.popleft())
    jax.block_until_ready(list(pending))
    return count / (time.perf_counter() - start)


class Compilations:
    """Counts and times what JAX compiles, from now on."""

    def __init__(self):
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._counts: collections.Counter[str] = collections.Counter()
        jax.monitoring.register_event_duration_secs_listener(self._add)
        jax.monitoring.register_event_listener(self._count)

    def _add(self, event: str, duration_secs: float, **_: Any) -> None:
        name = event.rpartition("/")[2]
        self._seconds[name] += duration_secs
        self._counts[name] += 1

    def _count(self, event: str, **_: Any) -> None:
        self._counts[event.rpartition("/")[2]] += 1

    def summary(self) -> dict[str, float]:
        cached = self._counts["cache_hits"]
        read = self._seconds["cache_retrieval_time_sec"]
        return {
            "compiled": self._counts["backend_compile_duration"] - cached,
            "cached": cached,
            "xla_seconds": self._seconds["backend_compile_duration"] - read,
            "cache_seconds": read,
            "trace_seconds": self._seconds["jaxpr_trace_duration"],
            "lower_seconds": self._seconds["jaxpr_to_mlir_module_duration"],
        }
