"""A raster of class numbers as labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from das2f_map.errors import LabelError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.products.class_raster import read_legend
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.wrap import moved_beside, x_period
from das2f_map.training.label_source import MAX_CLASSES, LabelBlock, LabelSource, outside_scene


class RasterLabels(LabelSource):
    """A raster of class numbers: 0 and nodata are unlabelled.

    Each pixel of the grid is looked at on a sub-grid about as fine as the raster (up to 8 × 8
    positions) and gets the class most positions have, if that is at least as many as have none.
    Two classes with equally many contest the pixel.
    """

    def __init__(self, path: str, dataset: Any, grid: Grid) -> None:
        if dataset.crs is None:
            raise LabelError(
                f"label raster {path} has no coordinate reference system",
                "assign one, e.g. gdal_edit.py -a_srs EPSG:32616 labels.tif",
            )
        if not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer) and dataset.dtypes[0] not in (
            "float32",
            "float64",
        ):
            raise LabelError(
                f"label raster {path} is of type {dataset.dtypes[0]}, not a raster of class numbers"
            )
        self._path = path
        self._dataset = dataset
        self._grid = grid
        self._nodata = dataset.nodata
        left, bottom, right, top = transform_bounds(dataset.crs, grid.crs, *_dataset_bounds(dataset))
        period = x_period(grid.crs)
        if period is not None:
            right += period if right < left else 0.0
            centre = grid.pixel_to_map(grid.height / 2, grid.width / 2)[0]
            turns = period * round((centre - (left + right) / 2) / period)
            left, right = left + turns, right + turns
        footprint = shapely.box(left, bottom, right, top)
        self._footprint = footprint
        scene = shapely.Polygon(grid.corners())
        if not footprint.intersects(scene):
            raise outside_scene(path)
        self._factor = self._refinement(left, right, top, bottom)
        fine = grid.refined(self._factor)
        # Here GDAL compares coordinates as they are.
        in_file = fine
        if dataset.crs == grid.crs:
            in_file = moved_beside(fine, Grid(dataset.height, dataset.width, dataset.transform, grid.crs))
        self._vrt = WarpedVRT(
            dataset,
            crs=grid.crs,
            transform=in_file.transform,
            height=fine.height,
            width=fine.width,
            resampling=Resampling.nearest,
            nodata=self._nodata,
            # The default interpolates positions to an eighth of a pixel; rasterio cannot take 0.
            tolerance=0.001,
        )
        values = self._distinct()
        if not values:
            raise LabelError(
                f"label raster {path} has no labelled pixel in the scene", "0 and nodata count as unlabelled"
            )
        if values[0] < 1 or values[-1] > MAX_CLASSES:
            raise LabelError(
                f"label raster {path} holds class numbers {values[0]} to {values[-1]}, not 1 to 255",
                "0 and nodata count as unlabelled",
            )
        names = self._names() or {}
        self.legend = Legend.from_names([names.get(v, f"class {v}") for v in values], values)

    def _refinement(self, left: float, right: float, top: float, bottom: float) -> int:
        """Positions looked at along a pixel's side."""
        along_rows = (top - bottom) / self._dataset.height
        along_cols = (right - left) / self._dataset.width
        size = min(self._grid.pixel_size)
        return int(np.clip(round(size / max(min(along_rows, along_cols), 1e-300)), 1, 8))

    def _names(self) -> dict[int, str] | None:
        """Class names the raster carries, by value."""
        legend = read_legend(self._path)
        return None if legend is None else {c.id: c.name for c in legend.each()}

    def _distinct(self) -> list[int]:
        found: set[int] = set()
        for window in self.windows(blocks_of(self._grid.window, 512)):
            found.update(int(v) for v in np.unique(self._values(window)))
            if len(found) > MAX_CLASSES + 1:
                raise LabelError(
                    f"label raster {self._path} has more than {MAX_CLASSES} different values",
                    "it should hold class numbers; is it an image?",
                )
        return sorted(found - {NODATA_CLASS})

    def _values(self, window: Window) -> NDArray[np.int64]:
        """Class numbers on the refined grid, 0 where unlabelled."""
        fine = window.refined(self._factor)
        where = ((fine.row, fine.row_stop), (fine.col, fine.col_stop))
        try:
            raw = self._vrt.read(1, window=where)
            inside = self._vrt.dataset_mask(window=where) > 0
        except RasterioError as error:
            raise LabelError(
                f"label raster {self._path} cannot be read: {error.__cause__ or error}",
                "the file seems to be damaged or cut short",
            ) from error
        if raw.dtype.kind == "f":
            inside &= np.isfinite(raw)
            raw = np.where(inside, raw, 0)
            if not np.array_equal(raw, np.round(raw)):
                raise LabelError(f"label raster {self._path} holds fractions, not class numbers")
        return np.where(inside, raw, NODATA_CLASS).astype(np.int64)

    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        for window in candidates:
            if shapely.Polygon(self._grid.cropped(window).corners()).intersects(self._footprint):
                yield window

    def read(self, window: Window) -> LabelBlock:
        k = self._factor
        fine = self._values(window)
        cells = fine.reshape(window.height, k, window.width, k)
        best = np.zeros((window.height, window.width), np.int64)
        classes = np.zeros(best.shape, np.uint8)
        tied = np.zeros(best.shape, bool)
        for value in np.unique(fine):
            if value == NODATA_CLASS:
                continue
            count = (cells == value).sum(axis=(1, 3))
            more = count > best
            tied = np.where(more, False, tied | ((count == best) & (count > 0)))
            classes[more] = value
            best = np.maximum(best, count)
        enough = best >= (cells == NODATA_CLASS).sum(axis=(1, 3))
        contested = tied & enough
        classes[contested | ~enough] = NODATA_CLASS
        return LabelBlock(classes, int(contested.sum()))

    def close(self) -> None:
        self._vrt.close()
        self._dataset.close()


def _dataset_bounds(dataset: Any) -> tuple[float, float, float, float]:
    corners = [dataset.transform * (c, r) for c in (0, dataset.width) for r in (0, dataset.height)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)
