"""All files of a map, made in one pass over its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import rasterio

from das2f_map.legend import Legend
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.work_files import work_folder
from das2f_map.outputs.write_errors import writing
from das2f_map.products.areas import PixelAreas
from das2f_map.products.class_areas import ClassArea, ClassSums
from das2f_map.products.class_raster import CONFIDENCE_DESCRIPTION, ClassRasterWriter
from das2f_map.products.in_parallel import in_parallel
from das2f_map.products.polygons import PolygonWriter
from das2f_map.products.provenance import UNKNOWN, Provenance
from das2f_map.products.qgis import style_raster
from das2f_map.products.sieve import Sieve, pixels_of_area
from das2f_map.products.strips import Strip, StripAssembler, strip_rows
from das2f_map.products.value_raster import ValueRaster
from das2f_map.products.work_raster import WorkRaster
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float32, UInt8

ENTROPY_DESCRIPTION = "entropy of the class probabilities (0 sure, 1 all classes alike)"

_MERGED_BYTES = 5
"""Bytes on the disk for each pixel that merging takes: the map, and tables of regions of the usual sizes."""


@dataclass(frozen=True)
class MapPaths:
    """The files of a map: where they end up, or where they are written until the run is over.

    Attributes
    ----------
    raster:
        The class raster, a GeoTIFF.
    report:
        The run report, JSON.
    vectors:
        Polygons, their format by extension; ``None`` for none.
    confidence:
        Raster of the probability of each pixel's class; ``None`` for none.
    probabilities:
        Raster of the probability of every class, a band each; ``None`` for none.
    entropy:
        Raster of the entropy of these; ``None`` for none.
    stac:
        STAC Item, JSON; ``None`` for none.
    """

    raster: Path
    report: Path
    vectors: Path | None = None
    confidence: Path | None = None
    probabilities: Path | None = None
    entropy: Path | None = None
    stac: Path | None = None

    def by_kind(self) -> dict[str, Path]:
        """Kind of output → path, without those that are not written."""
        kinds = {
            "raster": self.raster,
            "report": self.report,
            "vectors": self.vectors,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "entropy": self.entropy,
            "stac": self.stac,
        }
        return {kind: path for kind, path in kinds.items() if path is not None}

    def rasters(self) -> tuple[Path, ...]:
        """The GeoTIFFs among them."""
        paths = (self.raster, self.confidence, self.probabilities, self.entropy)
        return tuple(path for path in paths if path is not None)

    def work_bytes(
        self, pixels: int, classes: int, stored: int = 0, *, merges: bool = False
    ) -> dict[Path, int]:
        """Folder → bytes that files take there while the map is made, without compression.

        Finished blocks, which wait for a run that goes on, and the rasters; not the polygons.

        Parameters
        ----------
        pixels:
            Those with a class.
        classes:
            Classes of the model.
        stored:
            Bytes of finished blocks that an earlier run has left.
        merges:
            Whether small regions are merged, which takes the map and its confidence once more.
        """
        entropy = 4 if self.entropy is not None else 0
        probabilities = 4 * classes if self.probabilities is not None else 0
        # A block is stored with its classes and their confidence, whether or not that becomes a raster.
        blocks = (5 + entropy + probabilities) * pixels
        again = 0 if not merges else _MERGED_BYTES + (4 if self.confidence is None else 0)
        found = {self.raster.parent.resolve(): max(0, blocks - stored) + again * pixels}
        sizes = {self.raster: 1, self.confidence: 4, self.entropy: entropy, self.probabilities: probabilities}
        for path, size in sizes.items():
            if path is not None:
                folder = path.parent.resolve()
                found[folder] = found.get(folder, 0) + pixels * size
        return found

    def staged(self, outputs: StagedOutputs) -> MapPaths:
        """The same files as they are written until the run is over; refuses those that cannot be."""
        return MapPaths(**{kind: outputs.stage(path) for kind, path in self.by_kind().items()})


@dataclass(frozen=True)
class MapContents:
    """The contents of a map: its areas, nodata and polygons.

    Attributes
    ----------
    areas:
        For each class id of the legend, its pixels in the raster.
    nodata_pixels:
        Pixels without a class.
    polygons:
        For each class id, its polygons; ``None`` where none were written.
    merged_pixels:
        Pixels that have the class of a neighbour of their small region.
    """

    areas: dict[int, ClassArea]
    nodata_pixels: int
    polygons: dict[int, ClassArea] | None
    merged_pixels: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether no pixel has a class."""
        return not any(area.pixels for area in self.areas.values())


class MapWriter:
    """Writes the rasters and polygons of a map and adds up its classes while blocks come in.

    Nothing is read back to sum or to outline it, unless small regions are merged: that takes the whole map.
    Then classes change; confidence, probabilities and entropy stay those of the pixel.

    Use it as a context manager; without :meth:`finish` no complete file is left.

    Parameters
    ----------
    paths:
        Files to write.
    grid, legend:
        The map's.
    unsure:
        Id of the legend's class of rejected pixels; ``None`` if there is none. It has no band among the
        probabilities.
    min_area_m2:
        Regions smaller than this are merged into their neighbours, in the raster and the polygons, by the
        rule of :mod:`das2f_map.products.sieve`; ``None`` for none.
    simplify_m:
        Polygons are simplified by so many metres, see :mod:`das2f_map.products.simplify`; ``None`` for exact
        outlines.
    tags:
        Metadata items of the rasters, besides those of the provenance.
    provenance:
        Model, software and source, for the metadata of rasters and polygons.
    work:
        Folder for work files, on the same file system; by default that of each file's private folder.
    progress:
        Shows the second pass, if there is one.

    Raises
    ------
    OutputError, MissingDependencyError
        A file cannot be written, here or in any of the methods.
    """

    def __init__(
        self,
        paths: MapPaths,
        grid: Grid,
        legend: Legend,
        *,
        unsure: int | None = None,
        min_area_m2: float | None = None,
        simplify_m: float | None = None,
        tags: Mapping[str, str] | None = None,
        provenance: Provenance = UNKNOWN,
        work: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self._paths, self._grid, self._legend, self._progress = paths, grid, legend, progress
        tags = {**provenance.tags(), **(tags or {})}
        self._sums = ClassSums()
        self._polygons: PolygonWriter | None = None
        self._sieve: Sieve | None = None
        self._scratch: WorkRaster | None = None
        with ExitStack() as stack:
            # Not entered: its own `with` would complete the raster though finish() was never called.
            self._raster = ClassRasterWriter(paths.raster, grid, legend, unsure=unsure, tags=tags, work=work)
            stack.callback(self._raster.discard)
            bands = {
                "confidence": [CONFIDENCE_DESCRIPTION],
                "probabilities": [c.name for c in legend.each() if c.id != unsure],
                "entropy": [ENTROPY_DESCRIPTION],
            }
            self._values: dict[str, ValueRaster] = {}
            for kind, path in paths.by_kind().items():
                if kind in bands:
                    raster = ValueRaster(path, grid, bands[kind], name=f"{kind}.tif", tags=tags, work=work)
                    stack.callback(raster.discard)
                    self._values[kind] = raster
            # The raster and the polygons have private folders of their own.
            folder = stack.enter_context(work_folder(paths.report, work))
            self._strips = StripAssembler(grid, work=folder)
            stack.callback(self._strips.close)
            pixels = pixels_of_area(min_area_m2, grid)
            if pixels > 1:
                self._sieve = stack.enter_context(Sieve(folder, paths.raster, grid, pixels))
                if paths.confidence is None:
                    place = folder / "unmerged-confidence.tif"
                    self._scratch = WorkRaster(place, paths.raster, grid, "float32", float("nan"))
                    stack.callback(self._scratch.discard)
            if paths.vectors is not None:
                self._polygons = stack.enter_context(
                    PolygonWriter(
                        paths.vectors,
                        grid,
                        legend,
                        with_confidence=True,
                        simplify_m=simplify_m,
                        work=work,
                        provenance=provenance,
                    )
                )
            self._stack = stack.pop_all()

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(
        self,
        window: Window,
        classes: UInt8,
        confidence: Float32,
        probabilities: Float32 | None = None,
        entropy: Float32 | None = None,
    ) -> None:
        """Write a block; blocks come row by row and fill the map.

        Parameters
        ----------
        window:
            Pixels of the map.
        classes:
            uint8 (h, w), ids of the legend or 0.
        confidence:
            float32 (h, w) in 0..1, NaN where there is no class.
        probabilities, entropy:
            float32 (classes, h, w) and (h, w) in 0..1, for the rasters that are written.
        """
        given = {"confidence": confidence, "probabilities": probabilities, "entropy": entropy}
        for kind, raster in self._values.items():
            raster.write(window, classes, given[kind])
        if self._scratch is not None:
            self._scratch.write(window, confidence)
        if self._sieve is None:
            self._raster.write(window, classes)
        with writing(self._paths.raster):
            for strip in self._strips.add(window, classes, confidence):
                if self._sieve is not None:
                    self._sieve.add(strip.classes)
                else:
                    self._take(strip)

    def _take(self, strip: Strip) -> None:
        """Sum up and outline the next strip of the final map."""
        self._sums.add(strip)
        if self._polygons is not None:
            self._polygons.add(strip)

    def finish(self) -> MapContents:
        """Complete all files. Of a map without any class, only the raster is completed.

        Raises
        ------
        ValueError
            Blocks are missing.
        OutputError
            A file cannot be written.
        """
        self._strips.require_complete()
        merged = 0 if self._sieve is None else self._finish_merging(self._sieve)
        areas = self._sums.of(self._legend)
        contents = MapContents(areas, self._sums.nodata_pixels, None, merged)
        if contents.is_empty:
            self._raster.finish()
            return contents
        in_parallel(self._raster.finish, *(raster.finish for raster in self._values.values()))
        style_raster(self._paths.raster, self._legend)
        return replace(contents, polygons=None if self._polygons is None else self._polygons.finish())

    def _finish_merging(self, sieve: Sieve) -> int:
        """Merge small regions and write the map; returns the number of pixels with another class."""
        merged = sieve.merge(self._progress)
        areas, rows = PixelAreas(self._grid), strip_rows(self._grid)
        with writing(self._paths.raster), rasterio.open(self._confidence_file()) as confidence:
            for row in range(0, self._grid.height, rows):
                window = Window(row, 0, min(rows, self._grid.height - row), self._grid.width)
                classes = sieve.read(window)
                self._raster.write(window, classes)
                sure = confidence.read(1, window=window.to_rasterio())
                self._take(Strip(window, classes, areas.of(window), sure))
        return merged

    def _confidence_file(self) -> Path:
        """The confidence of all blocks, to be read once."""
        if self._scratch is None:
            return self._values["confidence"].written()
        self._scratch.close()
        return self._scratch.path
