"""Plots: landmarks on faces, loss curves, error curves. Matplotlib, on the host."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.collections
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from flm_jax.landmarks import PARTS


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
        landmarks: pixels of the crops; those outside are left out.
        titles: above each face.
        targets: the truth, pixels of the crops; None: not drawn.
    """
    columns, dot, top = (8, 2, 0.0) if targets is None else (6, 3, 0.45)  # Inches of legend.
    columns, size = min(columns, len(crops)), len(crops[0])
    gap, title = max(2, size // 32), size // 10  # px of the crops
    rows = -(-len(crops) // columns)
    # One image and one axes for all: an axes for each takes seconds.
    mosaic = np.full((rows * (size + title), columns * (size + gap), 3), 255, np.uint8)
    starts = [
        (i % columns * (size + gap) + gap // 2, i // columns * (size + title) + title)
        for i in range(len(crops))
    ]
    for (left, upper), crop in zip(starts, crops, strict=True):
        mosaic[upper : upper + size, left : left + size] = crop
    width = 2.2 * columns
    height = width * mosaic.shape[0] / mosaic.shape[1] + top
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1 - top / height))
    axes.set_axis_off()
    axes.imshow(mosaic, interpolation="bilinear", aspect="auto")
    for (left, upper), text in zip(starts, titles, strict=True):
        axes.text(left + size / 2, upper - 0.02 * size, text, fontsize=8, ha="center", va="bottom")

    def placed(points):
        inside = ((points >= -0.5) & (points < size - 0.5)).all(axis=-1, keepdims=True)
        return np.where(inside, points, np.nan) + np.array(starts)[:, None]

    if targets is not None:
        _draw_lines(axes, placed(targets))
        _add_legend(figure)
    colours = np.zeros((98, 3))
    for part in PARTS:
        colours[list(part.indices)] = part.colour
    x, y = placed(landmarks).reshape(-1, 2).T
    axes.scatter(
        x,
        y,
        s=dot**2,
        color=np.tile(colours, (len(crops), 1)),
        linewidths=0.25 * dot**0.5,
        edgecolors="black",
        zorder=3,
    )
    figure.savefig(path, pil_kwargs={"compress_level": 3})  # A third of the time.


def _draw_lines(axes, faces) -> None:
    """White lines along the parts of all faces, and crosses where a part is one point."""
    lines = []
    for part in PARTS:
        points = faces[:, [*part.indices, *part.indices[: int(part.closed)]]]
        if len(part.indices) == 1:
            axes.scatter(*points[:, 0].T, s=20, marker="+", color="white", zorder=2)
        else:
            lines += list(points)
    for colour, width in (((0, 0, 0, 0.5), 1.6), ("white", 0.8)):
        collection = matplotlib.collections.LineCollection(lines, colors=[colour], zorder=2)
        collection.set_linewidth(width)
        axes.add_collection(collection, autolim=False)


def _add_legend(figure) -> None:
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
        borderpad=0.1,
    )


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
