"""A map against a probability sample of reference points: the sample's design decides over the estimates.

The design is in the file of `das2f-map sample`, or the user names it. Population and strata follow from it:
the map's pixels with a class, or those of the map that the sample was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from das2f_map.assess.area_estimates import LabelledUnits, MappedGround, estimate
from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.assess.drawing import CountedMap
from das2f_map.assess.map_comparison import ClassMatch, Evaluation, OpenMap
from das2f_map.assess.sample_design import SampleDesign
from das2f_map.assess.sampled_units import ClusteredUnits, StratifiedUnits, Units, occupied
from das2f_map.errors import LabelError
from das2f_map.labels.points import ReferencePoints
from das2f_map.labels.source import LabelSource
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS
from das2f_map.products.areas import PixelAreas
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Window, blocks_of
from das2f_map.types import Bool, Float64, Int64, UInt8

_BLOCK = 512
_FEWEST_IN_POST_STRATUM = 2


@dataclass(frozen=True, eq=False)
class Strata:
    """Strata of a population, and the one of every point.

    Attributes
    ----------
    names:
        (H,).
    pixels, areas:
        float64 (H,): pixels and ground area, m².
    of_unit:
        int64 (n,): stratum of every point; -1 for points outside the population.
    present:
        bool (H, 256): class ids of the map that a stratum has; ``None`` if that is not known.
    post:
        The points were drawn without regard to the strata.
    """

    names: tuple[str, ...]
    pixels: Float64
    areas: Float64
    of_unit: Int64
    present: Bool | None = None
    post: bool = False


@dataclass(frozen=True, eq=False)
class SampledClusters:
    """Cluster of every point, int64 (n,); the design of a file, ``None`` for points from elsewhere; m²."""

    of_unit: Int64
    record: SampleDesign | None
    area: float


@dataclass(frozen=True, eq=False)
class Basis:
    """What the estimates of a sample rest on.

    Attributes
    ----------
    words:
        The design, for the reader.
    strata:
        ``None`` for a cluster design.
    clusters:
        Of a cluster design.
    notes:
        Sentences for the reader.
    """

    words: str
    strata: Strata | None = None
    clusters: SampledClusters | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class UnitsOnMap:
    """Sampled pixels on a map, (n,) each: class ids uint8 (0 for none), ground areas float64, m²."""

    classes: UInt8
    areas: Float64


def units_on_map(mapped: OpenMap, points: ReferencePoints) -> UnitsOnMap:
    """Read a map at points, block by block."""
    grid, areas = mapped.grid, PixelAreas(mapped.grid)
    classes = np.zeros(len(points), np.uint8)
    ground = np.zeros(len(points))
    inside = (
        (points.rows >= 0) & (points.rows < grid.height) & (points.cols >= 0) & (points.cols < grid.width)
    )
    across = -(-grid.width // _BLOCK)
    block = np.where(inside, points.rows // _BLOCK * across + points.cols // _BLOCK, -1)
    for number in np.unique(block[inside]).tolist():
        row, col = number // across * _BLOCK, number % across * _BLOCK
        window = Window(row, col, _BLOCK, _BLOCK).intersection(grid.window)
        here = np.flatnonzero(block == number)
        rows, cols = points.rows[here] - row, points.cols[here] - col
        classes[here] = mapped.strata(window)[rows, cols]
        ground[here] = areas.of(window)[rows, cols]
    if not inside.all():
        ground[~inside] = ground[inside].mean() if inside.any() else areas.mean()
    return UnitsOnMap(classes, ground)


# --- the basis of a design -------------------------------------------------------------------------------


def basis_of_file(design: SampleDesign, points: ReferencePoints, *, same_map: bool) -> Basis:
    """The basis that the file of a sample records.

    Parameters
    ----------
    points:
        With the columns ``stratum`` and ``cluster``.
    same_map:
        Whether the map is the one that the sample was drawn from.

    Raises
    ------
    LabelError
        The file has points of strata or blocks that its design does not have.
    """
    notes = []
    if not same_map:
        notes.append(
            f"The sample was drawn from another map, {design.map_path}: population and strata are that map's"
        )
    if not design.inclusion_is_exact:
        notes.append("Points keep a minimum distance: standard errors are approximate, rather too large")
    if design.clusters is not None:
        of = _positions(points.columns["cluster"], [b.id for b in design.clusters.drawn], "cluster")
        area = sum(s.area_m2 for s in design.strata)
        return Basis(design.in_words, None, SampledClusters(of, design, area), tuple(notes))
    ids = [s.id for s in design.strata]
    post = design.design == "simple"
    words = design.in_words
    if post and not same_map:
        # Without the first map, the class that it gives a point is known, but that would help little.
        everything = np.zeros(len(points), np.int64)
        pixels = np.array([float(design.population_pixels)])
        areas = np.array([sum(s.area_m2 for s in design.strata)])
        return Basis(words, Strata(("the map",), pixels, areas, everything), None, tuple(notes))
    present = None
    if same_map:
        present = np.zeros((len(ids), MOST_CLASSES + 1), bool)
        present[np.arange(len(ids)), ids] = True
    strata = Strata(
        tuple(s.name for s in design.strata),
        np.array([float(s.pixels) for s in design.strata]),
        np.array([s.area_m2 for s in design.strata]),
        _positions(points.columns["stratum"], ids, "stratum"),
        present,
        post,
    )
    if post:
        words += ", post-stratified by the map's classes"
    return Basis(words, strata, None, tuple(notes))


def basis_as_given(
    design: str, counted: CountedMap, units: UnitsOnMap, cluster: pd.Series[Any] | None = None
) -> Basis:
    """The basis of points from elsewhere whose design the user names: the map's pixels with a class.

    Parameters
    ----------
    design:
        ``simple``, ``stratified`` (by the map's classes) or ``cluster``.
    cluster:
        Of a cluster design: the block of every point. Blocks count as drawn with a chance in proportion to
        their pixels, so that each stands for the same ground.
    """
    ids = list(counted.ids)
    if design == "cluster":
        assert cluster is not None
        codes, _ = pd.factorize(cluster)
        of = np.where(units.classes == NODATA_CLASS, -1, codes).astype(np.int64)
        area = float(counted.areas_m2[ids].sum())
        words = "cluster sample; every cluster stands for the same ground"
        return Basis(words, None, SampledClusters(of, None, area))
    present = np.zeros((len(ids), MOST_CLASSES + 1), bool)
    present[np.arange(len(ids)), ids] = True
    strata = Strata(
        tuple(counted.map.stratum_name(i) for i in ids),
        counted.pixels[ids].astype(np.float64),
        counted.areas_m2[ids],
        _at(units.classes, ids),
        present,
        post=design == "simple",
    )
    if design == "simple":
        return Basis("simple random sample, post-stratified by the map's classes", strata)
    return Basis("stratified by the map's classes", strata)


def basis_of_strata(
    source: LabelSource,
    mapped: OpenMap,
    points: ReferencePoints,
    path: str,
    progress: Progress = silent,
) -> Basis:
    """The basis of a sample that is stratified by another raster, or by polygons.

    Parameters
    ----------
    source:
        The strata, opened on the map's grid: the population is its pixels with a class there.
    path:
        Its name, for the reader.

    Raises
    ------
    LabelError
        No pixel of the map lies in a stratum.
    """
    pixels = np.zeros(MOST_CLASSES + 1)
    areas = np.zeros(MOST_CLASSES + 1)
    present = np.zeros((MOST_CLASSES + 1, MOST_CLASSES + 1), bool)
    of_unit = np.zeros(len(points), np.int64)
    ground = PixelAreas(mapped.grid)
    windows = list(source.windows(blocks_of(mapped.grid.window, 2 * _BLOCK)))
    with progress("Measuring strata", len(windows)) as advance:
        for window in windows:
            found, classes = source.read(window).classes, mapped.strata(window)
            # A pixel without a class in the map belongs to no sample of the map.
            found = np.where(classes == NODATA_CLASS, np.uint8(NODATA_CLASS), found)
            flat = found.ravel()
            pixels += np.bincount(flat, minlength=MOST_CLASSES + 1)
            areas += np.bincount(flat, ground.of(window).ravel(), minlength=MOST_CLASSES + 1)
            present[flat, classes.ravel()] = True
            here = (points.rows >= window.row) & (points.rows < window.row_stop)
            here &= (points.cols >= window.col) & (points.cols < window.col_stop)
            of_unit[here] = found[points.rows[here] - window.row, points.cols[here] - window.col]
            advance(1)
    ids = [i for i in source.legend.ids if pixels[i]]
    if not ids:
        raise LabelError(f"strata {path}: no pixel of the map lies in one of them")
    strata = Strata(
        tuple(source.legend[i].name for i in ids), pixels[ids], areas[ids], _at(of_unit, ids), present[ids]
    )
    return Basis(f"stratified by {path}", strata)


def _positions(column: pd.Series[Any], ids: Sequence[int], name: str) -> Int64:
    found = _at(pd.to_numeric(column, errors="coerce").fillna(-1).to_numpy(np.int64), ids)
    if (found < 0).any():
        strange = column[found < 0].iloc[0]
        raise LabelError(
            f"the sample has a point of {name} {strange}, which its design does not have",
            "use the file as das2f-map sample wrote it: edit nothing but the classes",
        )
    return found


def _at(values: Any, ids: Sequence[int]) -> Int64:
    """Position of every value in ``ids``; -1 where it is none of them."""
    order = np.argsort(ids)
    ordered = np.asarray(ids)[order]
    place = np.minimum(np.searchsorted(ordered, values), len(ids) - 1)
    return np.asarray(np.where(ordered[place] == values, order[place], -1), np.int64)


# --- the estimates ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DesignedUnits:
    """Points that count for the estimates.

    Attributes
    ----------
    keep:
        bool (n,): which of all points they are.
    units:
        Their place in the design.
    notes:
        Sentences for the reader.
    """

    keep: Bool
    units: Units
    notes: tuple[str, ...]


def designed_units(basis: Basis, points: ReferencePoints, on_map: UnitsOnMap, names: Any) -> DesignedUnits:
    """The labelled points of a population, as units of the design.

    Parameters
    ----------
    names:
        uint8 or int64 (C,): class id in the map of every class that is compared; 0 for none.

    Raises
    ------
    LabelError
        Fewer than two points have a class.
    """
    notes = list(basis.notes)
    keep = points.labelled
    if waiting := int((~keep).sum()):
        notes.append(
            f"{waiting:,} of {len(points):,} points have no class: they are left out, as if they were like "
            "the others of their stratum"
        )
    of = basis.clusters.of_unit if basis.clusters is not None else None
    of = basis.strata.of_unit if basis.strata is not None else of
    assert of is not None
    if outside := int((keep & (of < 0)).sum()):
        notes.append(f"{outside:,} points lie outside the strata or where the map has no class: left out")
        keep = keep & (of >= 0)
    if keep.sum() < 2:
        raise LabelError(
            f"{int(keep.sum())} points of the sample have a class and lie on the map; estimates need 2",
            "label more points",
        )
    if basis.clusters is not None:
        units: Units = _clustered(basis.clusters, keep, on_map.areas[keep], notes)
        return DesignedUnits(keep, units, tuple(notes))
    assert basis.strata is not None
    return DesignedUnits(
        keep, _stratified(basis.strata, keep, on_map.areas[keep], names, notes), tuple(notes)
    )


def _stratified(
    strata: Strata, keep: Bool, unit_areas: Float64, names: Any, notes: list[str]
) -> StratifiedUnits:
    if strata.post:
        strata = _collapsed(strata, keep, notes)
    own = occupied(strata.of_unit[keep], strata.pixels.size)
    if not own.keep.all():
        lost = [name for name, there in zip(strata.names, own.keep.tolist(), strict=True) if not there]
        share = strata.areas[~own.keep].sum() / strata.areas.sum()
        notes.append(
            f"No point with a class lies in {', '.join(lost)}, {100 * share:.2f} % of the ground: "
            "all figures are of the rest"
        )
    present = None if strata.present is None else strata.present[own.keep][:, names] & (names > 0)
    return StratifiedUnits(
        own.position[strata.of_unit[keep]],
        strata.pixels[own.keep],
        strata.areas[own.keep],
        unit_areas,
        present,
        strata.post,
    )


def _collapsed(strata: Strata, keep: Bool, notes: list[str]) -> Strata:
    """Post-strata with two points or more: smaller ones are joined, if need be with a larger one."""
    sizes = np.bincount(strata.of_unit[keep], minlength=strata.pixels.size)
    small = sizes < _FEWEST_IN_POST_STRATUM
    if not small.any():
        return strata
    if not small.all() and sizes[small].sum() < _FEWEST_IN_POST_STRATUM:
        large = np.flatnonzero(~small)
        small[large[np.argmin(strata.pixels[large])]] = True
    joined = [name for name, s in zip(strata.names, small.tolist(), strict=True) if s]
    notes.append(f"Classes with too few points are one stratum: {', '.join(joined)}")
    position = np.where(small, 0, np.cumsum(~small)).astype(np.int64)
    count = int(position.max()) + 1
    present = None
    if strata.present is not None:
        present = np.zeros((count, strata.present.shape[1]), bool)
        np.logical_or.at(present, position, strata.present)
    return replace(
        strata,
        names=("others", *(n for n, s in zip(strata.names, small.tolist(), strict=True) if not s)),
        pixels=np.bincount(position, strata.pixels, count).astype(np.float64),
        areas=np.bincount(position, strata.areas, count).astype(np.float64),
        of_unit=np.where(strata.of_unit < 0, -1, position[strata.of_unit]),
        present=present,
    )


def _clustered(
    clusters: SampledClusters, keep: Bool, unit_areas: Float64, notes: list[str]
) -> ClusteredUnits:
    there, of = np.unique(clusters.of_unit[keep], return_inverse=True)
    if there.size < 2:
        raise LabelError(
            "Points with a class lie in one cluster alone; estimates need at least 2", "label more points"
        )
    if clusters.record is None:
        return ClusteredUnits.of_chance_by_size(of, unit_areas, clusters.area)
    assert clusters.record.clusters is not None
    design = clusters.record.clusters
    if lost := len(design.drawn) - there.size:
        notes.append(f"{lost:,} of {len(design.drawn):,} blocks have no point with a class: left out")
    drawn = [design.drawn[k] for k in there.tolist()]
    pixels = np.array([float(b.pixels) for b in drawn])
    if design.selection == "equal" or len(design.drawn) == design.blocks:
        return ClusteredUnits.of_equal_chance(of, pixels, design.blocks, unit_areas, clusters.area)
    if len(design.drawn) > 0.05 * design.blocks:
        notes.append(
            f"{len(design.drawn):,} of {design.blocks:,} blocks were drawn by their size; without a "
            "finite-population correction, standard errors are rather too large"
        )
    sizes = np.bincount(of)
    stands_for = pixels / np.array([b.inclusion for b in drawn]) / sizes
    weights = unit_areas * stands_for[of]
    return ClusteredUnits(of, weights * (clusters.area / weights.sum()), 0.0, np.zeros(sizes.size))


@dataclass(frozen=True, eq=False)
class ClassifiedUnits:
    """Points with their classes in the map and the reference, over the classes of both.

    Attributes
    ----------
    labelled:
        All points; -1 in ``reference`` for points without a class.
    map_ids:
        int64 (C,): class id in the map; 0 for classes of the reference alone.
    only_in_reference:
        Points of each class that the map does not have.
    """

    labelled: LabelledUnits
    map_ids: Int64
    only_in_reference: dict[str, int]

    @property
    def right(self) -> Bool:
        """bool (n,): points where map and reference agree."""
        return np.asarray((self.labelled.mapped >= 0) & (self.labelled.mapped == self.labelled.reference))


def classified(
    mapped: OpenMap, points: ReferencePoints, on_map: UnitsOnMap, match: ClassMatch
) -> ClassifiedUnits:
    """Classes of points in a map and in the reference."""
    legend = mapped.legend
    strangers = [i for i in points.legend.ids if i not in match.map_id]
    strangers = [i for i in strangers if (points.class_ids == i).any()]
    names = (*legend.names, *(_apart(points.legend[i].name, legend.names) for i in strangers))
    place = np.full(MOST_CLASSES + 1, -1, np.int64)
    for i, map_id in match.map_id.items():
        place[i] = legend.ids.index(map_id) if map_id in legend.ids else -1
    place[strangers] = len(legend) + np.arange(len(strangers))
    labelled = LabelledUnits(
        names,
        (*legend.ids, *(None for _ in strangers)),
        legend.positions(on_map.classes),
        place[points.class_ids],
    )
    counts = {points.legend[i].name: int((points.class_ids == i).sum()) for i in strangers}
    return ClassifiedUnits(labelled, np.array([*legend.ids, *(0 for _ in strangers)], np.int64), counts)


def _apart(name: str, taken: Sequence[str]) -> str:
    return f"{name} (reference)" if name in taken else name


def evaluate_sample(
    mapped: OpenMap,
    points: ReferencePoints,
    counted: CountedMap,
    basis: Basis,
    on_map: UnitsOnMap,
    match: ClassMatch,
) -> tuple[Evaluation, DesignedUnits]:
    """Estimates of a map from a probability sample, and the units that they rest on.

    Raises
    ------
    LabelError
        Too few points have a class.
    """
    found = classified(mapped, points, on_map, match)
    designed = designed_units(basis, points, on_map, found.map_ids)
    labelled = found.labelled.select(designed.keep)
    ids = found.map_ids
    ground = MappedGround(
        np.where(ids > 0, counted.pixels[ids], 0), np.where(ids > 0, counted.areas_m2[ids], 0.0)
    )
    notes = (*designed.notes, *_agreement(points))
    estimates = estimate(labelled, designed.units, ground, design=basis.words, notes=notes)
    size = len(mapped.legend)
    counts = labelled.counts()[:size, :size].T.copy()
    unsure = on_map.classes[designed.keep] == (mapped.unsure_id or -1)
    unanswered = labelled.mapped < 0
    seen = {*np.unique(labelled.reference).tolist()}
    evaluation = Evaluation(
        matrix=ConfusionMatrix(mapped.legend, counts),
        matched_by=match.by,
        only_in_map=tuple(n for k, n in enumerate(mapped.legend.names) if k not in seen),
        only_in_reference=found.only_in_reference,
        unmapped=int((unanswered & ~unsure).sum()),
        rejected=int((unanswered & unsure).sum()),
        contested=0,
        estimates=estimates,
    )
    return evaluation, designed


def _agreement(points: ReferencePoints) -> tuple[str, ...]:
    """How often two interpreters agree."""
    second = points.columns.get("class_2")
    if second is None:
        return ()
    names = {c.id: c.name for c in points.legend.each()}
    first = np.array([names.get(i, "") for i in points.class_ids.tolist()], dtype=object)
    both = points.labelled & second.notna().to_numpy() & (second.fillna("").astype(str) != "").to_numpy()
    if not both.any():
        return ()
    same = int((first[both] == second.to_numpy()[both]).sum())
    return (
        f"Two interpreters labelled {int(both.sum()):,} points and agree on {same:,}, "
        f"{100 * same / both.sum():.1f} %; the figures use the first one's classes",
    )
