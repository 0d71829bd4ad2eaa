"""A page about a map for people who would rather look: ``das2f-map report``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from das2f_map.assess.class_match import match_classes
from das2f_map.assess.error_places import ErrorPlaces, find_errors
from das2f_map.assess.evaluation import Evaluation
from das2f_map.assess.map_comparison import compare
from das2f_map.assess.open_map import open_map
from das2f_map.assess.sample_design import checksum as file_checksum
from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import read_card
from das2f_map.errors import InputError, LabelError, ModelError
from das2f_map.labels.files import open_labels
from das2f_map.legend import Legend
from das2f_map.pages.document import Page, check_page_path
from das2f_map.pages.evaluation import EvaluationFigures, figures_of, read_evaluation
from das2f_map.pages.map_page import Confidence, InputFile, MapFacts, map_page
from das2f_map.pages.pictures import read_values
from das2f_map.products.class_areas import ClassArea, value_areas
from das2f_map.products.class_file import ClassFile
from das2f_map.products.map_figure import MapAtAGlance, classes_of, read_at_a_glance
from das2f_map.products.report import RunReport
from das2f_map.progress import Progress, silent
from das2f_map.scene.frames import vector_file
from das2f_map.scene.grid import Grid
from das2f_map.scene.products.delivery import read_text
from das2f_map.types import UInt8

if TYPE_CHECKING:
    from das2f_map.scene.frames import VectorSource

_MAP_PIXELS = 1_000_000
"""Pixels of a picture on the page, at most."""


@dataclass(frozen=True, eq=False)
class MapReport:
    """The report of a map.

    Attributes
    ----------
    facts:
        Everything that it shows.
    page:
        The page.
    path:
        File of the page; ``None`` where none was asked for.
    """

    facts: MapFacts
    page: Page
    path: Path | None

    def _repr_html_(self) -> str:
        return self.page.notebook_form()


def report_map(
    map_path: str | Path,
    output: str | Path | None = None,
    *,
    evaluation: str | Path | Mapping[str, Any] | Evaluation | None = None,
    reference: VectorSource | None = None,
    class_field: str | None = None,
    confidence: str | Path | None = None,
    title: str | None = None,
    checksums: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> MapReport:
    """Write a self-contained HTML page about a map.

    Parameters
    ----------
    map_path:
        Class raster. The run report (``.json``) that `classify` wrote next to it is used where it belongs to
        the map.
    output:
        The page, ``.html``; ``None`` for none, as in a notebook.
    evaluation:
        Result of `evaluate`, as JSON file, as dictionary, or as it was returned.
    reference:
        Reference labels, as a file or a GeoDataFrame: the page shows where the errors lie. Without
        ``evaluation`` they give the figures.
    class_field:
        Attribute of the reference with the class; by default the only plausible one.
    confidence:
        Raster of confidence; by default the one that the run report names.
    title:
        Heading; by default the name of the map's file.
    checksums:
        Compute SHA-256 of the map and of all files that its run read.
    overwrite:
        Replace an existing page.

    Raises
    ------
    InputError
        The map, the evaluation or the confidence raster cannot be used.
    LabelError
        The reference cannot be used, or shares no class with the map.
    OutputError
        The page cannot be written, or exists already.
    """
    path = Path(map_path)
    if output is not None:
        check_page_path(Path(output))
    glance = read_at_a_glance(path, _MAP_PIXELS)
    full = glance.full
    run, notices = _run_report(path, full)
    measured = _measured(path, glance, run, progress)
    legend = measured.legend
    figures = None if evaluation is None else _figures(evaluation, legend)
    places = None
    if reference is not None and legend is not None:
        with vector_file(reference, "reference") as reference_path:
            places, found = _against(path, reference_path, class_field, progress)
        figures = figures or figures_of({**found.to_dict(), "notices": found.notices()}, legend)
    shown, more = _confidence(path, full, confidence, run)
    card = None if run is None else _card(run)
    if run is not None and card is None:
        notices += (f"The model {run.model.name} is not found now: the page lacks its calibration.",)
    facts = MapFacts(
        path=str(path),
        title=title or path.name,
        classes=measured.classes,
        grid=glance.grid,
        full=full,
        legend=legend,
        areas=measured.areas,
        unsure=measured.unsure,
        run=run,
        card=card,
        inputs=_inputs(path, run, reference if isinstance(reference, (str, Path)) else None, checksums),
        evaluation=figures,
        places=places,
        confidence=shown,
        notices=notices + more,
    )
    page = map_page(facts)
    if output is None:
        return MapReport(facts, page, None)
    read = [path, *(Path(f) for f in (evaluation, reference, confidence) if isinstance(f, (str, Path)))]
    page.write(Path(output), inputs=tuple(read), overwrite=overwrite)
    return MapReport(facts, page, Path(output))


def _run_report(path: Path, full: Grid) -> tuple[RunReport | None, tuple[str, ...]]:
    """The run report next to a map, if it belongs to the map; else a sentence that says why not."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return None, ()
    try:
        run = RunReport.model_validate_json(read_text(str(beside)))
    except (InputError, ValidationError):
        return None, (f"{beside.name} is left out: it is no run report that this version reads.",)
    size = (run.grid.height, run.grid.width)
    if size != (full.height, full.width) or not np.allclose(run.grid.transform, list(full.transform)[:6]):
        return None, (f"{beside.name} is left out: it is about another map.",)
    return run, ()


@dataclass(frozen=True, eq=False)
class _Measured:
    """Classes of a map: ids (h, w) at reduced size, legend, areas by id, id of rejected pixels."""

    classes: UInt8
    legend: Legend | None
    areas: dict[int, ClassArea]
    unsure: int | None


def _measured(path: Path, glance: MapAtAGlance, run: RunReport | None, progress: Progress) -> _Measured:
    """Areas of all classes: those of the run report, or else summed over the whole map."""
    with ClassFile.open(path, "map") as file:
        unsure = file.names.unsure
        if (
            run is not None
            and glance.legend is not None
            and {c.id for c in run.classes} == {*glance.legend.ids}
        ):
            reported = {
                c.id: ClassArea(c.pixels, c.area_m2, c.polygons or 0, c.mean_confidence) for c in run.classes
            }
            return _Measured(glance.classes, glance.legend, reported, unsure)
        by_value = value_areas(file, progress)
        # The reduced map may lack a class that the whole one has.
        legend, ids = classes_of(file, [*by_value])
    if legend is None or glance.legend is None:
        return _Measured(glance.classes, legend, {}, None)
    areas = dict.fromkeys(legend.ids, ClassArea(0, 0.0))
    for value, found in by_value.items():
        if (i := ids.get(value)) is not None:
            areas[i] = ClassArea(areas[i].pixels + found.pixels, areas[i].area_m2 + found.area_m2)
    known = dict(zip(legend.names, legend.ids, strict=True))
    table = np.zeros(256, np.uint8)
    for c in glance.legend.each():
        table[c.id] = known.get(c.name, 0)
    unsure = None if unsure is None else ids.get(unsure, unsure if unsure in legend.ids else None)
    return _Measured(table[glance.classes], legend, areas, unsure)


def _figures(
    evaluation: str | Path | Mapping[str, Any] | Evaluation, legend: Legend | None
) -> EvaluationFigures:
    if isinstance(evaluation, (str, Path)):
        return read_evaluation(evaluation, legend)
    if isinstance(evaluation, Evaluation):
        return figures_of({**evaluation.to_dict(), "notices": evaluation.notices()}, legend)
    return figures_of(evaluation, legend)


def _against(
    path: Path, reference: str | Path, class_field: str | None, progress: Progress
) -> tuple[ErrorPlaces, Evaluation]:
    """Where a map is wrong, and its figures."""
    with (
        open_map(path) as mapped,
        open_labels(reference, mapped.grid, class_field=class_field) as labels,
    ):
        match = match_classes(mapped, labels, str(reference))
        if not match.map_id:
            raise LabelError(
                f"map {path} and reference {reference} have no class in common",
                f"the map has {', '.join(mapped.legend.names)}; "
                f"the reference has {', '.join(labels.legend.names)}",
            )
        found = compare(mapped, labels, match, str(reference), progress)
        return find_errors(mapped, labels, match, progress), found


def _confidence(
    path: Path, full: Grid, given: str | Path | None, run: RunReport | None
) -> tuple[Confidence | None, tuple[str, ...]]:
    """The raster of confidence, and a sentence where the one of the run cannot be used."""
    named = None if run is None else run.outputs.get("confidence")
    if given is None and named is None:
        return None, ()
    raster = Path(given) if given is not None else Path(str(named))
    if given is None and not raster.exists():
        raster = path.parent / raster.name
    try:
        values, grid, own = read_values(raster, _MAP_PIXELS)
        if (own.height, own.width) != (full.height, full.width) or own.transform != full.transform:
            raise InputError(
                f"confidence {raster} is not on the grid of map {path}", "give the map's own one"
            )
    except InputError as error:
        if given is not None:
            raise
        return None, (f"The map of the confidence is left out: {error.message}.",)
    return Confidence(str(raster), values, grid, own), ()


def _card(run: RunReport) -> ModelCard | None:
    """The card of the model that made a map; ``None`` if the model is not found."""
    for where in (run.model.path, run.model.name):
        try:
            if where is not None and (card := read_card(find_model(where))).name == run.model.name:
                return card
        except ModelError:
            continue
    return None


def _inputs(
    path: Path, run: RunReport | None, reference: str | Path | None, checksums: bool
) -> tuple[InputFile, ...]:
    named: list[tuple[str, str]] = [("Map", str(path))]
    if run is not None:
        named += [("MS image", run.scene.ms.path), ("PAN image", run.scene.pan.path)]
        named += [("Mask file", run.scene.mask.path)] if run.scene.mask is not None else []
        named += [("Area file", run.aoi)] if run.aoi is not None else []
    if reference is not None:
        named.append(("Reference file", str(reference)))
    return tuple(_input(role, where, checksums) for role, where in named)


def _input(role: str, where: str, checksum: bool) -> InputFile:
    try:
        size = Path(where).stat().st_size
        return InputFile(role, where, size, file_checksum(where) if checksum else None)
    except (OSError, ValueError):
        return InputFile(role, where)
