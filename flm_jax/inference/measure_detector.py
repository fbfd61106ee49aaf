"""How well the detector's boxes do in the place of WFLW's rectangles.

    python -m flm_jax.inference.measure_detector RUN --root data/WFLW

prints, for the faces of both lists, the share that is found and how far the rectangles reach
beyond the detector's boxes (which `detector.RECTANGLE_MARGINS` is), and the NME of RUN's weights on
the test faces that are found: with their rectangles and with the detector's boxes, with and without
the map, from one look and from two.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from tqdm import tqdm

from flm_jax import geometry
from flm_jax.data import wflw
from flm_jax.data.images import read_record_image
from flm_jax.errors import InputError
from flm_jax.evaluation import metrics
from flm_jax.inference import detector, tta
from flm_jax.inference.predictor import Crops, LandmarkPredictor

_NO_MARGINS = (0.0, 0.0, 0.0, 0.0)

# A box is of the face whose landmarks' box it overlaps by this much, as intersection over union.
_SAME_FACE = 0.3


def match(
    found: Float[ndarray, "m 4"], landmarks: Float[ndarray, "98 2"]
) -> Float[ndarray, "4"] | None:
    """The box that overlaps the landmarks' own the most, or None if none does enough."""
    if not len(found):
        return None
    shares = detector.overlaps(found, geometry.bounding_box(landmarks))
    return found[shares.argmax()] if shares.max() >= _SAME_FACE else None


def detect_all(
    detect: detector.Detect, records: Sequence[wflw.Record], name: str
) -> Float[ndarray, "n 4"]:
    """The detector's box of every face, NaN where it finds none."""
    boxes = np.full((len(records), 4), np.nan, np.float32)
    for i, record in enumerate(tqdm(records, desc=name, unit="face")):
        box = match(detect(read_record_image(record)).boxes, record.landmarks)
        if box is not None:
            boxes[i] = box
    return boxes


def describe_boxes(records: Sequence[wflw.Record], boxes: Float[ndarray, "n 4"], name: str) -> str:
    """The share found, and the rectangles' margins around the boxes."""
    seen = np.isfinite(boxes).all(axis=1)
    rectangles = np.stack([record.box for record in records])[seen]
    margins = geometry.margins_around(boxes[seen], rectangles)
    median = ", ".join(f"{value:.3f}" for value in np.median(margins, axis=0))
    spread = ", ".join(f"{value:.3f}" for value in margins.std(axis=0))
    return (
        f"{name}: {seen.sum()} of {len(seen)} faces found ({100 * seen.mean():.1f} %); rectangles "
        f"beyond the boxes, left, top, right, bottom: median {median}, sd {spread}"
    )


def measure(workdir: Path, root: Path, faces: int) -> None:
    """Prints the figures.

    Args:
        workdir: of the trained weights.
        root: the data, in WFLW's layout.
        faces: of the training list, spread over it.
    """
    predictor = LandmarkPredictor.load(workdir)
    detect = detector.CenterFace(margins=_NO_MARGINS)
    train, test = (wflw.read_list(root, name) for name in (wflw.TRAIN_LIST, wflw.TEST_LIST))
    train = [train[i] for i in np.linspace(0, len(train) - 1, faces).astype(int)]
    print(describe_boxes(train, detect_all(detect, train, "training faces"), "training faces"))
    found = detect_all(detect, test, "test faces")
    print(describe_boxes(test, found, "test faces"))

    seen = np.isfinite(found).all(axis=1)
    records = [record for record, good in zip(test, seen, strict=True) if good]
    targets = np.stack([record.landmarks for record in records])
    rectangles = np.stack([record.box for record in records])
    mapped = geometry.add_margins(found[seen], np.array(detector.RECTANGLE_MARGINS))
    mapped = mapped.astype(np.float32)
    margins = np.array(wflw.RECTANGLE_MARGINS)
    print(f"NME % of {workdir} on the {len(records)} test faces found, one look and two:")
    for name, boxes in (
        ("WFLW's rectangles", rectangles),
        ("detector, as WFLW's rectangles", mapped),
        ("detector, its own boxes", found[seen]),
    ):
        first = _predict(predictor, records, boxes)
        second = _predict(predictor, records, tta.second_boxes(first, boxes, margins))
        errors = [100 * metrics.nme(points, targets).mean() for points in (first, second)]
        print(f"  {name:<32}{errors[0]:7.2f}{errors[1]:7.2f}")
    own = tta.mean_margins(rectangles, targets)
    print("rectangles beyond the landmarks' boxes: " + ", ".join(f"{value:.3f}" for value in own))


def _predict(predictor, records, boxes):
    crops = [
        predictor.cut(read_record_image(record), box[None])
        for record, box in zip(records, boxes, strict=True)
    ]
    joined = Crops(*map(np.concatenate, zip(*crops, strict=True)))
    return predictor.predict(joined).landmarks


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the detector's boxes on a data set.")
    parser.add_argument("workdir", type=Path, help="the work folder of trained weights")
    parser.add_argument("--root", type=Path, required=True, help="data in WFLW's layout")
    parser.add_argument("--faces", type=int, default=500, help="of the training list")
    arguments = parser.parse_args()
    try:
        measure(arguments.workdir, arguments.root, arguments.faces)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
