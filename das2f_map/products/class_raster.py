"""The class map as a Cloud Optimized GeoTIFF that holds the names and colours of its classes.

Blocks are written into a plain tiled GeoTIFF, in any order. After the last one, GDAL's COG driver
makes the final file from it, block by block. Class names are kept three times, because readers
differ: as a raster attribute table and as category names in ``.aux.xml`` (GDAL, QGIS, ArcGIS), and
as a tag in the GeoTIFF itself, which survives when the side file is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from das2f_map.errors import OutputError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.outputs.work_files import work_folder
from das2f_map.outputs.write_errors import writing
from das2f_map.products.attribute_table import write_attribute_table
from das2f_map.products.class_names import LEGEND_TAG, UNSURE_TAG
from das2f_map.products.in_parallel import in_parallel
from das2f_map.products.value_raster import ValueRaster
from das2f_map.products.work_raster import WorkRaster
from das2f_map.scene.compiled_pixels import count_values
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, UInt8

CONFIDENCE_DESCRIPTION = "confidence (probability of the class, 0 to 1)"


class ClassRasterWriter:
    """Writes a class map, and the confidence if asked for, block by block.

    Parameters
    ----------
    path:
        The class map, a GeoTIFF: uint8, 0 is nodata.
    grid:
        Its geometry.
    legend:
        Its classes.
    unsure:
        Id of the legend's class of rejected pixels; ``None`` if there is none.
    confidence_path:
        A second GeoTIFF for the confidence, float32, NaN is nodata; ``None`` for none.
    tags:
        Metadata items of both files (model, software version…).
    work:
        Folder for work files, on the same file system; by default that of each file's private folder.

    Raises
    ------
    OutputError
        A file cannot be written, here or in any of the methods.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        legend: Legend,
        *,
        unsure: int | None = None,
        confidence_path: Path | None = None,
        tags: Mapping[str, str] | None = None,
        work: Path | None = None,
    ) -> None:
        self.path, self.confidence_path = path, confidence_path
        self.grid, self.legend = grid, legend
        self._known = np.zeros(256, dtype=bool)
        self._known[[NODATA_CLASS, *legend.ids]] = True
        self._written = np.zeros(256, dtype=np.int64)
        self._finished = False
        self._confidence: ValueRaster | None = None
        with ExitStack() as stack:  # whatever goes wrong here, an interrupt too, is tidied up
            place = stack.enter_context(work_folder(path, work)) / "classes.tif"
            self._classes = WorkRaster(place, path, grid, "uint8", NODATA_CLASS)
            stack.callback(self._classes.discard)
            own = {LEGEND_TAG: legend.model_dump_json()}
            if unsure is not None:
                own[UNSURE_TAG] = str(legend[unsure].id)
            colours = {NODATA_CLASS: (0, 0, 0, 0)} | {c.id: (*c.rgb, 255) for c in legend.each()}
            self._classes.describe(["land-cover class"], {**(tags or {}), **own}, colours)
            if confidence_path is not None:
                self._confidence = ValueRaster(
                    confidence_path,
                    grid,
                    [CONFIDENCE_DESCRIPTION],
                    name="confidence.tif",
                    tags=tags,
                    work=work,
                )
                stack.callback(self._confidence.discard)
            self._work = stack.pop_all()

    def __enter__(self) -> ClassRasterWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the work files; without :meth:`finish` nothing is left."""
        self._work.close()

    def write(
        self,
        window: Window,
        classes: UInt8,
        confidence: Float32 | None = None,
    ) -> None:
        """Write one block. Blocks may come in any order, and must not overlap.

        Parameters
        ----------
        window:
            Inside the grid.
        classes:
            uint8 (h, w), ids of the legend or 0.
        confidence:
            float32 (h, w) in 0..1, NaN where there is no class.

        Raises
        ------
        ValueError
            Shapes, window or class ids do not fit.
        OutputError
            The file cannot be written.
        """
        if window.is_empty or window.intersection(self.grid.window) != window:
            raise ValueError(
                f"{window} is not inside the map's {self.grid.height} × {self.grid.width} pixels"
            )
        shape = (window.height, window.width)
        if classes.shape != shape or classes.dtype != np.uint8:
            raise ValueError(f"classes must be uint8 {shape}, got {classes.dtype} {classes.shape}")
        counts = count_values(classes)
        if unknown := np.flatnonzero(counts.astype(bool) & ~self._known).tolist():
            raise ValueError(f"class ids {unknown} are not in the legend")
        self._written += counts
        self._classes.write(window, classes)
        if self._confidence is not None:
            self._confidence.write(window, classes, confidence)

    def finish(self) -> None:
        """Make the final files, with overviews, colours and class names. A second call does nothing."""
        if self._finished:
            return
        if self._confidence is None:
            self._finish_classes()
        else:
            try:
                in_parallel(self._finish_classes, self._confidence.finish)
            except BaseException:  # one file of the two would be no result
                for path in (self.path, self._confidence.path):
                    path.unlink(missing_ok=True)
                raise
        self._finished = True

    def _finish_classes(self) -> None:
        counts = self._classes.finish(
            {"OVERVIEW_RESAMPLING": "MODE", "RESAMPLING": "NEAREST", "PREDICTOR": "NO"}, count_values=True
        )
        # GDAL reports some failed writes on standard error alone; the file itself tells.
        if counts is not None and not np.array_equal(counts[1:], self._written[1:]):
            self.path.unlink(missing_ok=True)
            raise OutputError(
                f"{self.path.name} is damaged: it does not hold what was written",
                "check the disk (is it full?) and try again",
            )
        with writing(self.path):
            pixels = {c.id: int(self._written[c.id]) for c in self.legend.each()}
            write_attribute_table(self.path, self.legend, pixels)
