"""Probability samples of a map's pixels: the weight of every unit, and the variance of a weighted sum.

All figures of :mod:`das2f_map.assess.area_estimates` are ratios of weighted sums over the units. A design
says how much ground each unit stands for, and how far such a sum differs from sample to sample.

Sources: Cochran, W. G. (1977), "Sampling Techniques", 3rd ed., Wiley, chapters 5, 5A and 10. Stehman, S. V.
(2014), "Estimating area and map accuracy for stratified random sampling when the strata are different from
the map classes", International Journal of Remote Sensing 35, 4923–4939. Särndal, C.-E., Swensson, B.,
Wretman, J. (1992), "Model Assisted Survey Sampling", Springer, chapters 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from das2f_map.types import Bool, Float64, Int64


@dataclass(frozen=True, eq=False)
class StratifiedUnits:
    """Pixels drawn at random within strata; a simple random sample has one stratum.

    Strata without a unit must be left out before, see :func:`occupied`.

    Attributes
    ----------
    stratum:
        int64 (n,): stratum of every unit, as a position in the arrays below.
    pixels, areas:
        float64 (H,): pixels and ground area of every stratum, m².
    unit_areas:
        float64 (n,): ground area of every unit's pixel, m².
    present:
        bool (H, C): which map classes a stratum has at all; ``None`` if the units alone tell.
    post:
        The units were drawn from the whole map, and the strata were made afterwards.
    """

    stratum: Int64
    pixels: Float64
    areas: Float64
    unit_areas: Float64
    present: Bool | None = None
    post: bool = False

    @property
    def total(self) -> float:
        """Ground area of all strata, m²."""
        return float(self.areas.sum())

    @cached_property
    def sizes(self) -> Int64:
        """Units of every stratum, int64 (H,)."""
        return np.bincount(self.stratum, minlength=self.pixels.size)

    @cached_property
    def fractions(self) -> Float64:
        """Share of a stratum's pixels that was drawn, float64 (H,)."""
        if self.post:
            return np.full(self.pixels.size, min(1.0, self.stratum.size / self.pixels.sum()))
        return np.minimum(1.0, self.sizes / np.maximum(self.pixels, 1.0))

    @cached_property
    def weights(self) -> Float64:
        """Ground that every unit stands for, m²: float64 (n,); they add up to the area of the strata."""
        sums = np.bincount(self.stratum, self.unit_areas, minlength=self.pixels.size)
        result: Float64 = self.areas[self.stratum] * self.unit_areas / sums[self.stratum]
        return result

    @property
    def degrees(self) -> float:
        """Degrees of freedom."""
        return max(1.0, float(self.stratum.size - self.pixels.size))

    def variance(self, values: Float64) -> Float64:
        """Variance of the weighted sum of every column of ``values`` (n, F): float64 (F,).

        A stratum with a single unit has no spread of its own. Its unit's distance from 0 counts instead: the
        mean of linearised values is 0.
        """
        means = self.means(values)
        single = self.sizes == 1
        centre = np.where(single[:, None], 0.0, means)
        off = self.weights[:, None] * (values - centre[self.stratum])
        squares = self.sums(off * off)
        factor = np.where(single, 1.0, self.sizes / np.maximum(1, self.sizes - 1)) * (1 - self.fractions)
        result: Float64 = factor @ squares
        return result

    def means(self, values: Float64) -> Float64:
        """Area-weighted mean of every column of ``values`` (n, F) in every stratum: float64 (H, F)."""
        sums = np.bincount(self.stratum, self.unit_areas, minlength=self.pixels.size)
        result: Float64 = self.sums(values * self.unit_areas[:, None]) / sums[:, None]
        return result

    def sums(self, values: Float64) -> Float64:
        """Sum of every column of ``values`` (n, F) in every stratum: float64 (H, F)."""
        return _sums(self.stratum, values, self.pixels.size)


@dataclass(frozen=True, eq=False)
class ClusteredUnits:
    """Pixels of clusters, such as blocks of the map, that were drawn first.

    Attributes
    ----------
    cluster:
        int64 (n,): number of every unit's cluster, from 0 without gaps. One that was drawn twice is two.
    weights:
        float64 (n,): ground that every unit stands for, m², scaled to the area of the map.
    first_fraction:
        Share of the clusters that was drawn; 0 where they were drawn with replacement.
    second_fractions:
        float64 (m,): share of each cluster's pixels that was drawn.
    """

    cluster: Int64
    weights: Float64
    first_fraction: float
    second_fractions: Float64

    @classmethod
    def of_equal_chance(
        cls, cluster: Int64, cluster_pixels: Float64, clusters: int, unit_areas: Float64, area: float
    ) -> ClusteredUnits:
        """Clusters drawn at random without replacement, each with the same chance.

        Parameters
        ----------
        cluster:
            As the attribute.
        cluster_pixels:
            float64 (m,): pixels of each drawn cluster.
        clusters:
            Clusters that the map has.
        unit_areas:
            float64 (n,): ground area of every unit's pixel, m².
        area:
            Of the map, m².
        """
        sizes = np.bincount(cluster, minlength=cluster_pixels.size)
        weights = unit_areas * (cluster_pixels / sizes)[cluster]
        return cls(
            cluster,
            weights * (area / weights.sum()),
            min(1.0, cluster_pixels.size / clusters),
            np.minimum(1.0, sizes / np.maximum(cluster_pixels, 1.0)),
        )

    @classmethod
    def of_chance_by_size(cls, cluster: Int64, unit_areas: Float64, area: float) -> ClusteredUnits:
        """Clusters drawn with replacement, with a chance that is proportional to their pixels.

        Every draw stands for the same share of the map (the estimator of Hansen and Hurwitz). The parameters
        are those of :meth:`of_equal_chance`.
        """
        sizes = np.bincount(cluster)
        weights = unit_areas / sizes[cluster]
        return cls(cluster, weights * (area / weights.sum()), 0.0, np.zeros(sizes.size))

    @property
    def total(self) -> float:
        """Ground area of the map, m²."""
        return float(self.weights.sum())

    @property
    def count(self) -> int:
        """Clusters drawn."""
        return int(self.second_fractions.size)

    @property
    def degrees(self) -> float:
        """Degrees of freedom."""
        return max(1.0, float(self.count - 1))

    def variance(self, values: Float64) -> Float64:
        """Variance of the weighted sum of every column of ``values`` (n, F): float64 (F,).

        The spread between clusters and, where the drawn share of the clusters counts, the spread within them.
        """
        m = self.count
        weighted = self.weights[:, None] * values
        sums = self.sums(weighted)
        between = (
            (1 - self.first_fraction) * m / max(1, m - 1) * ((sums - sums.mean(axis=0)) ** 2).sum(axis=0)
        )
        sizes = np.bincount(self.cluster, minlength=m)
        off = weighted - (sums / sizes[:, None])[self.cluster]
        factor = (1 - self.second_fractions) * sizes / np.maximum(1, sizes - 1)
        result: Float64 = between + self.first_fraction * (factor @ self.sums(off * off))
        return result

    def sums(self, values: Float64) -> Float64:
        """Sum of every column of ``values`` (n, F) in every cluster: float64 (m, F)."""
        return _sums(self.cluster, values, self.count)


Units = StratifiedUnits | ClusteredUnits


@dataclass(frozen=True, eq=False)
class Occupied:
    """Strata that have a unit.

    Attributes
    ----------
    keep:
        bool (H,): which strata they are.
    position:
        int64 (H,): their new number; -1 for the others.
    """

    keep: Bool
    position: Int64 = field(repr=False)


def occupied(stratum: Int64, count: int) -> Occupied:
    """Which of ``count`` strata have a unit."""
    keep = np.bincount(stratum, minlength=count) > 0
    return Occupied(keep, np.where(keep, np.cumsum(keep) - 1, -1))


def _sums(group: Int64, values: Float64, count: int) -> Float64:
    """Sum of the rows of every group: float64 (count, F)."""
    order = np.argsort(group, kind="stable")
    there, starts = np.unique(group[order], return_index=True)
    result = np.zeros((count, values.shape[1]))
    if starts.size:
        result[there] = np.add.reduceat(values[order], starts, axis=0)
    return result
