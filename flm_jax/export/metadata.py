"""The description that goes with an exported network: how to use it, and how good it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from flm_jax import landmarks

_NORMALISATION = "value * 2 / 255 - 1, of 8-bit values"
_CROP_RULE = (
    "the face's box (xmin, ymin, xmax, ymax), moved outwards by `margin` pixels, its sides times "
    "`factor`, if `square` the square with the longer side; then x = xmin + (u + 0.5) * (xmax - "
    "xmin) / size, and y alike, takes the input's pixel u to the image's; bilinear, black outside; "
    "where it shrinks by more than 1.5, the image is area-reduced first"
)
_MARGINS_RULE = (
    "of such a box around the landmarks: left, top, right, bottom, in widths and heights of theirs"
)
_POINTS = "x and y in pixels of the input, (0, 0) the centre of the top-left pixel"


def describe(
    *,
    input_name: str,
    image_size: int,
    box: str,
    crop: Mapping[str, Any],
    margins: Float[ndarray, "4"],
    mean_shape: Float[ndarray, "98 2"],
    outputs: Mapping[str, Sequence[int]],
    pixel_outputs: Sequence[str],
    **further: Any,
) -> dict[str, Any]:
    """The metadata, as JSON holds them.

    Args:
        input_name: what the files call their input.
        image_size: the side of it.
        box: which box the crop is made from, one of `crop.BOXES`.
        crop: keywords of `crop.crop_box`.
        margins: of the training's boxes around the landmarks, in widths and heights of theirs.
        mean_shape: of the training's faces, in sides of their boxes.
        outputs: their shapes by name, without the batch.
        pixel_outputs: which of them are lengths in pixels of the input, beside the landmarks.
        further: sections that go in as they are.
    """
    shapes = {
        name: f"f32[{', '.join(['batch', *map(str, shape)])}]" for name, shape in outputs.items()
    }
    shapes["landmarks"] += f": {_POINTS}"
    return {
        "input": {
            "name": input_name,
            "size": image_size,
            "layout": "f32[batch, row, column, channel], RGB",
            "normalisation": _NORMALISATION,
        },
        "crop": {
            "box": box,
            **crop,
            "rule": _CROP_RULE,
            "margins": margins.round(4).tolist(),
            "margins_rule": _MARGINS_RULE,
        },
        "outputs": shapes,
        "pixel_outputs": list(pixel_outputs),
        "landmarks": {
            "layout": "WFLW, 98 points",
            "parts": [part._asdict() for part in landmarks.PARTS],
            "mirror": landmarks.MIRROR.tolist(),
            "mean_shape": mean_shape.round(4).tolist(),
        },
        **further,
    }
