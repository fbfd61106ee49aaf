"""Where a network fails, on drawn heads that differ in one thing at a time.

    python -m flm_jax.evaluation.measure_limits [NETWORK]

prints the error by skin tone, yaw, size in the image and blur, of the network of the package or of
another (an exported file or a work folder). The same heads stand in every row of a table.
"""

import dataclasses
import sys
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax import geometry
from flm_jax.data.wflw import RECTANGLE_MARGINS
from flm_jax.drawing import camera, scene
from flm_jax.drawing.parameters import HeadParameters, Light
from flm_jax.drawing.render import render_head
from flm_jax.drawing.sampling import sample_head
from flm_jax.inference.exported import SHIPPED
from flm_jax.inference.predictor import LandmarkPredictor

_HEADS = 100  # of each row
_WIDTH = 110  # px of the face, but for the sizes

# RGB, from the lightest to the darkest that are drawn.
_SKINS = {"light": (250, 214, 190), "medium": (205, 152, 118), "dark": (96, 62, 46)}
_YAWS = (0, 20, 40, 60, 75, 90)  # degrees
_SIZES = (160, 80, 40, 20, 12)  # px between the outermost landmarks
_BLURS = (0.0, 0.02, 0.04, 0.08)  # the Gaussian's std, in widths of the face


def main(network: str) -> None:
    predictor = LandmarkPredictor.load(network)
    tables: dict[str, dict[str, dict[str, Any]]] = {
        "skin": {name: {"skin": colour} for name, colour in _SKINS.items()},
        "yaw": {f"{yaw} degrees": {"yaw": yaw} for yaw in _YAWS},
        "size": {f"{width} px": {"width": width} for width in _SIZES},
        "blur": {f"{blur:g} of the width": {"blur": blur} for blur in _BLURS},
    }
    print(f"mean error in % of the face's size, over {_HEADS} heads each")
    for table, rows in tables.items():
        for row, changes in rows.items():
            errors = [_error(predictor, seed, **changes) for seed in range(_HEADS)]
            half = 1.96 * np.std(errors) / np.sqrt(_HEADS)
            print(f"{table:<6}{row:<20}{np.mean(errors):6.2f} +- {half:.2f}")


def _error(predictor: LandmarkPredictor, seed: int, **changes) -> float:
    """The mean distance of a head's points from the truth, in % of the geometric mean of the sides
    of their box: unlike the distance of the eye corners, it hardly changes with the yaw."""
    image, truth = _draw(seed, **changes)
    box = geometry.add_margins(geometry.bounding_box(truth), np.array(RECTANGLE_MARGINS))
    (found,) = predictor(image, box[None].astype(np.float32))
    size = np.sqrt(np.ptp(truth, axis=0).prod())
    return float(100 * np.linalg.norm(found - truth, axis=1).mean() / size)


def _draw(
    seed: int, *, width: float = _WIDTH, blur: float = 0.0, **changes
) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "98 2"]]:
    """A head of the seed in usual light, RGB, and its landmarks."""
    rng = np.random.default_rng([seed, 7])
    sampled = sample_head(rng, Light())
    frontal = dataclasses.replace(
        sampled, yaw=rng.normal(0, 8), scarf=0.0, strands=0, shadow=(0, 0, 0)
    )
    parameters: HeadParameters = dataclasses.replace(frontal, **changes)
    head = render_head(parameters, width)
    low, high = head.landmarks.min(axis=0), head.landmarks.max(axis=0)
    size = np.ceil(2.2 * (high - low)).astype(int)
    corner = np.round(size / 2 - (low + high) / 2).astype(int)
    image = scene.background(rng, int(size[1]), int(size[0]))
    scene.draw_clothes(rng, image, head.neck + corner, head.unit, parameters)
    scene.paste(image, head, *corner.tolist())
    image = camera.expose(image, parameters.light)
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur * width)
    return image, head.landmarks + corner.astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(SHIPPED))
