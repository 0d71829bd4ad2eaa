"""The shift of every window as an arrow over PAN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from das2f_map.scene.grid import Grid
from das2f_map.scene.registration import ShiftReport
from das2f_map.scene.survey import Thumbnail

_AGREES, _AGAINST, _INK = "#ffd23f", "#ff3b6b", "#22262b"


def draw_shift(path: Path, image: Thumbnail, ms: Grid, report: ShiftReport, *, title: str) -> None:
    """Write a PNG with two panels: the shift of each window, and its difference from the common shift.

    Parameters
    ----------
    path:
        Path of the picture.
    image:
        Thumbnail with PAN.
    ms:
        Grid of the MS file; the windows are given in its pixels.
    report:
        The measured shift.
    title:
        Title above the panels.
    """
    rows, cols = image.grid.height, image.grid.width
    longer = max(rows, cols)
    width, height = max(3.2, 6.2 * cols / longer), max(2.0, 6.2 * rows / longer)
    figure = Figure(figsize=(2 * width + 0.8, height + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, color=_INK)
    own = np.array([(w.rows, w.cols) for w in report.windows]).reshape(-1, 2)
    left = np.array([(w.residual_rows, w.residual_cols) for w in report.windows]).reshape(-1, 2)
    agrees = np.array([w.agrees for w in report.windows], dtype=bool)
    centres = [
        image.grid.map_to_pixel(*ms.pixel_to_map(w.row + w.height / 2, w.col + w.width / 2))
        for w in report.windows
    ]
    place = np.array(centres).reshape(-1, 2)
    panels = (
        ("where PAN lies against MS", own),
        ("the same without the common shift" if len(own) else "nothing measured", left),
    )
    for axes, (what, arrows) in zip(figure.subplots(1, 2), panels, strict=True):
        seen = image.pan[0][np.isfinite(image.pan[0])]
        low, high = np.percentile(seen, (1, 99)) if seen.size else (0.0, 1.0)
        axes.imshow(image.pan[0], cmap="gray", vmin=low, vmax=max(high, low + 1e-9), alpha=0.75)
        axes.set_title(what, fontsize=9, color=_INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlim(0, cols)
        axes.set_ylim(rows, 0)
        if not len(arrows):
            continue
        # The key's arrow takes about a window. `scale` is thumbnail pixels per PAN pixel of shift.
        key = _round_up(float(np.hypot(*arrows.T).max()))
        scale = 0.09 * longer / key
        axes.plot(place[:, 1], place[:, 0], ".", color="black", markersize=3)
        quiver = None
        for which, colour in ((agrees, _AGREES), (~agrees, _AGAINST)):
            if which.any():
                quiver = axes.quiver(
                    place[which, 1],
                    place[which, 0],
                    arrows[which, 1] * scale,
                    arrows[which, 0] * scale,
                    color=colour,
                    angles="xy",
                    scale_units="xy",
                    scale=1,
                    width=0.005,
                    edgecolor="black",
                    linewidth=0.4,
                )
        if quiver is not None:
            axes.quiverkey(
                quiver,
                0.5,
                -0.06,
                key * scale,
                f"{key:g} PAN pixel{'' if key == 1 else 's'}",
                labelpos="E",
                color=_AGREES,
            )
    against = f"{int((~agrees).sum())} windows against it in red" if (~agrees).any() else "all windows agree"
    figure.supxlabel(against if len(own) else "", fontsize=8, color=_INK)
    figure.savefig(path, format="png", dpi=120, facecolor="white", metadata={"Software": "das2f-map"})


def _round_up(length: float) -> float:
    """The smallest number not below ``length`` and 0.01 that is 1, 2 or 5 times a power of ten."""
    length = max(length, 0.01)
    power = 10.0 ** np.floor(np.log10(length) + 1e-9)
    return float(next(k * power for k in (1, 2, 5, 10) if k * power >= length * (1 - 1e-9)))
