"""--mode predict: landmarks of any images or of a video, as JSON, CSV and overlays."""

from pathlib import Path

from ml_collections import ConfigDict

from flm_jax.config import schema
from flm_jax.config.weights import load_network
from flm_jax.errors import InputError
from flm_jax.inference import pipeline
from flm_jax.inference.detector import load_detector
from flm_jax.inference.predictor import LandmarkPredictor

# launch.py passes the config that the weights were trained with, and the overrides.
CONFIG_OF_WEIGHTS = True


def run(
    config: ConfigDict, workdir: Path, *, input: str = "", output: str = "", boxes: str = ""
) -> None:
    """Writes landmarks.json, landmarks.csv and overlays/ of the faces of images or of a video.

    Args:
        config: of the trained weights; `config.predict` has the options.
        workdir: where the weights are.
        input: an image, a folder, a glob, a video or the number of a camera.
        output: the folder to write into; <workdir>/predict by default.
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
    folder = Path(output or workdir / "predict")
    job = pipeline.plan(input, folder, boxes=boxes, overlays=chosen.overlays)
    detect = None if boxes else load_detector(chosen.detector, chosen.threshold)
    network = load_network(workdir, str(config.evaluate.checkpoint), config)
    pipeline.run(
        job,
        LandmarkPredictor(**network),
        detect,
        tta=chosen.tta.to_dict(),
        smoothing=chosen.smoothing.to_dict(),
        num_threads=config.data.num_threads,
    )
