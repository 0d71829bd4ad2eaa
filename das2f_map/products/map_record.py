"""The report and the STAC Item that lie beside a map, kept in step with its other files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import ValidationError

from das2f_map.bundle.stac_parts import ITEM_SUFFIX, require_pystac
from das2f_map.errors import InputError
from das2f_map.legend import Legend
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.products.class_areas import ClassArea
from das2f_map.products.map_files import MapPaths
from das2f_map.products.mosaic_report import MosaicReport
from das2f_map.products.report import RunReport
from das2f_map.products.stac_item import write_item
from das2f_map.scene.fingerprint import sha256_of
from das2f_map.scene.products.delivery import read_text

AnyReport: TypeAlias = RunReport | MosaicReport
"""The report of a map: of a run of `classify`, or of a mosaic."""

_MADE_ANEW: Final = "the polygons were made again from the raster"
"""Begins the notice on polygons that the run itself has not written."""


def read_report(path: Path) -> AnyReport | None:
    """The report in a file; ``None`` where there is none that this version reads."""
    if not path.is_file():
        return None
    try:
        text = read_text(str(path))
    except InputError:
        return None
    kinds: tuple[type[RunReport] | type[MosaicReport], ...] = (RunReport, MosaicReport)
    for kind in kinds:
        try:
            return kind.model_validate_json(text)
        except ValidationError:
            continue
    return None


def report_beside(path: Path) -> AnyReport | None:
    """The report of a map, where it lies beside the map and this version reads it."""
    report = read_report(path.with_suffix(".json"))
    if report is None or Path(report.outputs.get("raster", "")).name != path.name:
        return None
    return report


def left_of_the_old_map(outputs: MapPaths) -> list[Path]:
    """Files beside it that the report of an existing map names, and that a new map does not replace."""
    report = report_beside(outputs.raster)
    if report is None:
        return []
    folder, new = Path(report.outputs["raster"]).parent, {p.resolve() for p in outputs.by_kind().values()}
    found = []
    for named in map(Path, report.outputs.values()):
        here = outputs.raster.with_name(named.name)
        if named.parent == folder and here.is_file() and here.resolve() not in new:
            found.append(here)
    return found


@dataclass(frozen=True)
class MapRecord:
    """The report of a map, and the STAC Item where its run wrote one.

    Attributes
    ----------
    raster:
        The map.
    report:
        Its report, which lies beside it.
    """

    raster: Path
    report: AnyReport

    @classmethod
    def beside(cls, raster: Path) -> MapRecord | None:
        """The record of a map; ``None`` where it has no report that this version reads."""
        report = report_beside(raster)
        return None if report is None else cls(raster, report)

    def check(self) -> None:
        """Raise :class:`MissingDependencyError` where the record cannot be written anew."""
        if "stac" in self.report.outputs:
            require_pystac()

    @property
    def path(self) -> Path:
        """The report's file."""
        return self.raster.with_suffix(".json")

    def kind_of(self, file: Path) -> str | None:
        """The kind of output that a file is of this map; ``None`` if the report does not name it."""
        return next((kind for kind in self.report.outputs if _same(self.file_of(kind), file)), None)

    def file_of(self, kind: str) -> Path:
        """Where a file of the map lies or lay, also where all have moved."""
        raster, named = Path(self.report.outputs["raster"]), Path(self.report.outputs[kind])
        flat = self.raster.with_name(named.name)
        if named.is_absolute() != raster.is_absolute():
            return flat
        there = Path(os.path.normpath(self.raster.parent / os.path.relpath(named, raster.parent)))
        return flat if flat.is_file() and not there.is_file() else there

    def write(self, report: AnyReport, staged: Mapping[Path, Path], outputs: StagedOutputs) -> None:
        """Write the report, and the Item, with checksums of the files that are new.

        Parameters
        ----------
        report:
            The report to write.
        staged:
            Final path of each new file → where it lies now.
        outputs:
            The run's, which puts report and Item into place with the others.
        """
        new = {kind: lies for file, lies in staged.items() if (kind := self.kind_of(file)) is not None}
        # A report of an older version has no checksums, and gets none.
        if report.checksums:
            changed = {kind: sha256_of(file) for kind, file in new.items()}
            report = report.model_copy(update={"checksums": {**report.checksums, **changed}})
        place = outputs.stage(self.path, replace=True)
        place.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if isinstance(report, RunReport) and "stac" in report.outputs:
            item = self.raster.with_suffix(ITEM_SUFFIX)
            places = {kind: self.file_of(kind) for kind in report.outputs}
            # Its paths are those of today, also where the map has moved since its run.
            report = report.model_copy(update={"outputs": {k: str(p) for k, p in places.items()}})
            found = {kind: file for kind, file in places.items() if kind != "stac" and file.is_file()}
            write_item(report, item, {**found, **new, "report": place}, outputs.stage(item, replace=True))


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file."""
    return one.resolve() == other.resolve()


def with_legend(report: AnyReport, legend: Legend) -> AnyReport:
    """A report whose classes have the names and colours of a legend."""
    new = {c.id: {"name": c.name, "color": c.color} for c in legend.each()}
    return report.model_copy(
        update={"classes": [c.model_copy(update=new.get(c.id, {})) for c in report.classes]}
    )


def with_polygons(
    report: AnyReport,
    polygons: Mapping[int, ClassArea],
    *,
    min_area_m2: float | None,
    simplify_m: float | None,
) -> AnyReport:
    """A report of a map whose polygons were made again, with these options of `vectorize`.

    ``polygons`` are by class id.
    """
    none = ClassArea(0, 0.0)
    merged = any(polygons.get(c.id, none).pixels != c.pixels for c in report.classes)
    classes = []
    for c in report.classes:
        found = polygons.get(c.id, none)
        drawn = found.area_m2 if found.drawn_m2 is None and merged else found.drawn_m2
        classes.append(c.model_copy(update={"polygons": found.polygons, "polygon_area_m2": drawn}))
    words = [f"--min-area {min_area_m2:g}"] if min_area_m2 else []
    words += [f"--simplify {simplify_m:g}"] if simplify_m else []
    simplified = isinstance(report, RunReport) and report.settings.simplify_m
    warnings = [w for w in report.warnings if not w.startswith(_MADE_ANEW)]
    if words or simplified:
        also = "; the raster keeps its small regions" if merged else ""
        warnings.append(f"{_MADE_ANEW}, with {' and '.join(words) or 'exact outlines'}{also}")
    return report.model_copy(update={"classes": classes, "warnings": warnings})
