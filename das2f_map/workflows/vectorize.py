"""Make the polygons of a map that exists: ``das2f-map vectorize``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.work_files import work_folder
from das2f_map.pages.pictures import read_values
from das2f_map.products.class_areas import ClassArea
from das2f_map.products.existing_map import ExistingMap, open_existing
from das2f_map.products.map_record import MapRecord, with_polygons
from das2f_map.products.polygons import check_tolerance, check_vector_path, write_polygons
from das2f_map.products.provenance import Provenance
from das2f_map.products.qgis import style_raster
from das2f_map.products.sieve import pixels_of_area
from das2f_map.products.strips import Strip
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Grid
from das2f_map.scene.virtual_files import with_sources

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vectorized:
    """Polygons of a map.

    Attributes
    ----------
    path:
        Their file.
    legend:
        The map's classes.
    classes:
        For each class id, its polygons: pixels, area, number and mean confidence.
    raster:
        Raster of the same regions; ``None`` where none was written.
    """

    path: Path
    legend: Legend
    classes: dict[int, ClassArea]
    raster: Path | None = None


def vectorize(
    map_path: str | Path,
    output: str | Path,
    *,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    confidence: str | Path | None = None,
    raster: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Vectorized:
    """Write the polygons of a class raster, with QGIS styles, as `classify` does.

    Where they replace the polygons of the map's own run, its report and STAC Item are kept in step.

    Parameters
    ----------
    map_path:
        Class raster of this package or another one. Values from 1 to 255 are the class ids; if there are
        others, such as 311, classes are numbered from 1 on in ascending order.
    output:
        Polygon file; its extension decides the format.
    min_area_m2:
        Regions smaller than this, in m², are merged into their neighbours; the map itself stays as it is.
    simplify_m:
        Leave out vertices of outlines, as `classify` does; by default they are exact.
    confidence:
        Raster of confidence on the same grid, for the mean of each polygon.
    raster:
        Class raster to write, a ``.tif``, with the regions that the polygons have; by default none.
    overwrite:
        Replace existing files.
    progress:
        Receives the progress of the work.

    Raises
    ------
    InputError
        The map or the confidence cannot be used, or the smallest area or the tolerance is no such number.
    OutputError, MissingDependencyError
        The polygons or the raster cannot be written, or exist already.
    """
    destination, merged = Path(output), None if raster is None else Path(raster)
    check_vector_path(destination)
    if merged is not None and merged.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"output {merged} is not a GeoTIFF", "give it the extension .tif")
    if min_area_m2 is not None and not 0 <= min_area_m2 < math.inf:
        raise InputError(f"a smallest area of {min_area_m2:g} m² cannot be used", "give a number from 0 on")
    check_tolerance(simplify_m)
    given = [path for path in (map_path, confidence) if path is not None]
    record = MapRecord.beside(Path(map_path))
    images = [] if record is None else record.report.images
    own = record is not None and record.kind_of(destination) == "vectors"
    if record is not None and own:
        record.check()
    with (
        StagedOutputs(inputs=with_sources(given), overwrite=overwrite) as outputs,
        open_existing(map_path) as existing,
    ):
        existing.file.tell_names()
        check_vector_path(destination, existing.grid.crs)
        if confidence is not None:
            _check_confidence(Path(confidence), existing.grid, map_path)
        staged = outputs.stage(destination)
        staged_raster = None if merged is None else outputs.stage(merged)
        with work_folder(staged) as work, ExitStack() as stack:
            copy = work / "classes.tif"
            existing.copy_to(copy, destination, progress)
            totals = write_polygons(
                copy,
                staged,
                existing.legend,
                confidence_raster=None if confidence is None else Path(confidence),
                min_area_m2=min_area_m2,
                simplify_m=simplify_m,
                progress=progress,
                work=work,
                provenance=Provenance.of_map(existing.file.tags, images),
                also=None if staged_raster is None else _writing(existing, staged_raster, stack),
            )
        if staged_raster is not None:
            style_raster(staged_raster, existing.legend)
        elif pixels_of_area(min_area_m2, existing.grid) > 1:
            log.warning(
                "small regions are merged in %s alone, %s keeps them: --raster TIF writes one that agrees",
                destination,
                map_path,
            )
        if record is not None and own:
            report = with_polygons(record.report, totals, min_area_m2=min_area_m2, simplify_m=simplify_m)
            record.write(report, {destination: staged}, outputs)
        legend = existing.legend
    return Vectorized(destination, legend, totals, merged)


def _writing(existing: ExistingMap, path: Path, stack: ExitStack) -> Callable[[Strip], None]:
    """A function that writes strips into a raster on the map's grid; the stack completes it."""
    writer = stack.enter_context(existing.writer(path, existing.legend))
    return lambda strip: writer.write(strip.window, strip.classes)


def _check_confidence(path: Path, grid: Grid, map_path: str | Path) -> None:
    """Raise :class:`InputError` unless a raster is on the map's grid."""
    _, _, own = read_values(path, 1)
    if own != grid:
        raise InputError(f"confidence {path} is not on the grid of map {map_path}", "give the map's own one")
