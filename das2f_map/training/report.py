"""One picture of a training: curves, confusion matrix and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.training.split import Split

_PART_COLOURS = {"train": "#2f6fc4", "validation": "#f28e2b", "test": "#c2392f"}


def draw_training(
    path: Path, history: list[dict[str, Any]], matrix: ConfusionMatrix, split: Split, *, title: str
) -> None:
    """Write a PNG: loss and validation accuracy by epoch, test confusion matrix, map of the parts."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    kappa = "–" if matrix.kappa is None else f"{matrix.kappa:.3f}"
    figure.suptitle(
        f"{title}: on {matrix.total:,} held-out test pixels OA {percent(matrix.overall_accuracy)}, "
        f"AA {percent(matrix.average_accuracy)}, kappa {kappa}"
    )
    axes = figure.subplots(2, 2)
    _curves(axes[0, 0], axes[1, 0], history)
    _matrix(axes[0, 1], matrix)
    _parts(axes[1, 1], split)
    figure.savefig(path, dpi=110)


def _curves(loss: Axes, accuracy: Axes, history: list[dict[str, Any]]) -> None:
    epochs = [h["epoch"] for h in history]
    marker = "o" if len(epochs) < 3 else ""
    loss.plot(epochs, [h["loss"] for h in history], marker=marker, label="training")
    loss.plot(epochs, [h["validation_loss"] for h in history], marker=marker, label="validation")
    loss.set_ylabel("cross-entropy")
    for key, label in (
        ("validation_overall_accuracy", "overall accuracy"),
        ("validation_average_accuracy", "average accuracy"),
        ("validation_kappa", "kappa"),
    ):
        values = [np.nan if h[key] is None else h[key] for h in history]
        accuracy.plot(epochs, values, marker=marker, label=label)
    accuracy.set_ylabel("on validation pixels")
    best = max((h["epoch"] for h in history if h["best"]), default=None)
    for axis in (loss, accuracy):
        if best is not None:
            axis.axvline(best, color="#888888", linestyle=":", label=f"kept: epoch {best}")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()


def _matrix(axis: Axes, matrix: ConfusionMatrix) -> None:
    names = list(matrix.legend.names)
    sums = np.maximum(1, matrix.counts.sum(axis=1, keepdims=True))
    shares = matrix.counts / sums
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("mapped as")
    axis.set_ylabel("reference")
    axis.set_title("test pixels; shading: share of the reference class")
    if len(names) <= 15:
        for (row, col), count in np.ndenumerate(matrix.counts):
            colour = "white" if shares[row, col] > 0.55 else "black"
            axis.text(col, row, f"{int(count):,}", ha="center", va="center", color=colour, fontsize=8)


def _parts(axis: Axes, split: Split) -> None:
    limit = 20_000
    for name, table in split.parts.items():
        step = max(1, len(table) // limit)
        axis.scatter(
            table.cols[::step],
            table.rows[::step],
            s=3,
            linewidths=0,
            color=_PART_COLOURS[name],
            label=f"{name}, {len(table):,}",
        )
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_xlabel("column")
    axis.set_ylabel("row")
    axis.set_title(f"labelled MS pixels; parts at least {split.gap} pixels apart")
    axis.legend(markerscale=4, loc="center left", bbox_to_anchor=(1.02, 0.5))
