"""--mode predict: landmarks of any images or of a video, as JSON, CSV and overlays."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flm_jax.config import schema
from flm_jax.config.weights import load_network
from flm_jax.errors import InputError
from flm_jax.inference import pipeline
from flm_jax.inference.detector import load_detector
from flm_jax.inference.exported import load_exported
from flm_jax.inference.predictor import LandmarkPredictor, Network
from flm_jax.models.network import LandmarkRegressor

# launch.py passes the config that the weights were trained with, and the overrides.
CONFIG_OF_WEIGHTS = True


def run(
    config: ConfigDict, workdir: Path, *, input: str = "", output: str = "", boxes: str = ""
) -> None:
    """Writes landmarks.json, landmarks.csv and overlays/ of the faces of images or of a video.

    Args:
        config: of the trained weights; `config.predict` has the options.
        workdir: where the weights are, or an exported network, `<name>.onnx`.
        input: an image, a folder, a glob, a video or the number of a camera.
        output: the folder to write into; <workdir>/predict, or predict beside the exported
            network, by default.
        boxes: a file, or `image`: each image is one face; by default a detector finds the faces.

    Raises:
        InputError: something can't be used. Unreadable images are reported and skipped first.
    """
    schema.check(config)
    if not input:
        raise InputError(
            "--mode predict needs --input: an image, a folder, a glob in quotes, a video or the "
            "number of a camera"
        )
    chosen = config.predict
    is_exported = workdir.suffix == ".onnx"
    folder = Path(output or (workdir.parent if is_exported else workdir) / "predict")
    upright = config.data.exif_upright
    job = pipeline.plan(
        input,
        folder,
        boxes=boxes,
        overlays=chosen.overlays,
        upright=upright,
        networks=(workdir, chosen.detector),
    )
    detect = None if boxes else load_detector(chosen.detector, chosen.threshold, chosen.side)
    if is_exported:
        network = load_exported(workdir)
    else:
        run = _onnxruntime if jax.default_backend() == "cpu" else None
        network = load_network(workdir, str(config.evaluate.checkpoint), config, run)
    pipeline.run(
        job,
        LandmarkPredictor(**network),
        detect,
        tta=chosen.tta.to_dict(),
        smoothing=chosen.smoothing.to_dict(),
        num_threads=config.data.num_threads,
    )


def _onnxruntime(model: LandmarkRegressor, variables: Any, size: int) -> Network | None:
    """The network in onnxruntime, which is faster than XLA on a CPU; None where that can't be."""
    try:
        from flm_jax.export import networks, onnx

        apply: Any = partial(model.apply, train=False)
        return networks.run_onnx(onnx.to_bytes(onnx.convert(apply, variables, size)))
    except (ModuleNotFoundError, InputError):
        return None  # It is not installed, or can't compute some operation of this network.
