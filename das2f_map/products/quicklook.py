"""A picture of a pair: MS in true colour and PAN side by side, with nodata and mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from das2f_map.scene.bands import BandChoice, roles_of
from das2f_map.scene.survey import Thumbnail
from das2f_map.types import Bool, Float32

_INCHES = 6.0
"""Longer side of each image."""
_NODATA = "#f3f0e8"
_HATCH, _HATCH_INK = "/////", "#c9c2b0"
_MASKED = "#e83fa3"
_INK = "#22262b"


def draw_quicklook(
    path: Path, image: Thumbnail, colours: tuple[int, ...], ms_name: str, pan_name: str, *, dpi: int = 130
) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    path:
        Of the picture.
    image:
        What to draw.
    colours:
        MS bands to show as red, green and blue, or one to show in grey.
    ms_name, pan_name:
        Paths or addresses of the files; their last part goes above the images.
    """
    rows, cols = image.grid.height, image.grid.width
    width, height = _INCHES * cols / max(rows, cols), _INCHES * rows / max(rows, cols)
    width, height = max(width, 2.6), max(height, 0.6)
    foot, head, gap = 0.5, 0.42, 0.25
    figure = Figure(figsize=(2 * width + 3 * gap, height + foot + head))
    FigureCanvasAgg(figure)
    total = figure.get_size_inches()
    kind = "true colour" if len(colours) == 3 else "first band"
    for k, (bands, title) in enumerate(
        (
            (image.ms[list(colours)], f"MS, {kind}: {_short(ms_name)}"),
            (image.pan, f"PAN: {_short(pan_name)}"),
        )
    ):
        left = gap + k * (width + gap)
        axes = figure.add_axes((left / total[0], foot / total[1], width / total[0], height / total[1]))
        _draw(axes, bands, image.masked, title)
    invalid = ~(np.isfinite(image.ms).all(axis=0) & np.isfinite(image.pan[0]))
    handles = [
        Patch(facecolor=_NODATA, edgecolor=_HATCH_INK, hatch=_HATCH, label=f"no data {_percent(invalid)}")
    ]
    if image.masked.any():
        handles.append(Patch(facecolor=_MASKED, alpha=0.55, label=f"masked {_percent(image.masked)}"))
    figure.legend(handles=handles, loc="lower left", ncols=2, frameon=False, fontsize=9, labelcolor=_INK)
    figure.savefig(path, format="png", dpi=dpi, facecolor="white", metadata={"Software": "das2f-map"})


def true_colour(bands: Sequence[BandChoice]) -> tuple[int, ...]:
    """Positions of red, green and blue among bands that are read; the first alone if one is missing."""
    roles = [role or "" for role in roles_of([b.role for b in bands])]
    if {"red", "green", "blue"} <= set(roles):
        return tuple(roles.index(c) for c in ("red", "green", "blue"))
    return (0,)


def _draw(axes: Axes, bands: Float32, masked: Bool, title: str) -> None:
    axes.set_title(title, fontsize=9, color=_INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#b9bec5")
    axes.set_facecolor(_NODATA)
    axes.patch.set_hatch(_HATCH)
    axes.patch.set_edgecolor(_HATCH_INK)
    valid = np.isfinite(bands).all(axis=0)
    picture = np.zeros((*valid.shape, 4), dtype=np.float32)
    for k in range(3):
        band = bands[k if len(bands) == 3 else 0]
        seen = band[valid]
        if not seen.size:
            continue
        low, high = np.percentile(seen, (1.0, 99.0))
        stretched = (band - low) / max(float(high - low), 1e-9)
        # A little brighter than linear, as most land is dark beside clouds.
        picture[..., k] = np.nan_to_num(np.clip(stretched, 0.0, 1.0)) ** 0.8
    picture[..., 3] = valid
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    if masked.any():
        tint = np.zeros((*masked.shape, 4), dtype=np.float32)
        tint[masked] = (*(int(_MASKED[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.55)
        axes.imshow(tint, interpolation="nearest", aspect="auto")


def _percent(mask: Bool) -> str:
    share = 100 * float(mask.mean())
    return f"{share:.0f} %" if share == 0 or share >= 10 else f"{share:.1f} %"


def _short(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return last if len(last) <= 40 else f"…{last[-39:]}"
