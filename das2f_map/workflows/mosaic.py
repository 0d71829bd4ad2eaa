"""Join maps of one legend into one: ``das2f-map mosaic``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from das2f_map._version import __version__
from das2f_map.errors import InputError, OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import require_space
from das2f_map.products.map_files import MapContents, MapPaths, MapWriter
from das2f_map.products.mosaic_parts import (
    JoinedLegend,
    Kind,
    MapPart,
    MapToJoin,
    OpenParts,
    Placement,
    beside,
    join_legends,
    place,
)
from das2f_map.products.polygons import check_vector_path
from das2f_map.products.provenance import Provenance
from das2f_map.products.report import ClassReport, GridReport, RunReport, class_reports
from das2f_map.progress import Progress, silent
from das2f_map.running.gdal_cache import gdal_cache
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.paths import PathText, is_local
from das2f_map.scene.virtual_files import with_sources
from das2f_map.types import Bool, Float32, Int32, UInt8

log = logging.getLogger(__name__)

BLOCK: Final = 512
"""Pixels a side of a block."""

_CACHE: Final = 128 << 20
"""Bytes of GDAL's cache of tiles."""


class JoinedMap(BaseModel):
    """A map of a mosaic."""

    model_config = ConfigDict(extra="forbid")

    path: PathText
    confidence: PathText | None
    placement: Kind = Field(
        description="copied: pixels fall on pixels; moved: by half a pixel at most; warped: each pixel takes "
        "the nearest one of another CRS or pixel size"
    )
    moved_px: tuple[float, float] = Field(description="rows and columns by which the contents move")
    moved: float = Field(description="length of the move, in units of the CRS")
    pixels: int = Field(description="pixels of the mosaic where it has a class")
    taken: int = Field(description="pixels of the mosaic that have their class from it")


class Seam(BaseModel):
    """The overlap of two maps."""

    model_config = ConfigDict(extra="forbid")

    first: PathText
    second: PathText
    pixels: int = Field(description="pixels where both have a class")
    differing: int = Field(description="those with another class")
    share: float = Field(description="differing over pixels, 0..1")


class MosaicReport(BaseModel):
    """Everything about one run of `mosaic`."""

    model_config = ConfigDict(extra="forbid")

    report_version: Literal[1] = 1
    kind: Literal["mosaic"] = "mosaic"
    software_version: str
    draft: bool = Field(default=False, description="whether a map of it is a draft")
    rule: Literal["confidence", "order"] = Field(
        description="of an overlap: the most confident map wins, or the first one"
    )
    maps: list[JoinedMap]
    seams: list[Seam] = Field(description="every two maps that overlap")
    overlap_pixels: int = Field(description="pixels with a class in two maps or more")
    grid: GridReport
    classes: list[ClassReport]
    unsure: int | None
    nodata_pixels: int
    warnings: list[str]
    outputs: dict[str, str] = Field(description="kind of output → path")


def mosaic_maps(
    maps: Sequence[str | Path],
    output: str | Path,
    *,
    confidence: Sequence[str | Path] = (),
    vectors: str | Path | None = None,
    confidence_output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> MosaicReport:
    """Write one map from several of the same classes, on the grid of the first one.

    Where maps overlap, the one with the highest confidence decides a pixel; of equal ones the first.
    Without the confidence of every map, the first map that has a class decides.

    Parameters
    ----------
    maps:
        Class rasters, two or more, of this package or others.
    output:
        Class raster, a ``.tif``, with style, class names and a report (``.json``) next to it.
    confidence:
        Raster of confidence of each map, in their order; by default those that their run reports name.
    vectors:
        Polygon file; by default none.
    confidence_output:
        Raster for the confidence of the mosaic; by default none.
    overwrite:
        Replace existing outputs.
    progress:
        Receives the progress of the work.

    Raises
    ------
    InputError
        A map or a confidence cannot be used, or two maps do not have the same classes.
    OutputError, MissingDependencyError
        An output cannot be written, or exists already.
    """
    paths = _paths(output, vectors, confidence_output)
    given = [str(m) for m in maps]
    if len(given) < 2 or len({Path(g).resolve() if is_local(g) else g for g in given}) < len(given):
        raise InputError(
            "a mosaic needs two maps or more, each once", "das2f-map mosaic a.tif b.tif -o m.tif"
        )
    reports = [_report_of(path) for path in given]
    sure, rule_warning = _confidences(given, [str(c) for c in confidence], reports)
    drafts = [path for path, report in zip(given, reports, strict=True) if report and report.draft]
    with StagedOutputs(inputs=with_sources([*given, *filter(None, sure)]), overwrite=overwrite) as outputs:
        staged = paths.staged(outputs)
        found = [MapToJoin.of(path, own) for path, own in zip(given, sure, strict=True)]
        joined = join_legends(found)
        if paths.vectors is not None:
            check_vector_path(paths.vectors, found[0].grid.crs)
        placements = [place(m.grid, found[0].grid) for m in found]
        grid, parts = _on_one_grid(found, joined, placements)
        warnings = [*rule_warning, *joined.notices, *(f"{path} is a draft" for path in drafts)]
        warnings += [p.sentence(m.path, given[0]) for m, p in zip(found, placements, strict=True)]
        warnings = [w for w in warnings if w]
        for warning in warnings:
            log.warning("%s", warning)
        require_space(paths.work_bytes(grid.height * grid.width, len(joined.legend)))
        tally = _Tally(len(parts))
        tags = {"mosaic": f"{len(parts)} maps"}
        if drafts:
            tags["draft"] = f"{len(drafts)} of these maps are drafts"
        contents = _write(parts, grid, joined, staged, tally, progress, tags, by_confidence=all(sure))
        report = MosaicReport(
            software_version=__version__,
            draft=bool(drafts),
            rule="confidence" if all(sure) else "order",
            maps=[
                JoinedMap(
                    path=m.path,
                    confidence=m.confidence,
                    placement=p.kind,
                    moved_px=p.moved_px,
                    moved=p.moved_m,
                    pixels=int(tally.pixels[n]),
                    taken=int(tally.taken[n]),
                )
                for n, (m, p) in enumerate(zip(found, placements, strict=True))
            ],
            seams=tally.seams(given),
            overlap_pixels=tally.overlap,
            grid=GridReport.of(grid),
            classes=class_reports(joined.legend, contents.areas, contents.polygons),
            unsure=joined.unsure,
            nodata_pixels=contents.nodata_pixels,
            warnings=warnings,
            outputs={kind: str(path) for kind, path in paths.by_kind().items()},
        )
        staged.report.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _paths(output: str | Path, vectors: str | Path | None, confidence_output: str | Path | None) -> MapPaths:
    raster = Path(output)
    paths = MapPaths(
        raster,
        raster.with_suffix(".json"),
        *(None if path is None else Path(path) for path in (vectors, confidence_output)),
    )
    for path in paths.rasters():
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(f"output {path} is not a GeoTIFF", "give it the extension .tif")
    if paths.vectors is not None:
        check_vector_path(paths.vectors)
    return paths


def _confidences(
    maps: list[str], given: list[str], reports: list[RunReport | MosaicReport | None]
) -> tuple[list[str | None], list[str]]:
    """The confidence of each map, ``None`` for all unless every map has one; and a sentence in that case."""
    if given and len(given) != len(maps):
        raise InputError(
            f"{len(maps)} maps and {len(given)} rasters of confidence are given",
            "--confidence once for each map, in their order",
        )
    named = [None if report is None else report.outputs.get("confidence") for report in reports]
    found = [*given] if given else [beside(path, own) for path, own in zip(maps, named, strict=True)]
    missing = [path for path, own in zip(maps, found, strict=True) if own is None]
    if not missing:
        return list(found), []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [None] * len(maps), [
        f"no raster of confidence is found for {missing[0]}{more}: where maps overlap, the first one decides"
    ]


def _report_of(path: str) -> RunReport | MosaicReport | None:
    """The report next to a map."""
    try:
        text = Path(path).with_suffix(".json").read_bytes()
    except (OSError, ValueError):
        return None
    kinds: tuple[type[RunReport] | type[MosaicReport], ...] = (RunReport, MosaicReport)
    for kind in kinds:
        try:
            return kind.model_validate_json(text)
        except ValidationError:
            continue
    return None


def _on_one_grid(
    maps: Sequence[MapToJoin], joined: JoinedLegend, placements: Sequence[Placement]
) -> tuple[Grid, list[MapPart]]:
    """The grid around all maps, and the maps on it."""
    top, left = min(p.window.row for p in placements), min(p.window.col for p in placements)
    bottom, right = max(p.window.row_stop for p in placements), max(p.window.col_stop for p in placements)
    grid = maps[0].grid.cropped(Window(top, left, bottom - top, right - left))
    parts = [
        MapPart(m.path, m.confidence, m.grid, ids, grid, p, p.window.shifted(-top, -left))
        for m, ids, p in zip(maps, joined.ids, placements, strict=True)
    ]
    return grid, parts


class _Tally:
    """Pixels of each map, and of every two that overlap."""

    def __init__(self, maps: int) -> None:
        self.pixels, self.taken = np.zeros(maps, np.int64), np.zeros(maps, np.int64)
        self.overlap = 0
        self._both: dict[tuple[int, int], list[int]] = {}

    def add(self, block: list[tuple[int, UInt8]], winner: Int32, classes: UInt8) -> None:
        """Add a block: classes of the maps in it, positions of the winners in this list, the result."""
        has = [own > 0 for _, own in block]
        for position, (number, _) in enumerate(block):
            self.pixels[number] += np.count_nonzero(has[position])
            self.taken[number] += np.count_nonzero((winner == position) & (classes > 0))
        if len(block) < 2:
            return
        self.overlap += int(np.count_nonzero(np.sum(has, axis=0) > 1))
        for (i, first), (j, second) in combinations(block, 2):
            both = (first > 0) & (second > 0)
            counts = self._both.setdefault((i, j), [0, 0])
            counts[0] += int(np.count_nonzero(both))
            counts[1] += int(np.count_nonzero(both & (first != second)))

    def seams(self, paths: Sequence[str]) -> list[Seam]:
        """Every two maps that overlap, in the order of the maps."""
        return [
            Seam(first=paths[i], second=paths[j], pixels=n, differing=differing, share=differing / n)
            for (i, j), (n, differing) in sorted(self._both.items())
            if n
        ]


def _write(
    parts: Sequence[MapPart],
    grid: Grid,
    joined: JoinedLegend,
    staged: MapPaths,
    tally: _Tally,
    progress: Progress,
    tags: Mapping[str, str],
    *,
    by_confidence: bool,
) -> MapContents:
    """Write the mosaic block by block."""
    writer = MapWriter(
        staged,
        grid,
        joined.legend,
        unsure=joined.unsure,
        tags=tags,
        provenance=Provenance(source=f"{len(parts)} maps", software=f"das2f-map {__version__}"),
        progress=progress,
    )
    with writer, OpenParts(parts) as opened, gdal_cache(_CACHE):
        with progress("Joining", grid.height * grid.width) as advance:
            for window in blocks_of(grid.window, BLOCK):
                classes, sure = np.zeros((window.height, window.width), np.uint8), _nan(window)
                winner = np.zeros(classes.shape, np.int32)
                block: list[tuple[int, UInt8]] = []
                for number, own, confidence in opened.read(window):
                    better = _better(classes, sure, own, confidence if by_confidence else None)
                    classes[better], sure[better] = own[better], confidence[better]
                    winner[better] = len(block)
                    block.append((number, own))
                tally.add(block, winner, classes)
                writer.write(window, classes, sure)
                advance(window.height * window.width)
        contents = writer.finish()
    if contents.is_empty:
        raise InputError("no pixel of the mosaic has a class", "do the maps have the right CRS?")
    return contents


def _nan(window: Window) -> Float32:
    return np.full((window.height, window.width), np.nan, np.float32)


def _better(classes: UInt8, sure: Float32, own: UInt8, confidence: Float32 | None) -> Bool:
    """Pixels where a further map decides: nothing has a class yet, or this one is more confident."""
    first = classes == 0
    if confidence is not None:
        # A class without confidence loses against one that has some.
        first |= np.nan_to_num(confidence, nan=-1.0) > np.nan_to_num(sure, nan=-1.0)
    return np.asarray(first & (own > 0))
