"""Writes training metrics to `metrics.jsonl` and to TensorBoard."""

import json
import os
import time
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from flm_jax.data.files import read_regular
from flm_jax.errors import InputError

_LOG = "metrics.jsonl"
_EVENTS_END = ".flm_jax"  # of the names of our own


class MetricsWriter:
    """Appends scalars to both logs, which are on disk when `write` returns.

    TensorBoard's events are written anew from `metrics.jsonl` at every start: a killed process may
    have left half an event, and its format has no way to remove one.

    Args:
        workdir: the folder of both.
        step: the step that the run continues from; later rows are cut off, since their steps will
            be computed again.
        validated: whether an epoch that ends there was validated; if not, its row is cut off too.
    """

    def __init__(self, workdir: Path, step: int, *, validated: bool = True):
        kept = [
            row
            for row in read_metrics(workdir)
            if row["step"] < step or (row["step"] == step and (validated or "epoch" not in row))
        ]
        replacement = workdir / (_LOG + ".new")
        replacement.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(replacement, workdir / _LOG)
        for events in workdir.glob(f"events.out.tfevents.*{_EVENTS_END}"):
            events.unlink()
        self._log = open(workdir / _LOG, "a", buffering=1)  # noqa: SIM115 (closed by `close`)
        self._events = EventsWriter(str(workdir / "events"), _EVENTS_END)
        for row in kept:
            self._write_events(row)
        self._events.flush()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes a row {"step", "time" (seconds since 1970), **scalars} to both."""
        row = {"step": step, "time": time.time(), **scalars}
        self._log.write(json.dumps(row) + "\n")
        self._write_events(row)
        self._events.flush()

    def close(self) -> None:
        self._log.close()
        self._events.close()

    def _write_events(self, row):
        for name, value in row.items():
            if name not in ("step", "time"):
                event = Event(summary=summary.scalar(name, value))
                event.step, event.wall_time = int(row["step"]), row.get("time", 0.0)
                self._events.write_event(event)


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl`; none if there is no such file."""
    path = workdir / _LOG
    if not path.exists():
        return []
    lines = read_regular(path).decode(errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row, reason = json.loads(line), "no numbers by their names, with a step"
        except (ValueError, RecursionError) as error:
            row, reason = None, f"no JSON ({error})"
        if _is_row(row):
            rows.append(row)
        elif number < len(lines):  # A killed run may leave its last line unfinished.
            raise InputError(f"{path}:{number}: {reason}; mend or remove it")
    return rows


def _is_row(row):
    return (
        isinstance(row, dict)
        and isinstance(row.get("step"), int)
        and all(
            isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
            for value in row.values()
        )
    )
