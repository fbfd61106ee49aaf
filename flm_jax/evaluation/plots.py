"""Plots: landmarks on faces, loss curves, error curves. Matplotlib, on the host."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax.landmarks import PARTS


def _draw_landmarks(axes, landmarks, size, filled=True) -> None:
    """Marks 98 points, as dots coloured by face part or as thin white lines along the parts; a dot
    has a diameter of `size` typographic points."""
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
        axes.imshow(crop, interpolation="bilinear")
        axes.set(xlim=(-0.5, len(crop) - 0.5), ylim=(len(crop) - 0.5, -0.5))
        if targets is not None:
            _draw_landmarks(axes, targets[i], size, filled=False)
        _draw_landmarks(axes, landmarks[i], size)
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
