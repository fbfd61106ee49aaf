"""Compares the detector's boxes with WFLW's rectangles.

    python -m flm_jax.evaluation.measure_detector RUN --root data/WFLW

prints the share of the test faces that the detector finds, how far their rectangles reach beyond
its boxes (`detector.RECTANGLE_MARGINS`), and the NME of RUN's weights by each kind of box, with one
pass and with two.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flm_jax import geometry
from flm_jax.data import wflw
from flm_jax.data.images import read_record_image
from flm_jax.evaluation import metrics
from flm_jax.inference import detector, tta
from flm_jax.inference.crops import join_crops
from flm_jax.inference.predictor import LandmarkPredictor

# A box is of the face whose landmarks' box it overlaps by this much, as intersection over union.
_SAME_FACE = 0.3


def measure(predictor: LandmarkPredictor, detect: detector.Detect, root: Path) -> str:
    """The figures, as text; `detect` gives the detector's boxes without margins."""
    records, boxes = [], []
    test = wflw.read_list(root, wflw.TEST_LIST)
    for record in tqdm(test, unit="face"):
        found = detect(read_record_image(record)).boxes
        shares = detector.overlaps(found, geometry.bounding_box(record.landmarks))
        if len(found) and shares.max() >= _SAME_FACE:
            records.append(record)
            boxes.append(found[shares.argmax()])
    own, rectangles = np.stack(boxes), np.stack([record.box for record in records])
    targets = np.stack([record.landmarks for record in records])
    mapped = geometry.add_margins(own, np.array(detector.RECTANGLE_MARGINS)).astype(np.float32)
    margins = geometry.margins_around(own, rectangles)

    def predict(boxes, flip):
        pairs = zip(records, boxes, strict=True)
        crops = [predictor.cut(read_record_image(record), box[None]) for record, box in pairs]
        return predictor.predict(join_crops(crops)).landmarks

    off: dict = {"flip": False, "extra_crops": 0, "box_noise": 0.0}
    lines = [
        f"{len(records)} of {len(test)} faces found",
        f"rectangles beyond the boxes, left, top, right, bottom: median "
        f"{np.median(margins, axis=0).round(3)}, sd {margins.std(axis=0).round(3)}",
        "NME % with one pass and with two:",
    ]
    for name, each in (
        ("rectangles", rectangles),
        ("detector's boxes", own),
        ("the same, as rectangles", mapped),
    ):
        around = np.array(wflw.RECTANGLE_MARGINS)
        for_passes = (
            tta.predict_with_tta(predict, each, around, two_pass=two_pass, **off)
            for two_pass in (False, True)
        )
        errors = [100 * metrics.nme(points, targets).mean() for points in for_passes]
        lines.append(f"  {name:<24}{errors[0]:7.2f}{errors[1]:7.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the detector's boxes on a data set.")
    parser.add_argument("workdir", type=Path, help="the work folder of trained weights")
    parser.add_argument("--root", type=Path, required=True, help="data in WFLW's layout")
    arguments = parser.parse_args()
    detect = detector.CenterFace(margins=(0, 0, 0, 0))
    print(measure(LandmarkPredictor.load(arguments.workdir), detect, arguments.root))


if __name__ == "__main__":
    main()
