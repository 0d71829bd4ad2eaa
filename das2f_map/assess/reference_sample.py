"""A map against a probability sample of reference points: the sample's design decides over the estimates.

:mod:`das2f_map.assess.sample_basis` has the design, :mod:`das2f_map.assess.area_estimates` the estimators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from das2f_map.assess.area_estimates import LabelledUnits, MappedGround, estimate
from das2f_map.assess.class_match import ClassMatch
from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.assess.drawing import CountedMap
from das2f_map.assess.evaluation import Evaluation
from das2f_map.assess.open_map import OpenMap
from das2f_map.assess.sample_basis import Basis, SampledClusters, Strata, UnitsOnMap
from das2f_map.assess.sampled_units import ClusteredUnits, StratifiedUnits, Units, occupied
from das2f_map.errors import LabelError
from das2f_map.labels.points import ReferencePoints
from das2f_map.legend import MOST_CLASSES
from das2f_map.types import Bool, Float64, Int64

_FEWEST_IN_POST_STRATUM = 2


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
