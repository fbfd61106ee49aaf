"""JSON in a checkpoint that is computed while the checkpoint is written, in Orbax's own thread."""

import dataclasses
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp


class LaterJsonHandler(ocp.JsonCheckpointHandler):
    """Writes what a function returns, which is called in the background."""

    async def _save_fn(self, x, directory):
        await super()._save_fn(x(), directory)


@ocp.args.register_with_handler(LaterJsonHandler, for_save=True)
@dataclasses.dataclass
class LaterJsonSave(ocp.args.CheckpointArgs):
    """Saves the JSON value that `item` returns."""

    item: Callable[[], Any]


@ocp.args.register_with_handler(LaterJsonHandler, for_restore=True)
@dataclasses.dataclass
class LaterJsonRestore(ocp.args.CheckpointArgs):
    """Restores the value."""
