"""Give a map that exists other class names and colours: ``das2f-map style``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.products.existing_map import ExistingMap, open_existing
from das2f_map.products.legend_source import LegendChange, read_legend_change
from das2f_map.products.map_record import MapRecord, with_legend
from das2f_map.products.provenance import Provenance
from das2f_map.products.qgis import style_raster
from das2f_map.products.renamed_polygons import polygons_beside, rename_polygons
from das2f_map.progress import Progress, silent
from das2f_map.scene.paths import is_local

log = logging.getLogger(__name__)

_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Styled:
    """A map with other names and colours.

    Attributes
    ----------
    path:
        The class raster.
    before, legend:
        Its classes as they were, and as they are now.
    files:
        All files that were written.
    """

    path: Path
    before: Legend
    legend: Legend
    files: tuple[Path, ...]


def style(
    map_path: str | Path,
    legend: str | Path | Legend,
    output: str | Path | None = None,
    *,
    vectors: str | Path | Sequence[str | Path] | Literal[False] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Styled:
    """Change the names and colours of a map's classes; its pixels stay as they are.

    The raster gets its colour table, legend, attribute table and QGIS style anew. So do polygons and the
    report, of a run or of a mosaic, where they belong to the map.

    Parameters
    ----------
    map_path:
        Class raster, a GeoTIFF whose values are class ids.
    legend:
        Names and colours: a JSON file, a model's name or path, another class raster, or a
        :class:`~das2f_map.legend.Legend`. See
        :func:`das2f_map.products.legend_source.read_legend_change`.
    output:
        Raster to write; by default the map's own file is replaced, which only maps of this package allow.
        With an output, polygons and report are left as they are.
    vectors:
        Polygon files of the map that are changed too; by default those of its name in its folder, ``False``
        for none.
    overwrite:
        Replace an existing ``output``.
    progress:
        Receives the progress of the work.

    Raises
    ------
    InputError, ModelError
        The map, the legend or the polygons cannot be used; the map has a class that the legend lacks.
    OutputError
        A file cannot be written, or ``output`` exists.
    """
    path = Path(map_path)
    destination = path if output is None else Path(output)
    if destination.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"output {destination} is not a GeoTIFF", "-o map.tif writes the map as one")
    change = LegendChange.to(legend) if isinstance(legend, Legend) else read_legend_change(legend)
    label = "the legend" if isinstance(legend, Legend) else f"legend {legend}"
    polygons = _polygons(path, vectors) if output is None else []
    record = _record(path) if output is None else None
    sources = [str(legend)] if isinstance(legend, (str, Path)) and Path(legend).is_file() else []
    if output is not None:
        sources.append(str(path))
    with (
        open_existing(path) as existing,
        StagedOutputs(inputs=sources, overwrite=output is None or overwrite) as outputs,
    ):
        _check(existing, path, in_place=output is None)
        made = change.applied(existing.legend, label, keeps=existing.file.names.unsure)
        images = [] if record is None else record.report.images
        provenance = Provenance.of_map(existing.file.tags, images)
        staged = {destination: outputs.stage(destination)}
        _write_raster(existing, staged[destination], made, progress)
        for file in polygons:
            staged[file] = outputs.stage(file)
            rename_polygons(file, staged[file], made, provenance)
        if record is not None:
            record.write(with_legend(record.report, made), staged, outputs)
        before, written = existing.legend, outputs.finals
    return Styled(destination, before, made, written)


def _polygons(path: Path, given: str | Path | Sequence[str | Path] | Literal[False] | None) -> list[Path]:
    if given is False:
        return []
    if given is None:
        return polygons_beside(path)
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(one) for one in given]


def _record(path: Path) -> MapRecord | None:
    """The report beside the map; a file in its place that is none stays as it is."""
    record = MapRecord.beside(path)
    if record is not None:
        record.check()
    beside = path.with_suffix(".json")
    if record is None and beside.is_file():
        log.warning("%s stays as it is: it is no report of this map that this version reads", beside)
    return record


def _check(existing: ExistingMap, path: Path, *, in_place: bool) -> None:
    if any(value != i for value, i in existing.ids.items()):
        raise InputError(f"map {path} has values that are no class ids", "class ids are 1 to 255")
    if in_place and not is_local(path):
        raise InputError(f"map {path} cannot be replaced", "-o OUT.tif writes a map with the new legend")
    if in_place and existing.file.names.legend is None:
        raise InputError(
            f"map {path} is not of das2f-map, and is not replaced",
            "-o OUT.tif writes a copy with the new legend",
        )


def _write_raster(existing: ExistingMap, staged: Path, legend: Legend, progress: Progress) -> None:
    """Write the classes anew: a GeoTIFF that is changed in place would lose the order of its parts."""
    with existing.writer(staged, legend) as writer:
        for window, classes in existing.blocks(progress, "Writing"):
            writer.write(window, classes)
    style_raster(staged, legend)
