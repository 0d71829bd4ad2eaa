"""The class map as polygons: outlines of 4-connected regions that tile the classified area exactly.

The raster is read, outlined (:mod:`das2f_map.products.tracing`) and written strip by strip. A
GeoPackage gets one layer for each class; other formats hold a single layer, and because most of them
cannot be appended to, they are collected in a temporary GeoPackage and streamed over at the end.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
import rasterio.errors
import shapely
from affine import Affine
from rasterio.crs import CRS

from das2f_map.errors import InputError, MissingDependencyError, OutputError
from das2f_map.installation import install_extra
from das2f_map.legend import Legend
from das2f_map.outputs.names import WORK_NAME, enclosing_private, private_path, siblings
from das2f_map.outputs.work_files import work_folder
from das2f_map.outputs.write_errors import writing
from das2f_map.products.class_areas import ClassArea, check_ids
from das2f_map.products.outlines import Corners
from das2f_map.products.provenance import UNKNOWN, Provenance
from das2f_map.products.qgis import style_vectors
from das2f_map.products.regions import Regions, to_polygons
from das2f_map.products.sieve import Sieve, pixels_of_area
from das2f_map.products.simplify import Simplifier
from das2f_map.products.strips import Strip, read_strips
from das2f_map.products.tracing import RegionTracer
from das2f_map.products.vector_files import DRIVERS, FeatureBatch, LayerFile, convert
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import passes_as_it_is

log = logging.getLogger(__name__)

_BATCH_FEATURES = 50_000
_BATCH_VERTICES = 1_000_000
_NOT_FIRST = frozenset("`~!@#$%^&*()+-={}|[]\\:\";'<>?,./")
"""Characters that GDAL does not allow at the start of a GeoPackage layer's name."""
_RESERVED = ("gpkg_", "sqlite_", "rtree_", "ogr_")
"""SQLite and GeoPackage keep their own tables under these prefixes."""
_LONGEST_PATH = 480
"""Bytes; SQLite takes 512, with the endings of its own files."""
_HINT = "known: " + ", ".join(f"{extension} ({name})" for extension, name in DRIVERS.items())


def check_vector_path(destination: Path, crs: CRS | None = None) -> None:
    """Make sure, before any work is done, that polygons can be written to a path.

    Raises
    ------
    OutputError
        The extension is unknown, the format cannot name the CRS, or the path has characters or a length that
        GDAL or SQLite does not take.
    MissingDependencyError
        GeoParquet is asked for and pyarrow is not installed.
    """
    extension = destination.suffix.lower()
    if extension not in DRIVERS:
        raise OutputError(f"unknown vector format {extension or 'without extension'!r}: {destination}", _HINT)
    if extension == ".shp" and destination.suffix != extension:
        # GDAL writes .shp, whatever the name given.
        raise OutputError(
            f"{destination} cannot be written: a Shapefile's extension is in lower case",
            f"name it {destination.stem}.shp",
        )
    if not passes_as_it_is(destination):
        raise OutputError(
            f"polygons cannot be written to {str(destination)!r}: it has characters that GDAL would not take",
            "avoid ! and ; and line breaks in names of files and folders, or use --no-vectors",
        )
    # While it is written, it lies in a private folder.
    staged = enclosing_private(destination) is not None
    place = destination if staged else private_path(destination) / WORK_NAME / destination.name
    if len(os.fsencode(place)) > _LONGEST_PATH:
        raise OutputError(
            f"{destination} cannot be written: the path is too long for SQLite, which writes the polygons",
            "choose a shorter name for --vectors, or leave out polygons with --no-vectors",
        )
    if extension == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise MissingDependencyError(
                f"writing {destination.name} needs pyarrow",
                install_extra("parquet"),
            ) from error
    if extension == ".geojson" and crs is not None and crs.to_epsg() is None:
        raise OutputError(
            f"{destination.name}: GeoJSON can only name a CRS by its EPSG code, and this one has none",
            "write a .gpkg, .fgb or .shp instead",
        )


def check_tolerance(metres: float | None) -> None:
    """Raise :class:`InputError` for a number of metres that polygons cannot be simplified by."""
    if metres is not None and not 0 <= metres < math.inf:
        raise InputError(f"polygons cannot be simplified by {metres:g} m", "give a number from 0 on")


def write_polygons(
    class_raster: Path,
    destination: Path,
    legend: Legend,
    *,
    confidence_raster: Path | None = None,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    progress: Progress = silent,
    strip_rows: int | None = None,
    work: Path | None = None,
    provenance: Provenance = UNKNOWN,
    also: Callable[[Strip], None] | None = None,
) -> dict[int, ClassArea]:
    """Write the polygons of a class map, with QGIS styles.

    Fields are ``class_id``, ``class_name``, ``area_m2`` (on the ellipsoid) and ``confidence`` (mean
    over the polygon's pixels, null where it is not known). All polygons are valid and neighbours
    share their edges vertex by vertex. The order of features is by lowest row.

    Parameters
    ----------
    class_raster:
        uint8, 0 is nodata.
    destination:
        New file; the extension chooses the format. ``.gpkg`` gets a layer for each class of the
        legend, present or not, others a single layer.
    legend:
        Of the map.
    confidence_raster:
        Of the same size as the map.
    min_area_m2:
        Regions smaller than this (at the map's mean pixel area) are merged into their neighbours, by the rule
        of :mod:`das2f_map.products.sieve`; the raster stays as it is.
    simplify_m:
        Leave out vertices of outlines, see :class:`~das2f_map.products.simplify.Simplifier`; ``None`` or 0
        for exact outlines.
    progress:
        Counts rows.
    strip_rows:
        Rows in memory at once; the result does not depend on it, but for the order of simplified polygons.
    work:
        Folder for work files; by default that of the destination's private folder.
    provenance:
        Model, software and source of the map, for descriptions and metadata.
    also:
        Gets each strip as it is outlined, with small regions merged.

    Returns
    -------
    dict
        For each class id of the legend what its polygons hold.

    Raises
    ------
    OutputError
        Unknown extension, or the file cannot be written.
    InputError
        A raster cannot be read or does not fit the legend.
    MissingDependencyError
        See :func:`check_vector_path`.
    """
    try:
        with rasterio.open(class_raster) as dataset:
            grid = Grid.from_rasterio(dataset)
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"cannot read {class_raster}: {error}") from error
    with_confidence = confidence_raster is not None
    with (
        work_folder(destination, work) as folder,
        ExitStack() as stack,
        PolygonWriter(
            destination,
            grid,
            legend,
            with_confidence=with_confidence,
            simplify_m=simplify_m,
            work=folder,
            provenance=provenance,
        ) as writer,
    ):
        pixels, sieve = pixels_of_area(min_area_m2, grid), None
        if pixels > 1:
            sieve = stack.enter_context(Sieve(folder, destination, grid, pixels, strip_rows=strip_rows))
            for strip in read_strips(class_raster, None, progress, "Reading", strip_rows):
                sieve.add(strip.classes)
            sieve.merge(progress)
        for strip in read_strips(class_raster, confidence_raster, progress, "Outlining", strip_rows):
            if sieve is not None:
                strip = replace(strip, classes=sieve.read(strip.window))
            check_ids(np.flatnonzero(np.bincount(strip.classes.ravel())), legend, class_raster)
            writer.add(strip)
            if also is not None:
                also(strip)
        return writer.finish()


class PolygonWriter:
    """Outlines a map that comes strip by strip, and writes its polygons. Use it as a context manager.

    Without :meth:`finish`, no file is left.

    Parameters
    ----------
    destination, legend:
        As in :func:`write_polygons`.
    grid:
        The map's.
    with_confidence:
        Whether strips carry it.
    simplify_m, work, provenance:
        As in :func:`write_polygons`.

    Raises
    ------
    OutputError
        Unknown extension, or the file cannot be written, here or in any of the methods.
    MissingDependencyError
        See :func:`check_vector_path`.
    """

    def __init__(
        self,
        destination: Path,
        grid: Grid,
        legend: Legend,
        *,
        with_confidence: bool,
        simplify_m: float | None = None,
        work: Path | None = None,
        provenance: Provenance = UNKNOWN,
    ) -> None:
        check_vector_path(destination, grid.crs)
        self._destination, self._grid, self._legend = destination, grid, legend
        by_layer = destination.suffix.lower() == ".gpkg"
        self._names = layer_names(legend) if by_layer else dict.fromkeys(legend.ids, destination.stem)
        self._about = layer_descriptions(legend, self._names, provenance)
        self._simplify_m = simplify_m
        self._simplifier = Simplifier(grid, simplify_m) if simplify_m else None
        self._collected, self._complete = destination, False
        with ExitStack() as stack:
            folder = stack.enter_context(work_folder(destination, work))
            self._tracer = RegionTracer(grid.width, 3 if with_confidence else 1, work=folder)
            stack.callback(self._tracer.close)
            if not by_layer:
                self._collected = folder / "polygons.gpkg"
                stack.callback(_remove, self._collected)
            with writing(destination):
                file = LayerFile(self._collected, self._about, grid.crs, provenance.items())
            self._collector = _Collector(
                file, legend, self._names, grid.transform, simplified=self._simplifier is not None
            )
            self._work = stack.pop_all()

    def add(self, strip: Strip) -> None:
        """Outline the next strip, from the top."""
        if self._simplifier is None:
            self._outline(strip, None)
            return
        with writing(self._destination):
            ready = list(self._simplifier.add(strip))
        for part, corners in ready:
            self._outline(part, corners)

    def _outline(self, strip: Strip, corners: Corners | None) -> None:
        measured = [strip.areas]
        if strip.confidence is not None:
            known = np.isfinite(strip.confidence)
            measured += [np.where(known, strip.confidence, 0).astype(np.float64), known.astype(np.float64)]
        with writing(self._destination):
            self._collector.add(self._tracer.push(strip.classes, measured, corners))

    def finish(self) -> dict[int, ClassArea]:
        """Close the last outlines and complete the file; returns the sums over each class id's polygons."""
        with writing(self._destination):
            self._collector.add(self._tracer.finish())
            self._collector.flush()
            if self._collected != self._destination:
                layer = self._destination.stem
                convert(self._collected, layer, self._destination, self._grid.crs, self._about[layer])
            style_vectors(self._destination, self._legend, self._names)
        self._complete = True
        totals = self._collector.totals()
        if self._simplify_m:
            log.info("Polygons are simplified by %g m%s", self._simplify_m, _in_words(totals, self._legend))
        return totals

    def __enter__(self) -> PolygonWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.close()
        if not self._complete:
            _remove(self._destination)


def layer_names(legend: Legend) -> dict[int, str]:
    """Layer name for each class id: its name, made safe for GeoPackage and QGIS, and unique."""
    used: set[str] = {"layer_styles"}
    names: dict[int, str] = {}
    for c in legend.each():
        # QGIS ends a layer's name at "|".
        base = "".join("_" if ch in "|\"'`;" or not ch.isprintable() else ch for ch in c.name).strip()
        if not base or base[0] in _NOT_FIRST or base.lower().startswith(_RESERVED):
            base = f"class_{base}" if base else f"class_{c.id}"
        # SQLite does not tell upper from lower case in names of tables.
        name, number = base, c.id
        while name.casefold() in used:
            name, number = f"{base} ({number})", number + len(legend)
        used.add(name.casefold())
        names[c.id] = name
    return names


def layer_descriptions(legend: Legend, names: Mapping[int, str], provenance: Provenance) -> dict[str, str]:
    """A description for each layer, by its name, in the order of the classes; ``names`` are by class id."""
    several = len({*names.values()}) > 1
    return {
        names[c.id]: provenance.sentence(f"Land cover: {c.name}," if several else "Land-cover map")
        for c in legend.each()
    }


@dataclass
class _Total:
    pixels: int = 0
    area: float = 0.0
    drawn: float = 0.0
    polygons: int = 0
    confidence: float = 0.0
    known: float = 0.0


class _Collector:
    """Turns regions into features and writes them in batches."""

    def __init__(
        self,
        file: LayerFile,
        legend: Legend,
        names: dict[int, str],
        transform: Affine,
        *,
        simplified: bool,
    ) -> None:
        self._file, self._legend, self._names, self._transform = file, legend, names, transform
        self._pending: list[FeatureBatch] = []
        self._simplified = simplified
        self._features = self._vertices = 0
        self._totals = {i: _Total() for i in legend.ids}

    def add(self, regions: Regions) -> None:
        if len(regions) == 0:
            return
        pixels, area = regions.sums[:, 0], regions.sums[:, 1]
        # Its pixels differ so little in area that the region's mean serves where the outline has moved.
        drawn = area / pixels * regions.areas() if self._simplified else area
        confidence = np.full(len(regions), np.nan)
        if regions.sums.shape[1] > 2:
            total, known = regions.sums[:, 2], np.rint(regions.sums[:, 3])
            np.divide(total, known, out=confidence, where=known > 0)
        self._pending.append(
            FeatureBatch(
                regions.class_ids, drawn, confidence, shapely.to_wkb(to_polygons(regions, self._transform))
            )
        )
        for i in np.unique(regions.class_ids).tolist():
            mine = regions.class_ids == i
            t = self._totals[i]
            t.pixels += int(np.rint(pixels[mine].sum()))
            t.area += float(area[mine].sum())
            t.drawn += float(drawn[mine].sum())
            t.polygons += int(mine.sum())
            if regions.sums.shape[1] > 2:
                t.confidence += float(total[mine].sum())
                t.known += float(known[mine].sum())
        self._features += len(regions)
        self._vertices += len(regions.rows)
        if self._features > _BATCH_FEATURES or self._vertices > _BATCH_VERTICES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, in one go for each layer."""
        if self._pending:
            batch = FeatureBatch.joined(self._pending)
            for layer in dict.fromkeys(self._names.values()):
                ids = [i for i, name in self._names.items() if name == layer]
                part = batch.taken(np.isin(batch.class_ids, ids))
                if len(part.class_ids):
                    self._file.append(layer, part, self._legend)
        self._pending, self._features, self._vertices = [], 0, 0

    def totals(self) -> dict[int, ClassArea]:
        return {
            i: ClassArea(
                t.pixels,
                t.area,
                t.polygons,
                t.confidence / t.known if t.known else None,
                t.drawn if self._simplified else None,
            )
            for i, t in self._totals.items()
        }


def _in_words(totals: dict[int, ClassArea], legend: Legend) -> str:
    """By how much simplifying has changed the areas of classes, the most and the least, to end a line."""
    changes = {
        c.name: 100 * (totals[c.id].drawn_m2 or 0.0) / totals[c.id].area_m2 - 100
        for c in legend.each()
        if totals[c.id].area_m2
    }
    if not changes:
        return ""
    ends = dict.fromkeys([min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)])
    return "; areas of classes change by " + " to ".join(f"{changes[n]:+.2f} % ({n})" for n in ends)


def _remove(path: Path) -> None:
    for part in (path, *siblings(path)):
        part.unlink(missing_ok=True)
