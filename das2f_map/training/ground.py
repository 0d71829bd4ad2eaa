"""The ground of a scene, in degrees: what a model has seen, and what another scene shares with it."""

from __future__ import annotations

from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from das2f_map.bundle.card import Ground
from das2f_map.scene.pair import ScenePair


def ground_of(pair: ScenePair) -> Ground | None:
    """West, south, east and north of a scene; ``None`` where no way leads from its CRS to degrees."""
    grid = pair.grids.ms
    corners = [grid.pixel_to_map(r, c) for r in (0, grid.height) for c in (0, grid.width)]
    x, y = zip(*corners, strict=True)
    try:
        way = Transformer.from_crs(CRS.from_wkt(grid.crs.to_wkt()), "EPSG:4326", always_xy=True)
        west, south, east, north = way.transform_bounds(min(x), min(y), max(x), max(y), errcheck=True)
        return Ground(west=west, south=south, east=east, north=north)
    except (ProjError, ValueError):
        return None
