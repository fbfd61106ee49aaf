import cv2
import numpy as np

from flm_jax.evaluation import plots
from flm_jax.landmarks import PARTS


def read(path):
    return cv2.imread(str(path))[..., ::-1].astype(int)


def find(image, colour):
    return (abs(image - np.round(255 * np.array(colour))).max(axis=-1) <= 12).nonzero()


def test_every_part_is_drawn_in_its_colour_where_it_is(tmp_path):
    side = np.linspace(0.1, 0.9, 10) * 256
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)[:98].astype(np.float32)
    crops = [np.full((256, 256, 3), 100, np.uint8)] * 3
    path = tmp_path / "predictions.png"
    faces = np.stack([points] * 3)
    plots.draw_faces(path, crops, faces, ["a", "b", "c"], targets=faces + 8)
    image = read(path)
    for part in PARTS:
        assert len(find(image, part.colour)[0]) > 20
    rows, columns = find(image, (100 / 255,) * 3)
    assert len(rows) > 60_000
    # The first crop is where columns and rows are grey: a pupil's dot lies on its point.
    left, top = (np.flatnonzero(np.bincount(axis) > 99)[0] for axis in (columns, rows))
    scale = np.count_nonzero(np.bincount(rows) > 99) / 256
    x, y = ([left, top] + (points[97] + 0.5) * scale).astype(int)
    np.testing.assert_allclose(image[y, x], 255 * np.array(PARTS[-1].colour), atol=30)


def test_training_is_blue_and_validation_red(tmp_path):
    rows = [{"step": 5 * i, "loss": 1.0} for i in range(10)]
    path = tmp_path / "loss_curve.png"
    plots.draw_loss_curve(path, rows)  # Without an epoch.
    rows += [
        {"step": 10 * i, "epoch": i, "training_loss": 30 / i, "validation_loss": 20 + 10 / i}
        for i in range(1, 8)
    ]
    plots.draw_loss_curve(path, rows)
    # The training loss ends far below the validation loss.
    blue, red = (
        find(read(path), np.array(colour) / 255)[0].max()
        for colour in ([31, 119, 180], [214, 39, 40])
    )
    assert blue > red + 100
