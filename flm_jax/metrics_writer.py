"""Training's figures, to `metrics.jsonl` and to TensorBoard."""

import json
import os
from pathlib import Path

import tensorboardX

from flm_jax.errors import InputError

_LOG = "metrics.jsonl"


class MetricsWriter:
    """Appends scalars to both logs.

    Args:
        workdir: the folder of both.
        step: the step that the run continues from; what the logs hold beyond it was not kept by a
            checkpoint, will be computed again, and is cut off.
    """

    def __init__(self, workdir: Path, step: int):
        kept = [row for row in read_metrics(workdir) if row["step"] <= step]
        replacement = workdir / (_LOG + ".new")
        replacement.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(replacement, workdir / _LOG)
        self._log = open(workdir / _LOG, "a", buffering=1)  # noqa: SIM115 (closed by `close`)
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes one line {"step", **scalars} and the same as TensorBoard scalars."""
        self._log.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._log.close()
        self._events.close()


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`; none if there is no such file."""
    path = workdir / _LOG
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            # A killed run may leave its last line unfinished.
            if number < len(lines):
                raise InputError(f"{path}:{number}: no JSON ({error}); mend or remove it") from None
    return rows
