"""Compare a class map with reference data: ``das2f-map evaluate``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
from pydantic import ValidationError

from das2f_map.assess.class_match import ReferenceClasses, match_classes
from das2f_map.assess.drawing import CountedMap
from das2f_map.assess.evaluation import AreaUnit, Evaluation
from das2f_map.assess.map_comparison import OtherMap, compare
from das2f_map.assess.map_difference import of_sample
from das2f_map.assess.open_map import OpenMap, open_map
from das2f_map.assess.reference_sample import classified, evaluate_sample
from das2f_map.assess.sample_basis import (
    Basis,
    UnitsOnMap,
    basis_as_given,
    basis_of_file,
    basis_of_strata,
    units_on_map,
)
from das2f_map.assess.sample_design import (
    SAMPLE_LAYER,
    SECOND_CLASS_FIELD,
    SampleDesign,
    checksum,
    read_design,
)
from das2f_map.errors import Das2fMapError, InputError, LabelError
from das2f_map.labels.files import open_labels
from das2f_map.labels.points import ReferencePoints, read_points
from das2f_map.legend import Legend
from das2f_map.progress import Progress, silent
from das2f_map.scene.frames import vector_file
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import given_path
from das2f_map.scene.vector_file import VectorFile
from das2f_map.scene.vector_path import VectorPath
from das2f_map.settings import one_of

if TYPE_CHECKING:
    from das2f_map.scene.frames import VectorSource

DESIGNS = ("auto", "simple", "stratified", "cluster", "none")


def evaluate_map(
    map_path: str | Path,
    reference_path: VectorSource,
    *,
    class_field: str | None = None,
    layer: str | None = None,
    design: str = "auto",
    strata: VectorSource | None = None,
    cluster_field: str | None = None,
    other_map: str | Path | None = None,
    legend: Legend | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Compare a class raster with reference polygons, points (any CRS) or a label raster (any grid).

    If the reference is a probability sample of points, the result has estimates of the map's accuracies and
    of the areas of its classes, with standard errors and 95 % intervals.

    Parameters
    ----------
    map_path:
        Raster of class numbers; nodata is unmapped, and so is 0 without a name. Pixels of the class
        ``unsure`` of `classify --reject` are counted apart.
    reference_path:
        The file, or a GeoDataFrame.
    class_field:
        Attribute of the reference with the class; by default the only plausible one. Of a reference raster,
        the column of its attribute table.
    layer:
        Layer of the reference; by default the only one that fits.
    design:
        ``auto``: the one that the file of `sample` records, else ``none``. For points from elsewhere
        ``simple``, ``stratified`` by the map's classes or ``strata``, or ``cluster``.
    strata:
        Raster or polygons of the strata, instead of the map's classes.
    cluster_field:
        Attribute of the points with their cluster.
    other_map:
        Another map, to compare the accuracies on this reference.
    legend:
        Names of the map's classes; by default those in the file.

    Raises
    ------
    InputError
        The map is missing, no raster of class numbers, or has no CRS; an argument is no path; or the design
        and the other arguments do not fit.
    LabelError
        The reference cannot be used, lies elsewhere, or shares no class with the map; or one of the two has
        names and the other codes that are not the map's values.
    """
    map_path = given_path(map_path, "map_path")
    _check_design(design, strata, cluster_field)
    with ExitStack() as stack:
        reference = stack.enter_context(vector_file(reference_path, "reference"))
        record = _record(reference_path, reference)
        mapped = stack.enter_context(open_map(map_path, legend))
        request = _Request(map_path, reference, class_field, layer, cluster_field, record, progress)
        other = None
        if other_map is not None:
            other = stack.enter_context(open_map(given_path(other_map, "other_map")))
        if record is not None and not record.is_probability_sample:
            if design not in ("auto", "none"):
                raise LabelError(
                    f"{reference} holds candidates by uncertainty, no probability sample: neither areas nor "
                    "accuracies of the map can be estimated from them",
                    "draw a sample: das2f-map sample MAP -o points.gpkg",
                )
            found = _compare(request, mapped, other)
            chosen = "These points were drawn where the map is least sure: it is right more often elsewhere"
            found = replace(found, remarks=(chosen, *found.remarks))
        elif design == "none" or (design == "auto" and record is None):
            found = _compare(request, mapped, other)
            if record is None:
                found = replace(found, remarks=(*found.remarks, *_lost_design(reference)))
        else:
            strata_file = None
            if strata is not None:
                strata_file = stack.enter_context(vector_file(strata, "strata"))
            given = None if design == "auto" else design
            named = "the GeoDataFrame of strata" if hasattr(strata, "to_file") else str(strata)
            found = _estimate(request, mapped, other, given, strata_file, named)
    return replace(found, unit=_unit(mapped.grid))


@dataclass(frozen=True)
class _Request:
    """Files and fields, and the design that the reference's file records."""

    map_path: str
    reference: str
    class_field: str | None
    layer: str | None
    cluster_field: str | None
    record: SampleDesign | None
    progress: Progress


def _check_design(design: str, strata: object, cluster_field: str | None) -> None:
    if design not in DESIGNS:
        raise InputError(f"design {design!r}: Input should be {one_of(DESIGNS)}")
    if strata is not None and design != "stratified":
        raise InputError("Strata belong to a stratified design", "add --design stratified")
    if (design == "cluster") != (cluster_field is not None):
        raise InputError(
            "A cluster design and the field with the cluster of each point go together",
            "give both --design cluster and --cluster-field; a file of das2f-map sample needs neither",
        )


def _record(source: VectorSource, path: str) -> SampleDesign | None:
    """The design of a sample, from its file or from the table that `sample` returned."""
    noted = getattr(source, "attrs", {}).get("das2f_map_sample")
    if noted is not None:
        try:
            return SampleDesign.model_validate(noted)
        except ValidationError as error:
            raise LabelError(
                "the design in the GeoDataFrame's attrs cannot be read", "use the file"
            ) from error
    return read_design(VectorPath.parse(path).file)


def _lost_design(reference: str) -> tuple[str, ...]:
    """A sentence on points with the fields of a sample, but not its design: an export leaves it behind."""
    try:
        layers = VectorFile.open(reference, "reference", error=LabelError).layers
    except Das2fMapError:
        return ()  # a raster, or several layers
    if not any({"sample_id", "stratum", "inclusion"} <= {*layer.fields} for layer in layers):
        return ()
    return (
        "The points have the fields of a sample, but their file lacks its design: give the file that "
        "das2f-map sample wrote, or name the design (--design)",
    )


def _compare(request: _Request, mapped: OpenMap, other: OpenMap | None) -> Evaluation:
    """A comparison with a reference that is no probability sample."""
    with open_labels(
        request.reference, mapped.grid, class_field=request.class_field, layer=request.layer
    ) as reference:
        match = match_classes(mapped, reference, request.reference)
        if not match.map_id:
            raise _nothing_in_common(request.map_path, mapped, request.reference, reference)
        second = None
        if other is not None:
            own, theirs = mapped.grid, other.grid
            if own.window != theirs.window or not own.transform.almost_equals(theirs.transform, 1e-6):
                raise InputError(
                    f"map {other.file.path} does not lie on the pixels of map {request.map_path}",
                    "bring them onto one grid (gdalwarp -te … -tr …), or compare them on a sample of points",
                )
            second = OtherMap(other.file.path, other, match_classes(other, reference, request.reference))
        return compare(mapped, reference, match, request.reference, request.progress, second)


def _estimate(
    request: _Request,
    mapped: OpenMap,
    other: OpenMap | None,
    design: str | None,
    strata: str | None,
    strata_name: str,
) -> Evaluation:
    """Estimates from a probability sample; without ``design``, by the file's own."""
    points = _points(request, mapped.grid, design)
    match = match_classes(mapped, points, request.reference)
    if not match.map_id:
        raise _nothing_in_common(request.map_path, mapped, request.reference, points)
    counted = CountedMap(mapped, progress=request.progress)
    on_map = units_on_map(mapped, points)
    remarks: tuple[str, ...] = ()
    if design is None:
        assert request.record is not None
        same = checksum(request.map_path) == request.record.map_sha256
        same = same or _same_pixels(request.record, points, counted, on_map)
        basis = basis_of_file(request.record, points, same_map=same)
        # Pixels of another map may be larger than the sample's.
        remarks = _repeated(points) if same else ()
    elif strata is not None:
        with open_labels(strata, mapped.grid) as source:
            basis = basis_of_strata(source, mapped, points, strata_name, request.progress)
    else:
        cluster = points.columns[request.cluster_field] if request.cluster_field else None
        basis = basis_as_given(design, counted, on_map, cluster)
    if design is not None:
        remarks = _taken_as(design, points, basis)
    found, designed = evaluate_sample(mapped, points, counted, basis, on_map, match)
    if other is not None:
        theirs = units_on_map(other, points)
        second = classified(other, points, theirs, match_classes(other, points, request.reference))
        first = classified(mapped, points, on_map, match)
        answered = (first.labelled.mapped >= 0) & (second.labelled.mapped >= 0)
        keep = designed.keep
        difference = of_sample(
            other.file.path, first.right[keep], second.right[keep], answered[keep], designed.units
        )
        found = replace(found, difference=difference)
    return replace(found, remarks=remarks)


def _same_pixels(
    record: SampleDesign, points: ReferencePoints, counted: CountedMap, on_map: UnitsOnMap
) -> bool:
    """Whether a map whose file is not the sample's has the same classes: overviews may have been added."""
    strata = {s.id: s.pixels for s in record.strata}
    if strata != {i: int(counted.pixels[i]) for i in counted.ids}:
        return False
    return bool(points.columns["stratum"].tolist() == on_map.classes.tolist())


def _points(request: _Request, grid: Grid, design: str | None) -> ReferencePoints:
    """The points of the reference, with the attributes that the design needs."""
    own = design is None
    layer = request.layer
    label = f"labels {request.reference}"
    file = VectorFile.open(request.reference, label, layer=layer, option="--layer", error=LabelError)
    names = {layer.name for layer in file.layers}
    if own and layer is None and SAMPLE_LAYER in names:
        file = VectorFile.open(request.reference, label, layer=SAMPLE_LAYER, error=LabelError)
    field = request.class_field
    columns: list[str] = []
    fields = {field for one in file.layers for field in one.fields}
    if own:
        field = field or "class"
        columns = ["stratum", "cluster"]
    if request.cluster_field is not None:
        columns = [request.cluster_field]
    if SECOND_CLASS_FIELD in fields and field == "class":
        columns.append(SECOND_CLASS_FIELD)
    return read_points(file, grid, field, columns, squares=own)


def _taken_as(design: str, points: ReferencePoints, basis: Basis) -> tuple[str, ...]:
    """Sentences on the trust that a design which the user names rests on."""
    words = {
        "simple": "a simple random sample of the map's pixels",
        "stratified": f"a random sample within each stratum ({basis.words})",
        "cluster": "points in clusters that were drawn at random, with a chance in proportion to their size",
    }[design]
    return (f"The reference counts as {words}, as given: no file says so", *_repeated(points))


def _repeated(points: ReferencePoints) -> tuple[str, ...]:
    """A sentence on points that share a pixel."""
    several = len(points) - np.unique(np.stack([points.rows, points.cols]), axis=1).shape[1]
    if not several:
        return ()
    return (f"{several:,} points lie in a pixel with another point: each counts on its own",)


def _nothing_in_common(
    map_path: str, mapped: OpenMap, reference_path: str, reference: ReferenceClasses
) -> LabelError:
    return LabelError(
        f"map {map_path} and reference {reference_path} have no class in common",
        f"the map has {', '.join(mapped.legend.names)}; "
        f"the reference has {', '.join(reference.legend.names)}",
    )


def _unit(grid: Grid) -> AreaUnit | None:
    """The unit of areas in a map's CRS; ``None`` for degrees."""
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    if crs.is_geographic or not crs.axis_info:
        return None
    axis = crs.axis_info[0]
    return AreaUnit(axis.unit_name, float(axis.unit_conversion_factor) ** 2)
