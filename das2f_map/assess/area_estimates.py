"""Accuracy of a map and area of its classes, estimated from a probability sample, with their uncertainty.

Pixel counts of a map are biased by its errors. A probability sample with the true classes gives unbiased
areas, whatever the map. The estimators are those of Olofsson et al. (2014) and, where strata are not the
map's classes, of Stehman (2014); :mod:`das2f_map.assess.sampled_units` has the designs and
:mod:`das2f_map.assess.intervals` the intervals.

Sources: Olofsson, P., Foody, G. M., Herold, M., Stehman, S. V., Woodcock, C. E., Wulder, M. A. (2014), "Good
practices for estimating area and assessing accuracy of land change", Remote Sensing of Environment 148,
42–57. Stehman (2014), see there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from das2f_map.assess.bootstrap import BootstrapFigures, bootstrap_clusters
from das2f_map.assess.estimates import CONFIDENCE, AreaEstimates, ClassEstimate, Estimate
from das2f_map.assess.intervals import Possible, Ratios, clustered_interval, stratified_interval
from das2f_map.assess.quantiles import t_quantile
from das2f_map.assess.sampled_units import StratifiedUnits, Units
from das2f_map.types import Bool, Float64, Int64

FEW_UNITS = 10
"""Units of a stratum below which a note warns of it."""


@dataclass(frozen=True, eq=False)
class LabelledUnits:
    """Sampled pixels with the class of the map and the true class.

    Attributes
    ----------
    names, ids:
        Classes of the map, then those that only the reference has; their ids, or ``None``.
    mapped, reference:
        int64 (n,): positions in ``names``; -1 in ``mapped`` where the map gives no answer.
    """

    names: tuple[str, ...]
    ids: tuple[int | None, ...]
    mapped: Int64
    reference: Int64

    @property
    def count(self) -> int:
        """Number of units."""
        return int(self.mapped.size)

    def select(self, keep: Bool) -> LabelledUnits:
        """Some of the units."""
        return LabelledUnits(self.names, self.ids, self.mapped[keep], self.reference[keep])

    def counts(self) -> Int64:
        """Units of every (mapped, reference) pair: int64 (C, C); units without an answer are left out."""
        n = len(self.names)
        answered = self.mapped >= 0
        flat = np.bincount(self.mapped[answered] * n + self.reference[answered], minlength=n * n)
        return flat.reshape(n, n).astype(np.int64)


@dataclass(frozen=True, eq=False)
class MappedGround:
    """Pixels int64 (C,) and ground area float64 (C,), m², that a map gives each class; 0 if it lacks one."""

    pixels: Int64
    areas: Float64


def estimate(
    labelled: LabelledUnits,
    units: Units,
    ground: MappedGround,
    *,
    design: str,
    notes: tuple[str, ...] = (),
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> AreaEstimates:
    """Accuracy and areas, with standard errors and intervals, from a probability sample.

    Parameters
    ----------
    labelled:
        Classes of the units; all of them have a reference class.
    units:
        The units' place in the sampling design.
    ground:
        Pixels and areas that the map gives each class of ``labelled``.
    design:
        Its name, for the reader.
    notes:
        Sentences to put before the estimator's own.
    confidence:
        Level of the intervals.
    seed:
        Of the bootstrap for cluster samples.

    Returns
    -------
    The figures. Of a cluster sample, the errors of kappa and F1 come from a bootstrap of the clusters.
    """
    n = len(labelled.names)
    ratios = accuracy_ratios(labelled)
    values = ratios.values(units.weights)
    errors = np.sqrt(units.variance(ratios.linearised(units.weights)))
    errors[errors < 1e-12] = 0.0  # rounding
    resampled: BootstrapFigures | None = None
    if isinstance(units, StratifiedUnits):
        possible = _possible(labelled, units)
        lower, upper = stratified_interval(units, ratios, possible, confidence)
    else:
        each = cell_totals(labelled, units.weights, units.cluster, units.count)
        resampled = bootstrap_clusters(each, confidence=confidence, seed=seed)
        f1_errors = np.array(resampled.f1_errors())
        # A class in few clusters may be missing in too many replicates.
        errors[3 * n + 1 :] = np.where(np.isfinite(f1_errors), f1_errors, errors[3 * n + 1 :])
        lower, upper = clustered_interval(units, ratios, errors, confidence)
    found = [
        Estimate() if math.isnan(v) else Estimate(float(v), float(e), float(low), float(high))
        for v, e, low, high in zip(values, errors, lower, upper, strict=True)
    ]
    overall, shares, users = found[0], found[1 : n + 1], found[n + 1 : 2 * n + 1]
    producers, f1 = found[2 * n + 1 : 3 * n + 1], found[3 * n + 1 :]
    counts = labelled.counts()
    cells = cell_totals(labelled, units.weights, np.zeros(labelled.count, np.int64), 1)[0] / units.total
    classes = tuple(
        ClassEstimate(
            id=labelled.ids[k],
            name=labelled.names[k],
            mapped_pixels=int(ground.pixels[k]),
            mapped_area_m2=float(ground.areas[k]),
            share=shares[k],
            area_m2=shares[k].scaled(units.total),
            users_accuracy=users[k],
            producers_accuracy=producers[k],
            f1=f1[k],
            mapped_units=int(counts[k].sum()),
            reference_units=int((labelled.reference == k).sum()),
        )
        for k in range(n)
    )
    return AreaEstimates(
        design=design,
        units=labelled.count,
        area_m2=units.total,
        overall_accuracy=overall,
        kappa=_kappa(labelled, units, cells, overall, resampled, confidence),
        classes=classes,
        cells=cells,
        counts=counts,
        confidence=confidence,
        notes=(*notes, *_notes(labelled, units, classes, counts)),
    )


def accuracy_ratios(labelled: LabelledUnits) -> Ratios:
    """Overall accuracy, then the classes' shares, user's and producer's accuracies and F1: 4 C + 1 figures.

    A unit without an answer of the map counts for the shares alone.
    """
    each = np.arange(len(labelled.names))
    answered = (labelled.mapped >= 0)[:, None]
    mapped = labelled.mapped[:, None] == each
    true = labelled.reference[:, None] == each
    both, only_mapped, only_true = mapped & true, mapped & ~true, answered & true & ~mapped
    right = both.any(axis=1, keepdims=True)
    good = np.concatenate([right, true, both, both, both], axis=1)
    bad = np.concatenate([answered & ~right, ~true, only_mapped, only_true, only_mapped | only_true], axis=1)
    factor = np.concatenate([np.ones(1 + 3 * each.size), np.full(each.size, 2.0)])
    return Ratios(good.astype(float), bad.astype(float), factor)


def _possible(labelled: LabelledUnits, units: StratifiedUnits) -> Possible:
    """Strata that can have good and bad units of the figures of :func:`accuracy_ratios`."""
    n, strata = len(labelled.names), units.pixels.size
    present = units.present
    if present is None:
        present = np.zeros((strata, n), bool)
        answered = labelled.mapped >= 0
        present[units.stratum[answered], labelled.mapped[answered]] = True
    others = present.sum(axis=1, keepdims=True) - present > 0
    some = present.any(axis=1, keepdims=True)
    always = np.ones((strata, n), bool)
    good = np.concatenate([some, always, present, present, present], axis=1)
    bad = np.concatenate([some, always, present, others, present | others], axis=1)
    return Possible(good, bad)


def cell_totals(labelled: LabelledUnits, weights: Float64, group: Int64, groups: int) -> Float64:
    """Ground of every (mapped, reference) pair in every group of units, m²: float64 (groups, C, C)."""
    n = len(labelled.names)
    answered = labelled.mapped >= 0
    at = (group * n + labelled.mapped) * n + labelled.reference
    flat = np.bincount(at[answered], weights[answered], minlength=groups * n * n)
    result: Float64 = flat.reshape(groups, n, n).astype(np.float64)
    return result


def _kappa(
    labelled: LabelledUnits,
    units: Units,
    cells: Float64,
    overall: Estimate,
    resampled: BootstrapFigures | None,
    confidence: float,
) -> Estimate:
    """Cohen's kappa of the estimated error matrix, with the delta method, or the bootstrap for clusters."""
    whole = cells.sum()
    if whole <= 0 or overall.value is None or overall.lower is None or overall.upper is None:
        return Estimate()
    shares = cells / whole
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    chance, observed = float(rows @ columns), float(np.trace(shares))
    if chance >= 1:
        return Estimate()
    value = (observed - chance) / (1 - chance)
    answered = labelled.mapped >= 0
    right = (labelled.mapped == labelled.reference) & answered
    slope = (1 - observed) / (1 - chance) ** 2
    influence = right / (1 - chance) - slope * (columns[labelled.mapped] + rows[labelled.reference])
    centre = observed / (1 - chance) - 2 * slope * chance
    influence = np.where(answered, influence - centre, 0.0) / (whole * units.total)
    error = math.sqrt(float(units.variance(influence[:, None])[0]))
    if error == 0 or value >= 1:
        # Without an error in the sample, doubt about the overall accuracy is doubt about kappa.
        ends = (overall.lower, overall.upper)
        low, high = (max(-1.0, (end - chance) / (1 - chance)) for end in ends)
        return Estimate(value, error, low, high)
    if resampled is not None:
        return _resampled(Estimate(value, error, None, None), *resampled.kappa_interval())
    half = t_quantile((1 + confidence) / 2, units.degrees) * error
    return Estimate(value, error, max(-1.0, value - half), min(1.0, value + half))


def _resampled(analytic: Estimate, error: float, lower: float, upper: float) -> Estimate:
    """An estimate with the bootstrap's error and interval, where the bootstrap found any spread."""
    if analytic.value is None or not error > 0 or not lower < upper:
        return analytic
    return Estimate(analytic.value, error, min(lower, analytic.value), max(upper, analytic.value))


def _notes(
    labelled: LabelledUnits, units: Units, classes: tuple[ClassEstimate, ...], counts: Int64
) -> tuple[str, ...]:
    found = []
    if unanswered := int((labelled.mapped < 0).sum()):
        found.append(
            f"{unanswered:,} of {labelled.count:,} units lie where the map gives no class: "
            "they count for the areas, not for the accuracies"
        )
    never = [c.name for c in classes if c.reference_units == 0]
    if never:
        found.append(
            f"The reference has no unit of {', '.join(never)}: the area is 0 up to the upper end of its "
            "interval"
        )
    unseen = [c.name for c in classes if c.mapped_units == 0 and c.mapped_pixels]
    if unseen:
        found.append(f"No unit is mapped as {', '.join(unseen)}: the user's accuracy is not known")
    right = np.diag(counts)
    flawless = [
        c.name
        for k, c in enumerate(classes)
        if c.mapped_units and right[k] in (0, c.mapped_units) and not c.users_accuracy.is_exact
    ]
    if flawless:
        found.append(
            f"The units mapped as {', '.join(flawless)} are all right or all wrong: the standard error is 0, "
            "the interval is Wilson's and has a width"
        )
    if isinstance(units, StratifiedUnits):
        if single := int((units.sizes == 1).sum()):
            found.append(
                f"Strata with a single unit: {single}; its distance from the mean of all takes the place of "
                "a variance"
            )
        if int(units.sizes.min()) < FEW_UNITS:
            found.append(
                f"The smallest stratum has {int(units.sizes.min())} units; with fewer than {FEW_UNITS} "
                "its share of errors is hardly known"
            )
        if (units.fractions > 0.05).any():
            found.append("More than 5 % of a stratum was sampled: the finite-population correction counts")
        if (units.fractions >= 1).any():
            found.append("A stratum was sampled wholly: it adds no uncertainty")
    elif units.count < 20:
        found.append(f"Only {units.count} clusters: intervals of cluster samples are rough below 20")
    return tuple(found)
