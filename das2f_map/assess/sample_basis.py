"""The design of a sample of reference points: strata or clusters, and the population that they cover.

The design is in the file of `das2f-map sample`, or the user names it. Population and strata follow from it:
the map's pixels with a class, or those of the map that the sample was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from das2f_map.assess.drawing import CountedMap
from das2f_map.assess.open_map import OpenMap
from das2f_map.assess.sample_design import SampleDesign
from das2f_map.errors import LabelError
from das2f_map.labels.points import ReferencePoints
from das2f_map.labels.source import LabelSource
from das2f_map.legend import MOST_CLASSES, NODATA_CLASS
from das2f_map.products.areas import PixelAreas
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import Window, blocks_of
from das2f_map.types import Bool, Float64, Int64, UInt8

_BLOCK = 512


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
