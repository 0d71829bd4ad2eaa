"""Ground areas of pixels, on the ellipsoid of their CRS.

Every area this package reports is a sum of pixel areas, so that polygons add up to their class and
classes to the map. Between meridians and parallels the area of a pixel has a closed form (Snyder,
J. P. (1987), "Map Projections – A Working Manual", USGS Professional Paper 1395, eq. 3-12). Elsewhere
it is the pixel's size times the local area scale, taken from the map's derivatives at points so close
to each other that interpolating between them costs less than about 1e-8 of the area.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import rasterio
import rasterio.errors

from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.products.class_raster import raster_window
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, Float64, Int64, UInt8

_LATTICE_PIXELS = 16
_LATTICE_METRES = 1000.0
_DIFFERENCE_METRES = 200.0
STRIP_PIXELS = 1_500_000
"""Pixels that whole-raster passes hold at once."""


class PixelAreas:
    """Areas of a grid's pixels in square metres.

    Where the CRS has no ellipsoid (a local one), areas are plain ones in its unit.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        t = grid.transform
        self._flat = abs(t.determinant)
        crs = pyproj.CRS.from_user_input(grid.crs.to_wkt()) if grid.crs else None
        self._kind = "flat"
        base = crs.geodetic_crs if crs is not None else None
        if crs is None or base is None or crs.ellipsoid is None or not base.is_geographic:
            return
        a, b = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
        self._axis, self._e2 = a, 1 - (b / a) ** 2
        self._unit = base.axis_info[0].unit_conversion_factor  # radians
        if crs.is_geographic and t.b == 0 and t.d == 0:
            self._kind = "parallels"
        else:
            self._kind = "scaled"
            self._to_base = pyproj.Transformer.from_crs(crs, base, always_xy=True)
            self._half, self._step = self._spacing()

    def of(self, window: Window) -> Float64:
        """Area of each pixel of a window, m²: float64 (h, w), possibly a read-only view."""
        shape = (window.height, window.width)
        if self._kind == "parallels":
            t = self._grid.transform
            edges = t.f + t.e * (window.row + np.arange(window.height + 1.0))
            band = np.abs(np.diff(_authalic(edges * self._unit, self._e2)))
            rows = self._axis**2 * (1 - self._e2) / 2 * band * abs(t.a) * self._unit
            return np.broadcast_to(rows[:, None], shape)
        if self._kind == "flat":
            return np.broadcast_to(np.float64(self._flat), shape)
        # Lattice points fall on multiples of the step whatever the window, so that windows agree.
        rows, row_at, row_share = _lattice(window.row, window.height, self._step)
        cols, col_at, col_share = _lattice(window.col, window.width, self._step)
        scale = self._at(rows[:, None], cols[None, :])
        upper = scale[row_at] * (1 - row_share)[:, None] + scale[row_at + 1] * row_share[:, None]
        result: Float64 = upper[:, col_at] * (1 - col_share) + upper[:, col_at + 1] * col_share
        return result

    def mean(self) -> float:
        """Mean area of a pixel over the grid, m², from 33 × 33 pixels spread over it."""
        rows = np.unique(np.linspace(0, self._grid.height - 1, 33).astype(int))
        cols = np.unique(np.linspace(0, self._grid.width - 1, 33).astype(int))
        return float(np.mean([[self.of(Window(r, c, 1, 1))[0, 0] for c in cols] for r in rows.tolist()]))

    def _spacing(self) -> tuple[float, int]:
        """Half the distance of the differences and the distance of the lattice, in pixels."""
        self._half = 0.5
        grid = self._grid
        side = math.sqrt(float(self._at(np.array(grid.height / 2), np.array(grid.width / 2))))
        if side <= 0:
            return 0.5, 1
        # Differences over a few metres only would drown in the rounding of the projection.
        return max(0.5, _DIFFERENCE_METRES / side), max(1, min(_LATTICE_PIXELS, int(_LATTICE_METRES / side)))

    def _at(self, rows: Float64, cols: Float64) -> Float64:
        """Area of a pixel centred at fractional positions, from central differences."""
        half = self._half
        rows, cols = np.broadcast_arrays(rows, cols)
        west, east = self._lonlat(rows, cols - half), self._lonlat(rows, cols + half)
        north, south = self._lonlat(rows - half, cols), self._lonlat(rows + half, cols)
        along = _turned(east[0] - west[0]), east[1] - west[1]
        down = _turned(south[0] - north[0]), south[1] - north[1]
        latitude = (west[1] + east[1]) / 2
        curvature = 1 - self._e2 * np.sin(latitude) ** 2
        # Product of the meridian and the parallel radius: area of a unit of longitude times latitude.
        ground = self._axis**2 * (1 - self._e2) / curvature**2 * np.cos(latitude)
        area: Float64 = np.abs(along[0] * down[1] - along[1] * down[0]) / (2 * half) ** 2 * ground
        # Where the projection has no inverse there is no ground.
        return np.where(np.isfinite(area), area, 0.0)

    def _lonlat(self, rows: Float64, cols: Float64) -> tuple[Float64, Float64]:
        """Longitude and latitude in radians."""
        t = self._grid.transform
        x = t.a * cols + t.b * rows + t.c
        y = t.d * cols + t.e * rows + t.f
        lon, lat = self._to_base.transform(x, y)
        return lon * self._unit, lat * self._unit


@dataclass(frozen=True)
class ClassArea:
    """How much of a map, or of its polygons, a class takes.

    Attributes
    ----------
    pixels:
        Pixel count.
    area_m2:
        Ground area on the ellipsoid, m².
    polygons:
        How many polygons, 0 where none were made.
    mean_confidence:
        Over the pixels, 0..1; ``None`` where it is not known.
    """

    pixels: int
    area_m2: float
    polygons: int = 0
    mean_confidence: float | None = None


def class_areas(
    class_raster: Path,
    legend: Legend,
    *,
    confidence_raster: Path | None = None,
    progress: Progress = silent,
) -> tuple[dict[int, ClassArea], int]:
    """Pixels, area and confidence of every class of the legend in a map, and the count of nodata pixels.

    Reads the files once, a strip at a time.

    Raises
    ------
    InputError
        A file cannot be read, or holds values that the legend does not know.
    """
    pixels, areas, sums, finite = (np.zeros(256) for _ in range(4))
    for strip in read_strips(class_raster, confidence_raster, progress, "Measuring"):
        ids = strip.classes.ravel()
        pixels += np.bincount(ids, minlength=256)
        areas += np.bincount(ids, strip.areas.ravel(), minlength=256)
        if strip.confidence is not None:
            known = np.isfinite(strip.confidence.ravel())
            finite += np.bincount(ids, known, minlength=256)
            sums += np.bincount(ids, np.where(known, strip.confidence.ravel(), 0), minlength=256)
    check_ids(np.flatnonzero(pixels), legend, class_raster)
    out = {
        i: ClassArea(
            int(pixels[i]), float(areas[i]), mean_confidence=float(sums[i] / finite[i]) if finite[i] else None
        )
        for i in legend.ids
    }
    return out, int(pixels[NODATA_CLASS])


def check_ids(ids: Int64, legend: Legend, raster: Path) -> None:
    """Raise :class:`InputError` for values of a map that its legend lacks."""
    if unknown := sorted({*ids.tolist()} - {NODATA_CLASS, *legend.ids}):
        raise InputError(
            f"{raster.name} holds values that the legend does not know: {', '.join(map(str, unknown))}",
            "give the legend that belongs to this map",
        )


@dataclass(frozen=True, eq=False)
class Strip:
    """Some whole rows of a map: classes uint8, pixel areas float64 m², confidence float32, all (h, width)."""

    window: Window
    classes: UInt8
    areas: Float64
    confidence: Float32 | None


def grid_of(dataset: rasterio.DatasetReader) -> Grid:
    """The grid of an open raster."""
    return Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)


def read_strips(
    class_raster: Path,
    confidence_raster: Path | None,
    progress: Progress,
    label: str,
    rows: int | None = None,
) -> Iterator[Strip]:
    """Read a map strip by strip, from the top; ``rows`` at once, by default as many as fit in memory easily.

    Raises
    ------
    InputError
        A file cannot be read, is no class map, or the two do not have the same size.
    """
    with ExitStack() as stack:
        try:
            classes = stack.enter_context(rasterio.open(class_raster))
            confidence = stack.enter_context(rasterio.open(confidence_raster)) if confidence_raster else None
            if classes.dtypes[0] != "uint8":
                raise InputError(
                    f"{class_raster.name} is not a class map: its values are {classes.dtypes[0]}"
                )
            if confidence is not None and confidence.shape != classes.shape:
                raise InputError(f"{confidence.name} does not have the size of {class_raster.name}")
            grid = grid_of(classes)
            pixel_areas = PixelAreas(grid)
            height = rows or _strip_rows(grid, classes.block_shapes[0][0])
            advance = stack.enter_context(progress(label, grid.height))
            for row in range(0, grid.height, height):
                window = Window(row, 0, min(height, grid.height - row), grid.width)
                part = raster_window(window)
                values = classes.read(1, window=part)
                if classes.nodata is not None and classes.nodata != NODATA_CLASS:
                    values[values == classes.nodata] = NODATA_CLASS
                sure = None if confidence is None else confidence.read(1, window=part).astype(np.float32)
                yield Strip(window, values, pixel_areas.of(window), sure)
                advance(window.height)
        except rasterio.errors.RasterioIOError as error:
            raise InputError(f"cannot read {class_raster}: {error}") from error


def _strip_rows(grid: Grid, block_rows: int) -> int:
    """Rows that make a strip: whole blocks where they fit, so that none is decoded twice."""
    rows = max(1, STRIP_PIXELS // grid.width)
    return rows // block_rows * block_rows if rows >= block_rows else rows


def _lattice(start: int, length: int, step: int) -> tuple[Float64, Int64, Float64]:
    """Lattice positions around pixel centres; for each centre the position before it and the share after."""
    centres = start + np.arange(length) + 0.5
    first = math.floor(centres[0] / step)
    at = np.floor(centres / step).astype(np.int64)
    positions = np.arange(first, int(at[-1]) + 2) * float(step)
    return positions, at - first, centres / step - at


def _authalic(latitude: Float64, e2: float) -> Float64:
    """Snyder's q over (1 - e²): proportional to the area between the equator and a latitude (radians)."""
    s = np.sin(np.clip(latitude, -math.pi / 2, math.pi / 2))
    if e2 <= 0:
        return 2 * s
    e = math.sqrt(e2)
    result: Float64 = s / (1 - e2 * s * s) + np.arctanh(e * s) / e
    return result


def _turned(longitude: Float64) -> Float64:
    """A difference of longitudes, across the antimeridian too."""
    result: Float64 = (longitude + math.pi) % (2 * math.pi) - math.pi
    return result
