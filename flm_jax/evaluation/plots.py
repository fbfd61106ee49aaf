"""Plots: landmarks on faces, the layout of the 98 points, loss and error curves. On the host.

`python -m flm_jax.evaluation.plots FILE.png` draws the layout.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax.landmarks import PARTS


def draw_landmarks(
    axes, landmarks: Float[ndarray, "98 2"], *, size: float, filled: bool = True
) -> None:
    """Marks 98 points on an axes that shows their image.

    Args:
        axes: of matplotlib.
        landmarks: pixels of the image on the axes.
        size: diameter of a point, in typographic points.
        filled: dots coloured by face part; otherwise thin white lines along the parts.
    """
    for part in PARTS:
        points = landmarks[list(part.indices)]
        if filled:
            style = {"s": size**2, "linewidths": 0.25 * size**0.5, "edgecolors": "black"}
            axes.scatter(*points.T, color=[part.colour], zorder=3, **style)
        elif len(points) == 1:
            axes.plot(*points.T, "+", color="white", markersize=1.5 * size, zorder=2)
        else:
            points = np.vstack([points, points[:1]]) if part.closed else points
            axes.plot(*points.T, color="black", linewidth=1.6, alpha=0.5, zorder=2)
            axes.plot(*points.T, color="white", linewidth=0.8, zorder=2)


def draw_faces(
    path: Path,
    crops: Sequence[UInt8[ndarray, "s s 3"]],
    landmarks: Float[ndarray, "n 98 2"],
    titles: Sequence[str],
    *,
    targets: Float[ndarray, "n 98 2"] | None = None,
) -> None:
    """A grid of faces with landmarks as dots coloured by face part, and the truth as white lines.

    Args:
        path: of the PNG.
        crops: RGB images of the faces, all of one size.
        landmarks: pixels of the crops.
        titles: above each face.
        targets: the truth, pixels of the crops; None: not drawn.
    """
    columns, size, top = (8, 2, 0.17) if targets is None else (6, 3, 0.62)  # Inches on top.
    columns = min(columns, len(crops))
    rows = -(-len(crops) // columns)
    height = 2.36 * rows + top - 0.17
    figure = matplotlib.figure.Figure(figsize=(2.2 * columns, height), dpi=130)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - top / height, 0.03, 0.11)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (axes, crop) in enumerate(zip(grid.flat, crops, strict=False)):
        _show(axes, crop)
        if targets is not None:
            draw_landmarks(axes, targets[i], size=size, filled=False)
        draw_landmarks(axes, landmarks[i], size=size)
        axes.set_title(titles[i], fontsize=8, pad=2)
    if targets is not None:
        colours = {part.group: part.colour for part in PARTS}
        handles = [
            matplotlib.lines.Line2D([], [], marker="o", linestyle="", color=colour, label=group)
            for group, colour in colours.items()
        ]
        handles.append(matplotlib.lines.Line2D([], [], color="0.75", label="truth (white lines)"))
        figure.legend(
            handles=handles,
            loc="upper center",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
            title="prediction (dots)",
            title_fontsize=9,
        )
    figure.savefig(path)


def unnormalise(images: Float[ndarray, "*b s s 3"]) -> UInt8[ndarray, "*b s s 3"]:
    """Normalised RGB images as 8-bit ones."""
    return np.round(127.5 * (images + 1)).astype(np.uint8)


def draw_layout(path: Path, image: UInt8[ndarray, "h w 3"], landmarks: Float[ndarray, "98 2"]):
    """The 98 points with their indices on a face; pixels of the RGB image."""
    height, width = image.shape[:2]
    figure = matplotlib.figure.Figure(figsize=(8, 8 * height / width), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _show(axes, image)
    draw_landmarks(axes, landmarks, size=5)
    for part in PARTS:
        points = landmarks[list(part.indices)]
        # Numbers stand away from the middle of their part; inside of the mouth, towards it.
        middle = landmarks[51:55] if part.group == "contour" else points
        side = -1 if part.indices[0] == 88 else 1
        for index, point in zip(part.indices, points, strict=True):
            away = side * (point - middle.mean(axis=0))
            away = away / max(np.linalg.norm(away), 1e-6) if len(points) > 1 else np.array([0, -1])
            axes.annotate(
                str(index),
                point,
                xytext=(11 * away[0], -11 * away[1]),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7,
                color="white",
                bbox={"boxstyle": "round,pad=0.1", "fc": "black", "ec": "none", "alpha": 0.55},
            )
    figure.savefig(path)


def draw_loss_curve(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Training loss (blue) and validation loss (red) over the epochs.

    Args:
        path: of the PNG.
        rows: lines of `metrics.jsonl`; those of an epoch have `epoch`.
    """
    epochs = [row for row in rows if "epoch" in row]
    figure = matplotlib.figure.Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    numbers = [row["epoch"] for row in epochs]
    marker = "o" if len(epochs) < 3 else None
    for name, colour in (("training_loss", "tab:blue"), ("validation_loss", "tab:red")):
        values = [row[name] for row in epochs]
        axes.plot(numbers, values, color=colour, marker=marker, label=name.replace("_", " "))
    axes.set(xlabel="epoch", ylabel="loss (mean over coordinates)")
    axes.set_yscale("log")  # The first epochs would flatten the rest.
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(path)


def draw_error_curves(path: Path, errors: dict[str, Float[ndarray, " n"]]) -> None:
    """Cumulative error distribution: the share of faces whose NME is at most the abscissa.

    Args:
        path: of the PNG.
        errors: each face's NME as a fraction, by the name of its curve.
    """
    figure = matplotlib.figure.Figure(figsize=(6, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for name, values in errors.items():
        steps = np.arange(len(values) + 1) / len(values)
        edges = 100 * np.concatenate([np.sort(values), [np.inf]])
        axes.stairs(100 * steps[1:], np.minimum(edges, 100), baseline=None, label=name)
    axes.axvline(10, color="0.4", linewidth=1, linestyle=":", label="failures lie to the right")
    axes.set(xlim=(0, 20), ylim=(0, 100), xlabel="NME %", ylabel="faces %")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path)


def _show(axes, image) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, interpolation="bilinear")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def main(path: str) -> None:
    """Draws the layout on a drawn head."""
    from flm_jax.drawing.parameters import HeadParameters
    from flm_jax.drawing.render import render_head

    head = render_head(HeadParameters(mouth_open=0.55, texture=0.3), 640)
    colour, alpha = head.tile[..., :3], head.tile[..., 3:]
    image = (colour + (1 - alpha / 255) * 226).astype(np.uint8)
    # From the brows down, with some room: the rest of the head has no landmarks.
    left, top = np.maximum(head.landmarks.min(axis=0) - 70, 0).astype(int)
    right, bottom = (head.landmarks.max(axis=0) + 70).astype(int)
    draw_layout(Path(path), image[top:bottom, left:right], head.landmarks - [left, top])


if __name__ == "__main__":
    main(sys.argv[1])
