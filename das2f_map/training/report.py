"""One picture of a training: curves, confusion matrix and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from das2f_map.assess.confusion_matrix import ConfusionMatrix, percent
from das2f_map.training.assessment import Assessment
from das2f_map.training.folds import Folds

History = Sequence[dict[str, Any]]
"""Figures at every check."""


def draw_training(
    path: Path,
    assessed: Mapping[str, History],
    final: History,
    assessment: Assessment | None,
    folds: Folds | None,
    *,
    title: str,
) -> None:
    """Write a PNG: losses and held-out accuracy by step, confusion matrix, map of the folds.

    Parameters
    ----------
    assessed:
        Checks of each training with held-out ground, by its name.
    final:
        Checks of the final training.
    assessment, folds:
        ``None`` where no ground was held out.
    """
    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _losses(axes[0, 0], assessed, final)
    if assessment is None or folds is None:
        figure.suptitle(f"{title}: not assessed")
        for axis in (axes[0, 1], axes[1, 0], axes[1, 1]):
            axis.set_axis_off()
    else:
        matrix = assessment.matrix
        kappa = "–" if matrix.kappa is None else f"{matrix.kappa:.3f}"
        figure.suptitle(
            f"{title}: on {matrix.total:,} held-out pixels OA {percent(matrix.overall_accuracy)}, "
            f"AA {percent(matrix.average_accuracy)}, kappa {kappa}"
        )
        _accuracies(axes[1, 0], assessed, assessment, final[-1]["steps"])
        _matrix(axes[0, 1], matrix)
        _folds(axes[1, 1], folds)
    figure.savefig(path, dpi=110)


def _losses(axis: Axes, assessed: Mapping[str, History], final: History) -> None:
    for name, history in assessed.items():
        steps = [h["steps"] for h in history]
        held = [h["held_out_loss"] for h in history]
        (line,) = axis.plot(steps, held, marker="o", label=f"{name}, held out")
        axis.plot(steps, [h["loss"] for h in history], color=line.get_color(), linestyle=":", alpha=0.7)
    steps, losses = [h["steps"] for h in final], [h["loss"] for h in final]
    axis.plot(steps, losses, color="black", linestyle=":", label="all labels")
    _finish(axis, "cross-entropy; dotted: on training patches")


def _accuracies(axis: Axes, assessed: Mapping[str, History], assessment: Assessment, steps: int) -> None:
    for name, history in assessed.items():
        values = [h["held_out_overall_accuracy"] for h in history]
        axis.plot([h["steps"] for h in history], values, marker="o", label=name)
    axis.axvline(steps, color="#888888", linestyle=":", label=f"chosen: {steps:,} steps")
    _finish(axis, "overall accuracy on held-out ground")


def _finish(axis: Axes, label: str) -> None:
    axis.set_ylabel(label)
    axis.set_xlabel("steps")
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
    axis.set_title("held-out pixels; shading: share of the reference class")
    if len(names) <= 15:
        for (row, col), count in np.ndenumerate(matrix.counts):
            colour = "white" if shares[row, col] > 0.55 else "black"
            axis.text(col, row, f"{int(count):,}", ha="center", va="center", color=colour, fontsize=8)


def _folds(axis: Axes, folds: Folds) -> None:
    """The first scene's labelled pixels by fold."""
    limit = 20_000
    pixels = folds.pixels
    for number in range(folds.count):
        here = np.flatnonzero((folds.of_pixel == number) & (pixels.scene == pixels.scene[0]))
        step = max(1, here.size // limit)
        axis.scatter(
            pixels.cols[here][::step],
            pixels.rows[here][::step],
            s=3,
            linewidths=0,
            label=f"fold {number + 1}, {here.size:,}",
        )
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_xlabel("column")
    axis.set_ylabel("row")
    axis.set_title(f"labelled MS pixels; training pixels lie at least {folds.gap} from held-out ones")
    axis.legend(markerscale=4, loc="center left", bbox_to_anchor=(1.02, 0.5))
