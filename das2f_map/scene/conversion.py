"""Say how accurate a conversion of coordinates is where PROJ lacks a grid for the best one."""

from __future__ import annotations

import logging
from functools import lru_cache

import pyproj
from pyproj.exceptions import ProjError
from pyproj.transformer import AreaOfInterest, TransformerGroup

log = logging.getLogger(__name__)


def tell_accuracy(source: pyproj.CRS, target: pyproj.CRS, area: AreaOfInterest | None) -> None:
    """Log the accuracy of a conversion if a better one needs a grid that is not installed.

    Says each thing once.

    Parameters
    ----------
    area:
        Place of the scene, in degrees; ``None`` if it is not known.
    """
    if area is None:
        box = None
    else:
        bounds = (area.west_lon_degree, area.south_lat_degree, area.east_lon_degree, area.north_lat_degree)
        box = tuple(round(v, 1) for v in bounds)
    said = _shortcoming(source.to_wkt(), target.to_wkt(), box)
    if said:
        _say_once(said)


@lru_cache(maxsize=256)
def _say_once(text: str) -> None:
    log.warning("%s", text)


@lru_cache(maxsize=64)
def _shortcoming(source: str, target: str, box: tuple[float, ...] | None) -> str:
    """A sentence on the accuracy; empty if the best conversion is at hand."""
    one, other = pyproj.CRS.from_wkt(source), pyproj.CRS.from_wkt(target)
    try:
        group = TransformerGroup(
            one, other, always_xy=True, area_of_interest=None if box is None else AreaOfInterest(*box)
        )
    except ProjError:
        return ""
    better = [op for op in group.unavailable_operations if any(not grid.available for grid in op.grids)]
    if group.best_available or not group.transformers or not better:
        return ""
    grids = ", ".join(g.short_name for g in better[0].grids if not g.available)
    reached = _metres(group.transformers[0].accuracy)
    return (
        f"Coordinates of {one.name} are converted to {other.name} {reached}; "
        f"{_metres(better[0].accuracy)} with the grid {grids}, which PROJ lacks here (projsync gets it)"
    )


def _metres(accuracy: float | None) -> str:
    known = accuracy is not None and accuracy >= 0
    return f"to within about {accuracy:g} m" if known else "with an accuracy that is not known"
