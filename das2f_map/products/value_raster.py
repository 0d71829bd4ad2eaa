"""Rasters of values from 0 to 1 that belong to a class map: confidence, probabilities, entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from das2f_map.legend import NODATA_CLASS
from das2f_map.outputs.work_files import work_folder
from das2f_map.outputs.write_errors import writing
from das2f_map.products.value_statistics import BandStatistics
from das2f_map.products.work_raster import WorkRaster
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, UInt8


class ValueRaster:
    """Writes a Cloud Optimized GeoTIFF of float32 values block by block; NaN is nodata.

    Without :meth:`finish` no file is left; :meth:`discard` removes the work files.

    Parameters
    ----------
    path:
        The GeoTIFF.
    grid:
        The class map's.
    bands:
        Description of each band.
    name:
        Of the work file; several rasters may have the same work folder.
    tags:
        Metadata items.
    work:
        Folder for the work file, on the same file system; by default that of the file's private folder.

    Raises
    ------
    OutputError
        The file cannot be written, here or in any of the methods.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        bands: Sequence[str],
        *,
        name: str,
        tags: Mapping[str, str] | None = None,
        work: Path | None = None,
    ) -> None:
        self.path, self._bands = path, len(bands)
        self._statistics = [BandStatistics() for _ in bands]
        self._closed = False
        with ExitStack() as stack:  # an interrupt is tidied up, too
            place = stack.enter_context(work_folder(path, work)) / name
            self._raster = WorkRaster(place, path, grid, "float32", float("nan"), len(bands))
            stack.callback(self._raster.discard)
            self._raster.describe(bands, tags or {}, None)
            self._work = stack.pop_all()

    def write(self, window: Window, classes: UInt8, values: Float32 | None) -> None:
        """Write one block; blocks come in any order and do not overlap.

        Parameters
        ----------
        window:
            Inside the grid.
        classes:
            uint8 (h, w), 0 where the raster gets nodata.
        values:
            float32 (h, w), or (bands, h, w) where there are several.

        Raises
        ------
        ValueError
            There are no values, or of another shape.
        OutputError
            The file cannot be written.
        """
        # Probabilities have the axis of bands even where the legend has a single class.
        shapes = [(self._bands, *classes.shape)] + ([classes.shape] if self._bands == 1 else [])
        if values is None or values.shape not in shapes:
            raise ValueError(f"values of {self.path.name} must have shape {shapes[-1]}")
        valid = np.where(classes == NODATA_CLASS, np.float32("nan"), values.astype(np.float32, copy=False))
        known = classes != NODATA_CLASS
        for statistics, band in zip(self._statistics, np.atleast_3d(valid.T).T, strict=True):
            statistics.add(band, known)
        self._raster.write(window, valid)

    def written(self) -> Path:
        """The work file with all blocks, closed, to be read before :meth:`finish`."""
        self._close()
        return self._raster.path

    def _close(self) -> None:
        """Note the statistics and close the work file; a second call does nothing."""
        if self._closed:
            return
        for band, statistics in enumerate(self._statistics, start=1):
            self._raster.note(band, statistics.items())
        with writing(self.path):
            self._raster.close()
        self._closed = True

    def finish(self) -> None:
        """Make the file, with overviews by mean and the statistics of each band."""
        self._close()
        self._raster.finish(
            {"OVERVIEW_RESAMPLING": "AVERAGE", "RESAMPLING": "NEAREST", "PREDICTOR": "FLOATING_POINT"}
        )

    def discard(self) -> None:
        """Remove the work files."""
        self._work.close()
