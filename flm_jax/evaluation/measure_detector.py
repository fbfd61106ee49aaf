"""Compares the detector's boxes with WFLW's rectangles.

    python -m flm_jax.evaluation.measure_detector RUN DATA

prints how many of DATA's test faces the detector finds, how far their rectangles reach beyond its
boxes (`detector.RECTANGLE_MARGINS`), and the NME of RUN's weights by either.
"""

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flm_jax import geometry
from flm_jax.data import wflw
from flm_jax.data.images import read_record_image
from flm_jax.evaluation import metrics
from flm_jax.inference import detector
from flm_jax.inference.predictor import Crops, LandmarkPredictor

# A box is of the face whose landmarks' box it overlaps by this much, as intersection over union.
_SAME_FACE = 0.3


def measure(
    predictor: LandmarkPredictor, detect: detector.Detect, records: list[wflw.Record]
) -> str:
    """The figures, as text, for a detector without margins."""
    faces = []
    for record in tqdm(records, unit="face"):
        image = read_record_image(record)
        boxes = detect(image).boxes
        shares = detector.overlaps(boxes, geometry.bounding_box(record.landmarks))
        if len(boxes) and shares.max() >= _SAME_FACE:
            own = boxes[shares.argmax()]
            mapped = geometry.add_margins(own, np.array(detector.RECTANGLE_MARGINS))
            of_face = np.stack([record.box, own, mapped])
            crops = predictor.cut(image, detector.frame(of_face, predictor.box))
            faces.append((record.landmarks, of_face, crops))
    targets, of_faces, parts = zip(*faces, strict=True)
    joined = Crops(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    margins = np.array([geometry.margins_around(own, rectangle) for rectangle, own, _ in of_faces])
    points = predictor.predict(joined).landmarks.reshape(-1, 3, 98, 2)
    errors = [100 * metrics.nme(points[:, i], np.stack(targets)).mean() for i in range(3)]
    return (
        f"{len(faces)} of {len(records)} faces found\n"
        "rectangles beyond the boxes, left, top, right, bottom: "
        f"median {np.median(margins, axis=0).round(3)}, sd {margins.std(axis=0).round(3)}\n"
        "NME % with rectangles, the detector's boxes, and those as rectangles: "
        + ", ".join(f"{error:.2f}" for error in errors)
    )


if __name__ == "__main__":
    run, data = sys.argv[1:]
    centerface = detector.CenterFace(margins=(0, 0, 0, 0))
    test = wflw.read_list(Path(data), wflw.TEST_LIST)
    print(measure(LandmarkPredictor.load(run), centerface, test))
