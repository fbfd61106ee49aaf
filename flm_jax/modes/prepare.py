"""--mode prepare: cuts every face once into `data.prepared`, which reads much faster."""

import sys
from pathlib import Path
from signal import Signals

from ml_collections import ConfigDict

from flm_jax.config import build, schema
from flm_jax.data import orientation, prepared
from flm_jax.data.loader import default_threads
from flm_jax.errors import InputError
from flm_jax.runtime import processes
from flm_jax.runtime.signals import collect_signals
from flm_jax.training.progress import Unreadable


def run(config: ConfigDict, workdir: Path) -> None:
    """Fills `data.prepared`, unless it already holds what the config asks for.

    Raises:
        SystemExit: with 128 + the signal, after one of `signals.SIGNALS`; the folder is then
            unchanged.
        InputError: the config or the data is invalid, or the folder holds something else.
    """
    schema.check(config)
    folder = config.data.prepared
    if not folder:
        raise InputError(
            "--mode prepare: name the folder for the faces with --config.data.prepared=FOLDER, and "
            "train with the same setting"
        )
    with processes.first_alone(), collect_signals() as received:
        try:
            if processes.is_first():
                _prepare(config, workdir, received)
        except OSError as error:
            raise InputError(f"data.prepared={folder}: {error.strerror or error}") from error
    if received:
        processes.say(f"stopped by {Signals(received[0]).name}: {folder} is unchanged")
        sys.exit(128 + received[0])
    processes.say(f"{folder}: {prepared.describe(folder)}")


def _prepare(config: ConfigDict, workdir: Path, received: list[int]) -> None:
    lists = build.read_lists(config, workdir)
    orientation.warn_of_suspects([face for part in lists.values() for face in part])
    share = config.data.max_unreadable
    unreadable = {name: Unreadable(name, records, share) for name, records in lists.items()}
    prepared.prepare(
        config.data.prepared,
        build.data_root(config, workdir),
        lists,
        build.prepared_uses(config),
        num_threads=config.data.num_threads or default_threads(0),
        at_unreadable=lambda name, row: unreadable[name].add(row),
        stopped=lambda: received,
    )
    for each in unreadable.values():
        if each.rows:
            print(each)
