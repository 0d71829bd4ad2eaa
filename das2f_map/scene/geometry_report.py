"""The geometry of a pair in words and figures: overlap, resampling, shift."""

from __future__ import annotations

from typing import Any

from das2f_map.scene.pair import ScenePair
from das2f_map.scene.registration import Decision, ShiftReport


def overlap(pair: ScenePair) -> dict[str, float]:
    """Part of each image in the common grid, by area from the pixel sizes, and its size in km²."""
    ms, pan = pair.sources
    grid = pair.grids.ms
    area = abs(grid.transform.determinant) * grid.height * grid.width
    ms_area = abs(ms.grid.transform.determinant) * ms.grid.height * ms.grid.width
    # PAN may be in another CRS with other units: metres for both there.
    in_metres = grid.height * grid.width * pair.ms_gsd_m**2
    pan_area = pan.grid.height * pan.grid.width * pair.pan_gsd_m**2
    return {
        "ms_share": _rounded(min(1.0, area / ms_area)),
        "pan_share": _rounded(min(1.0, in_metres / pan_area)),
        "km2": _rounded(in_metres / 1e6),
    }


def _rounded(value: float) -> float:
    """Four decimals, of small values four digits: a single pixel in common is not nothing."""
    return round(value, 4) if value >= 1 else float(f"{value:.4g}")


def alignment(pair: ScenePair, *, nested: bool) -> str:
    """What is resampled; ``nested``: without the shift that is corrected, nothing would be."""
    if nested and pair.strategy != "native":
        return (
            "MS and PAN pixels nest 4 : 1; MS is read as it is, PAN is resampled once, for the shift of its "
            "content"
        )
    return {
        "native": "MS and PAN pixels nest 4 : 1, both are read as they are",
        "ms-to-pan-grid": "MS is resampled once to 4 × 4 PAN pixels, PAN is read as it is",
        "pan-to-quarter-ms": "PAN is resampled once to a quarter of the MS pixel, MS is read as it is",
    }[pair.strategy]


def shift(report: ShiftReport, decision: Decision) -> dict[str, Any]:
    """What was measured, and what `classify` does about it."""
    return {
        "sentence": report.sentence(),
        "action": decision.action,
        "because": decision.because,
        **report.model_dump(mode="json", exclude={"windows"}),
    }
