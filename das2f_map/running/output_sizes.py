"""About how large the files of a map become, from its pixels and how finely it is divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from das2f_map.legend import NODATA_CLASS
from das2f_map.products.runs import Runs, joined
from das2f_map.types import UInt8

_REPORT: Final = 10_000
_ITEM: Final = 6_000
_RASTER: Final = 7_000
_CLASS: Final = 1_100
"""Bytes of a report, of a STAC Item, of a raster of classes without pixels but with its style, and of a class
in both."""

_VALUES: Final = 2_700
_VALUE: Final = 3.6
"""Bytes of a raster of values without pixels, and of a pixel in one of its bands, overviews included."""


@dataclass(frozen=True)
class Texture:
    """How finely a map is divided, per pixel with a class.

    Attributes
    ----------
    regions:
        Connected regions.
    vertices:
        Vertices of their outlines; one that several regions share counts for each.
    """

    regions: float
    vertices: float

    @classmethod
    def of(cls, classes: UInt8) -> Texture | None:
        """The texture of a part of a map, uint8 (h, w); ``None`` where no pixel has a class."""
        pixels = int(np.count_nonzero(classes != NODATA_CLASS))
        if not pixels:
            return None
        runs = Runs(classes)
        sets, count = joined(len(runs), *runs.links())
        of_pixels = sets[runs.of_pixels]
        known = np.zeros(count, bool)
        known[sets[runs.classes != NODATA_CLASS]] = True
        # A region that goes on outside, above or below, left or right, belongs to other parts as well.
        above, beside = np.zeros(count, bool), np.zeros(count, bool)
        above[of_pixels[0]] = above[of_pixels[-1]] = True
        beside[of_pixels[:, 0]] = beside[of_pixels[:, -1]] = True
        regions = (known * np.where(above, 0.5, 1.0) * np.where(beside, 0.5, 1.0)).sum()
        # Around a corner of four pixels there are as many regions as changes from one to the next. Where two
        # changes lie opposite each other, an edge goes straight on.
        right, below = classes[:, 1:] != classes[:, :-1], classes[1:] != classes[:-1]
        up, down, left, on = right[:-1], right[1:], below[:, :-1], below[:, 1:]
        changes = up.astype(np.int8) + down + left + on
        straight = (changes == 2) & (up == down)
        return cls(float(regions) / pixels, float(changes[~straight].sum()) / pixels)


TYPICAL: Final = Texture(regions=0.02, vertices=0.3)
"""The texture of a map whose pixels are not known."""

_COSTS: Final = {
    ".gpkg": (100_000, 19_500, 190, 16.0),
    ".shp": (8_500, 0, 225, 16.0),
    ".geojson": (7_500, 0, 245, 24.0),
    ".fgb": (9_000, 0, 160, 16.0),
    ".parquet": (13_000, 0, 30, 3.5),
}
"""Extension of polygons → bytes of the file, a class, a polygon and a vertex. Measured on maps of 81 to
360,000 pixels, in fields of 1 to 60 pixels."""


def expected_bytes(kind: str, extension: str, pixels: int, classes: int, texture: Texture) -> int:
    """Bytes of a file of a map, about, with the files that belong to it.

    Parameters
    ----------
    kind, extension:
        Of the output.
    pixels:
        Those with a class.
    classes:
        Classes of the legend.
    texture:
        Of the map.
    """
    if kind == "vectors":
        own, each, polygon, vertex = _COSTS[extension]
        size = pixels * (texture.regions * polygon + texture.vertices * vertex)
        return round(own + classes * each + size)
    if kind == "raster":
        return round(_RASTER + classes * _CLASS + pixels * (0.07 + 0.19 * texture.vertices))
    bands = {"confidence": 1, "probabilities": classes, "entropy": 1}
    if kind in bands:
        return round(_VALUES + bands[kind] * _VALUE * pixels)
    return _REPORT if kind == "report" else _ITEM
