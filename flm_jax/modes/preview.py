"""--mode preview: draws what the training loader yields, with landmarks, before any training."""

import contextlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flm_jax.config import build, schema
from flm_jax.data import orientation
from flm_jax.evaluation import plots
from flm_jax.runtime import work_folder

_FACES = 48


def run(config: ConfigDict, workdir: Path) -> None:
    """Writes preview.png: the first training faces, as the network would see them.

    Raises:
        InputError: the config, the data or the work folder is invalid.
    """
    schema.check(config)
    work_folder.make(workdir)
    splits = build.read_splits(config, workdir)
    if not config.data.prepared:
        orientation.warn_of_suspects([face for part in splits for face in part])
    records = splits.trained_on
    images, landmarks, titles = [], [], []
    with contextlib.closing(
        build.training_batches(config, records, 0, num_drawn=len(splits.drawn))
    ) as batches:
        for batch in batches:
            images += list(plots.unnormalise(batch["image"]))
            landmarks += list(batch["landmarks"])
            titles += [f"line {records[row].line}" for row in batch["index"]]
            if len(images) >= _FACES:
                break
    sheet = images[:_FACES], np.stack(landmarks[:_FACES]), titles[:_FACES]
    path = workdir / "preview.png"
    work_folder.write_atomically(path, lambda new: plots.draw_faces(new, *sheet))
    print(build.describe_source(config, workdir))
    print(f"{path}: {len(sheet[0])} training faces of {config.data.image_size} px")
