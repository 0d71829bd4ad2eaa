"""Join maps of one legend into one: ``das2f-map mosaic``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np

from das2f_map._version import __version__
from das2f_map.errors import InputError, OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import require_space
from das2f_map.products.map_files import MapContents, MapPaths, MapWriter
from das2f_map.products.map_record import AnyReport, left_of_the_old_map, read_report
from das2f_map.products.mosaic_maps import JoinedLegend, MapToJoin, beside, join_legends
from das2f_map.products.mosaic_parts import MapPart, OpenParts
from das2f_map.products.mosaic_place import Placement, place
from das2f_map.products.mosaic_report import JoinedMap, MosaicReport, Seam
from das2f_map.products.polygons import check_vector_path
from das2f_map.products.provenance import Provenance
from das2f_map.products.report import GridReport, class_reports
from das2f_map.progress import Progress, silent
from das2f_map.running.gdal_cache import gdal_cache
from das2f_map.scene.fingerprint import sha256_of
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.paths import is_local
from das2f_map.scene.virtual_files import with_sources
from das2f_map.types import Bool, Float32, Int32, UInt8

log = logging.getLogger(__name__)

BLOCK: Final = 512
"""Pixels a side of a block."""

_CACHE: Final = 128 << 20
"""Bytes of GDAL's cache of tiles."""

_LARGE: Final = 1 << 30
_EMPTIEST: Final = 100
"""A mosaic of more pixels than this is refused if its maps cover less than one in so many of them."""


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
        A map or a confidence cannot be used, two maps do not have the same classes, or they lie so far apart
        that hardly any of the mosaic would be map.
    OutputError, MissingDependencyError
        An output cannot be written, exists already, or is a file of one of the maps.
    """
    paths = _paths(output, vectors, confidence_output)
    given = [str(m) for m in maps]
    if len(given) < 2 or len({Path(g).resolve() if is_local(g) else g for g in given}) < len(given):
        raise InputError(
            "a mosaic needs two maps or more, each once", "das2f-map mosaic a.tif b.tif -o m.tif"
        )
    reports = [_report_of(path) for path in given]
    _refuse_files_of_maps(paths, given, reports)
    sure, rule_warning = _confidences(given, [str(c) for c in confidence], reports)
    drafts = [path for path, report in zip(given, reports, strict=True) if report and report.draft]
    if overwrite and (stale := left_of_the_old_map(paths)):
        log.warning(
            "%s: of the map that is replaced; the mosaic brings no new one, and the old one stays",
            ", ".join(map(str, stale)),
        )
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
        # Ground between the maps takes no room.
        covered = sum(part.window.height * part.window.width for part in parts)
        require_space(paths.work_bytes(min(covered, grid.height * grid.width), len(joined.legend)))
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
            checksums={kind: sha256_of(path) for kind, path in staged.by_kind().items() if kind != "report"},
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
    maps: list[str], given: list[str], reports: list[AnyReport | None]
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


def _report_of(path: str) -> AnyReport | None:
    """The report next to a map."""
    try:
        return read_report(Path(path).with_suffix(".json"))
    except (OSError, ValueError):  # no name that a file could have
        return None


def _refuse_files_of_maps(paths: MapPaths, maps: list[str], reports: list[AnyReport | None]) -> None:
    """Raise :class:`OutputError` for an output that the report of one of the maps has as its own."""
    owners: dict[Path, str] = {}
    for path, report in zip(maps, reports, strict=True):
        if report is None or Path(report.outputs.get("raster", "")).name != Path(path).name:
            continue
        named = report.outputs.values()
        owners |= {Path(path).with_name(Path(name).name).resolve(): path for name in named}
    for output in paths.by_kind().values():
        if (owner := owners.get(output.resolve())) is not None:
            raise OutputError(f"output {output} belongs to the map {owner}", "choose another output path")


def _on_one_grid(
    maps: Sequence[MapToJoin], joined: JoinedLegend, placements: Sequence[Placement]
) -> tuple[Grid, list[MapPart]]:
    """The grid around all maps, and the maps on it.

    Raises
    ------
    InputError
        The maps lie too far apart.
    """
    top, left = min(p.window.row for p in placements), min(p.window.col for p in placements)
    bottom, right = max(p.window.row_stop for p in placements), max(p.window.col_stop for p in placements)
    grid = maps[0].grid.cropped(Window(top, left, bottom - top, right - left))
    covered = sum(p.window.height * p.window.width for p in placements)
    if grid.height * grid.width > max(_LARGE, _EMPTIEST * covered):
        far = max(range(len(maps)), key=lambda n: _distance(placements[n].window, placements[0].window))
        raise InputError(
            f"the mosaic would have {grid.width:,} × {grid.height:,} pixels, {covered:,} of them with a map: "
            f"{maps[far].path} lies far from {maps[0].path}",
            "is the CRS of each map right? Join maps of one region at a time",
        )
    parts = [
        MapPart(m.path, m.confidence, p.grid, ids, grid, p, p.window.shifted(-top, -left))
        for m, ids, p in zip(maps, joined.ids, placements, strict=True)
    ]
    return grid, parts


def _distance(one: Window, other: Window) -> int:
    """Rows or columns between two windows, whichever are more."""
    rows = max(one.row, other.row) - min(one.row_stop, other.row_stop)
    cols = max(one.col, other.col) - min(one.col_stop, other.col_stop)
    return max(rows, cols)


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
