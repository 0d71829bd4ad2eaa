"""Picture of a calibration: accuracy by confidence, and how many pixels have each confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from das2f_map.assess.calibration import error_of
from das2f_map.bundle.card import ReliabilityBin

BEFORE, AFTER, GUIDE = "#9aa5b1", "#2f6fc4", "#888888"


def draw_reliability(
    path: Path, bins: Sequence[ReliabilityBin], *, before: Sequence[ReliabilityBin] = (), title: str = ""
) -> None:
    """Write a PNG of reliability bins.

    Parameters
    ----------
    path:
        Overwritten where it exists.
    bins:
        After calibration, at least one.
    before:
        The same pixels before calibration; drawn in grey where given.
    """
    figure = Figure(figsize=(6.5, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    pixels = sum(b.pixels for b in bins)
    figure.suptitle(f"{title + ': ' if title else ''}confidence on {pixels:,} held-out pixels")
    accuracy, share = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    accuracy.plot([0, 1], [0, 1], color=GUIDE, linestyle=":", label="confidence = accuracy")
    drawn = [(bins, AFTER, "calibrated" if before else "network")]
    if before:
        drawn.insert(0, (before, BEFORE, "not calibrated"))
    for chosen, colour, name in drawn:
        _series(accuracy, share, chosen, colour, name)
    accuracy.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    accuracy.legend(loc="upper left")
    share.set(xlabel="mean confidence of a bin", ylabel="pixels")
    for axis in (accuracy, share):
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")


def _series(accuracy: Axes, share: Axes, bins: Sequence[ReliabilityBin], colour: str, name: str) -> None:
    pixels = sum(b.pixels for b in bins)
    confidences = [b.confidence for b in bins]
    error = error_of(tuple(bins))
    accuracy.plot(
        confidences,
        [b.accuracy for b in bins],
        color=colour,
        marker="o",
        label=f"{name}: calibration error {100 * error:.1f} %",
    )
    share.vlines(confidences, 0, [b.pixels / pixels for b in bins], color=colour, linewidth=5, alpha=0.7)
    share.set_ylim(bottom=0)
