import cv2
import matplotlib.axes
import numpy as np
import pytest

from flm_jax.evaluation import plots
from flm_jax.landmarks import PARTS


def read(path):
    return cv2.imread(str(path))[..., ::-1].astype(int)


def count_near(image, colour, tolerance=12):
    colour = np.round(255 * np.array(colour))
    return int((abs(image - colour).max(axis=-1) <= tolerance).sum())


def grid_points(size):
    """98 points well inside a picture, apart from one another."""
    side = np.linspace(0.1, 0.9, 10) * size
    return np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)[:98].astype(np.float32)


def test_every_part_is_drawn_in_its_colour_and_truth_in_white(tmp_path):
    crops = [np.full((256, 256, 3), 100, np.uint8)] * 3
    points = np.stack([grid_points(256)] * 3)
    path = tmp_path / "predictions.png"
    plots.draw_predictions(path, crops, points, points + 8, ["a", "b", "c"], columns=2)
    image = read(path)
    for part in PARTS:
        assert count_near(image, part.colour) > 20
    assert count_near(image[:, : image.shape[1] // 2], (100 / 255,) * 3) > 20_000


def test_a_point_is_drawn_where_it_is(tmp_path):
    """The prediction of one face fills the figure: its dots must lie on the picture's own marks."""
    points = grid_points(256)
    marked = np.zeros((256, 256, 3), np.uint8)
    for x, y in points:
        cv2.circle(marked, (round(x), round(y)), 9, (255, 0, 255), -1)
    path = tmp_path / "layout.png"
    plots.draw_layout(path, marked, points)
    image = read(path)
    # Where a dot lies beside its mark, the mark's own middle would still be magenta.
    scale = image.shape[0] / 256
    middles = ((points + 0.5) * scale).round().astype(int)
    magenta = [count_near(image[y : y + 1, x : x + 1], (1, 0, 1)) for x, y in middles]
    assert sum(magenta) == 0


@pytest.fixture
def rows():
    steps = [{"step": 5 * i, "loss": 1.0} for i in range(10)]
    epochs = [
        {"step": 10 * i, "epoch": i, "training_loss": 30 / i, "validation_loss": 20 + 10 / i}
        for i in range(1, 8)
    ]
    return steps + epochs


def test_training_is_blue_and_validation_red(tmp_path, rows):
    path = tmp_path / "loss_curve.png"
    plots.draw_loss_curve(path, rows)
    image = read(path)
    blue, red = ((31, 119, 180), (214, 39, 40))
    # The training loss ends far below the validation loss.
    lowest = [
        np.flatnonzero((abs(image - colour).max(axis=-1) < 12).any(axis=1)).max()
        for colour in (blue, red)
    ]
    assert lowest[0] > lowest[1] + 100


def test_a_loss_curve_needs_no_epoch(tmp_path):
    plots.draw_loss_curve(tmp_path / "loss_curve.png", [{"step": 1, "loss": 2.0}])
    assert (tmp_path / "loss_curve.png").stat().st_size > 0


def test_an_error_curve_counts_the_faces_up_to_each_error(tmp_path, monkeypatch):
    drawn = []
    stairs = matplotlib.axes.Axes.stairs
    monkeypatch.setattr(
        matplotlib.axes.Axes,
        "stairs",
        lambda self, *args, **kw: (drawn.append(args), stairs(self, *args, **kw))[1],
    )
    errors = {"one": np.array([0.08, 0.02, 0.30, 0.04])}
    plots.draw_error_curves(tmp_path / "ced.png", errors)
    [(shares, edges)] = drawn
    for threshold in (3, 5, 10, 31):
        step = np.searchsorted(edges, threshold) - 1
        assert shares[step] == 100 * (errors["one"] <= threshold / 100).mean()
    assert (tmp_path / "ced.png").stat().st_size > 5000
