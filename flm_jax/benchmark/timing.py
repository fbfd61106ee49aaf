"""Calls a second, and what JAX compiles."""

import collections
import time
from collections.abc import Callable
from typing import Any

import jax

_STEPS_AHEAD = 2  # that the devices may be behind, as in training


def calls_per_second(run: Callable[[], Any], seconds: float) -> float:
    """Calls a second, over at least `seconds`; the devices are at most a few calls behind."""
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
        self._counts: collections.Counter[str] = collections.Counter()
        self._seconds: dict[str, float] = collections.defaultdict(float)
        jax.monitoring.register_event_duration_secs_listener(self._add)
        jax.monitoring.register_event_listener(lambda event, **_: self._add(event))

    def _add(self, event: str, duration_secs: float = 0.0, **_: Any) -> None:
        name = event.rpartition("/")[2]
        self._counts[name] += 1
        self._seconds[name] += duration_secs

    def summary(self) -> dict[str, float]:
        """Programs compiled and read from the cache, and the seconds that compiling took."""
        cached, compiling = self._counts["cache_hits"], "backend_compile_duration"
        return {
            "compiled": self._counts[compiling] - cached,
            "cached": cached,
            "xla_seconds": self._seconds[compiling] - self._seconds["cache_retrieval_time_sec"],
        }
