"""Draw a reference sample from a class map: ``das2f-map sample``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from das2f_map._version import __version__
from das2f_map.assess.allocation import (
    AllocationRule,
    SampleSize,
    Strata,
    allocate,
    deviations,
    simple_size,
    stratified_size,
)
from das2f_map.assess.candidates import Measure, candidates, open_values
from das2f_map.assess.drawing import (
    ClusterRule,
    Clusters,
    CountedMap,
    Pixels,
    apart,
    clustered,
    shuffled,
    simple,
    stratified,
)
from das2f_map.assess.html_tables import html_page, html_table
from das2f_map.assess.open_map import OpenMap, open_map
from das2f_map.assess.sample_design import ClusterDesign, SampleDesign, Stratum, checksum
from das2f_map.assess.sample_file import SampledPixels, as_frame, write_sample
from das2f_map.assess.sample_settings import SampleSettings
from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.progress import Progress, silent
from das2f_map.scene.paths import given_path
from das2f_map.types import Float64, Int64

USUAL_POINTS = 500
"""Points where the user names neither a number nor a precision."""


@dataclass(frozen=True, eq=False)
class DrawnSample:
    """A reference sample that was drawn.

    Attributes
    ----------
    design:
        How it was drawn.
    points:
        Its points or pixels, as in the file: fields of :data:`SAMPLE_FIELDS`.
    path:
        The GeoPackage; ``None`` where none was asked for.
    steps:
        How its size was computed, a sentence each.
    notices:
        Sentences for the reader.
    """

    design: SampleDesign
    points: gpd.GeoDataFrame
    path: Path | None
    steps: tuple[str, ...]
    notices: tuple[str, ...]

    def table(self) -> list[list[str]]:
        """Header and a row for each stratum as text: pixels, share of the map, points."""
        whole = self.design.population_pixels
        rows = [
            [s.name, f"{s.pixels:,}", f"{100 * s.pixels / whole:.2f} %", f"{s.sampled:,}"]
            for s in self.design.strata
        ]
        total = ["total", f"{whole:,}", "100 %", f"{self.design.sampled:,}"]
        return [["class", "pixels", "share", "points"], *rows, total]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the design, the computation of the size, the notices."""
        return {
            **self.design.model_dump(mode="json"),
            "points": len(self.points),
            "is_probability_sample": self.design.is_probability_sample,
            "output": None if self.path is None else str(self.path),
            "steps": list(self.steps),
            "notices": list(self.notices),
        }

    def to_html(self) -> str:
        """The table and the sentences as HTML; a notebook shows it."""
        title = f"{len(self.points):,} points, {self.design.in_words}"
        return html_page(title, [html_table(self.table())], (*self.steps, *self.notices))

    def _repr_html_(self) -> str:
        return self.to_html()


def sample_map(
    map_path: str | Path,
    output: str | Path | None = None,
    *,
    design: str = SampleSettings.design,
    points: int | None = SampleSettings.points,
    precision: float | None = SampleSettings.precision,
    expected: float | Mapping[str, float] | None = None,
    allocation: str = SampleSettings.allocation,
    target: Sequence[str] = (),
    min_per_stratum: int | None = SampleSettings.min_per_stratum,
    block_size: int = SampleSettings.block_size,
    per_block: int = SampleSettings.per_block,
    block_selection: str = SampleSettings.block_selection,
    min_distance: float | None = SampleSettings.min_distance,
    seed: int = SampleSettings.seed,
    squares: bool = False,
    second_interpreter: bool = False,
    uncertainty: str | Path | None = None,
    legend: Legend | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> DrawnSample:
    """Draw a probability sample of a map's pixels for reference labels, or candidates for further labels.

    Parameters
    ----------
    map_path:
        Class raster. Pixels without a class are never drawn.
    output:
        GeoPackage to write; ``None`` for none.
    design, points, precision, allocation, min_per_stratum, block_size, per_block, block_selection, \
min_distance, seed:
        See :class:`SampleSettings`. Without ``points`` and ``precision``, 500 points are drawn.
    expected:
        User's accuracy 0..1 that is expected, of all classes or by class name; 0.8 by default.
    target:
        Classes whose areas an optimal allocation is for.
    squares:
        Whether each pixel is a square, instead of a point at its centre.
    second_interpreter:
        Whether there is a field for the class by a second interpreter.
    uncertainty:
        Raster of probabilities, confidence or entropy of the map. With it, the pixels are drawn that the map
        is least sure of. They are no probability sample.
    legend:
        Names of the map's classes; by default those in the file.

    Raises
    ------
    InputError
        The map or the raster cannot be used, or the settings do not fit it.
    OutputError
        The file cannot be written, or exists already.
    """
    map_path = given_path(map_path, "map_path")
    settings = SampleSettings(
        design=design,
        points=points,
        precision=precision,
        allocation=allocation,
        min_per_stratum=min_per_stratum,
        block_size=block_size,
        per_block=per_block,
        block_selection=block_selection,
        min_distance=min_distance,
        seed=seed,
        expected={"": expected} if isinstance(expected, (int, float)) else dict(expected or {}),
        target=tuple(target),
    )
    path = None if output is None else Path(output)
    if path is not None and path.suffix.lower() != ".gpkg":
        raise OutputError(
            f"output {path} is not a GeoPackage",
            "give it the extension .gpkg: other formats cannot keep the design and the form",
        )
    inputs = [map_path] if uncertainty is None else [map_path, given_path(uncertainty, "uncertainty")]
    with StagedOutputs(inputs=inputs, overwrite=overwrite) as staged:
        place = None if path is None else staged.stage(path)
        with open_map(map_path, legend) as mapped:
            counted = CountedMap(mapped, progress=progress)
            if uncertainty is None:
                drawn = _draw(counted, settings, progress)
            else:
                drawn = _candidates(counted, settings, str(uncertainty), progress)
            made = _design(drawn, counted, settings, map_path)
            names = tuple(c.name for c in mapped.legend.each() if c.id != mapped.unsure_id)
            frame = as_frame(drawn.sampled, made, mapped.grid, squares=squares, second=second_interpreter)
            if place is not None:
                write_sample(place, frame, made, names or mapped.legend.names)
    return DrawnSample(made, frame, path, drawn.steps, (*drawn.notices, *_notices(made, settings)))


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Pixels in the order of their numbers, and how they came about."""

    sampled: SampledPixels
    clusters: Clusters | None = None
    measure: Measure | None = None
    steps: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def _draw(counted: CountedMap, settings: SampleSettings, progress: Progress) -> _Drawn:
    """A probability sample, in random order."""
    names = _names(counted.map, counted.ids)
    strata = Strata(counted.ids, tuple(names.values()), counted.pixels[list(counted.ids)])
    known = {i: n for i, n in names.items() if i != counted.map.unsure_id}
    expected = settings.expected_of(known)
    size, rule, deviation = _size(strata, settings, expected)
    clusters = None
    if settings.design == "cluster":
        block = ClusterRule(settings.block_size, settings.per_block, settings.block_selection)
        clusters = clustered(counted, size.points, block, settings.seed, progress)
        pixels = clusters.pixels
    else:
        wanted = {0: min(size.points, counted.population)}
        if settings.design == "stratified":
            shared = allocate(strata, size.points, rule, deviation)
            wanted = dict(zip(strata.ids, shared.tolist(), strict=True))
        if settings.min_distance is not None:
            pixels = apart(counted, wanted, settings.min_distance, settings.seed, progress)
        elif settings.design == "simple":
            pixels = simple(counted, wanted[0], settings.seed, progress)
        else:
            pixels = stratified(counted, wanted, settings.seed, progress)
    order = shuffled(settings.seed, len(pixels.rows))
    inclusion, block_of = _inclusion(pixels, counted, settings, clusters)
    sampled = SampledPixels(pixels.taken(order), inclusion[order], block_of[order])
    notices: tuple[str, ...] = ()
    if len(pixels.rows) < size.points:
        all_there_is = "pixels with a class"
        if clusters is not None:
            all_there_is = f"blocks, {clusters.blocks:,}, and each gives {settings.per_block} points at most"
        notices = (
            f"{len(pixels.rows):,} points instead of {size.points:,}: the map has no more {all_there_is}",
        )
    return _Drawn(sampled, clusters, None, size.steps, notices)


def _size(
    strata: Strata, settings: SampleSettings, expected: Mapping[int, float]
) -> tuple[SampleSize, AllocationRule, Float64]:
    """Number of points, the rule that shares them out, and the expected deviation of each stratum."""
    rule = AllocationRule(settings.allocation, settings.min_per_stratum)
    overall = deviations(strata, expected)
    deviation = deviations(strata, expected, settings.target) if settings.target else overall
    said = ", ".join(
        f"{n} {expected[i]:.2f}" for i, n in zip(strata.ids, strata.names, strict=True) if i in expected
    )
    if settings.precision is None:
        points = settings.points or USUAL_POINTS
        steps: tuple[str, ...] = ()
        if (settings.design, settings.allocation) == ("stratified", "optimal"):
            steps = (f"Expected user's accuracies: {said}",)
        return SampleSize(points, steps), rule, deviation
    if settings.design == "simple":
        accuracy = sum(
            w * expected.get(i, 0.5) for i, w in zip(strata.ids, strata.weights.tolist(), strict=True)
        )
        size = simple_size(accuracy, settings.precision, int(strata.pixels.sum()))
    else:
        size = stratified_size(strata, settings.precision, rule, overall)
    steps = (f"Expected user's accuracies: {said}", *size.steps)
    return SampleSize(max(2, size.points), steps), rule, deviation


def _candidates(counted: CountedMap, settings: SampleSettings, path: str, progress: Progress) -> _Drawn:
    """The least sure pixels, in the order of their use."""
    if settings.precision is not None:
        raise InputError(
            "A precision cannot be reached by candidates: they are no probability sample",
            "give --points instead of --precision",
        )
    wanted = settings.points or USUAL_POINTS
    with open_values(path, counted.map.grid) as values:
        pixels = candidates(counted, values, wanted, settings.seed, progress)
        measure = values.measure
    number = len(pixels.rows)
    if not number:
        raise InputError(f"{path} has no value where the map has a class")
    sampled = SampledPixels(pixels, np.full(number, np.nan), np.full(number, -1, np.int64))
    notices: tuple[str, ...] = ()
    if number < wanted:
        notices = (f"Only {number:,} of {wanted:,} points were found apart from each other",)
    return _Drawn(sampled, None, measure, (), notices)


def _inclusion(
    pixels: Pixels, counted: CountedMap, settings: SampleSettings, clusters: Clusters | None
) -> tuple[Float64, Int64]:
    """Probability that the design draws each pixel, and its block, -1 for none."""
    number = len(pixels.rows)
    if clusters is not None:
        chance = {b.id: b.inclusion * b.sampled / b.pixels for b in clusters.drawn}
        return np.array([chance[b] for b in clusters.block_of.tolist()]), clusters.block_of
    none = np.full(number, -1, np.int64)
    if settings.design == "simple":
        return np.full(number, number / counted.population), none
    drawn = np.bincount(pixels.classes, minlength=counted.pixels.size)
    share = drawn / np.maximum(counted.pixels, 1)
    return np.asarray(share[pixels.classes], np.float64), none


def _design(drawn: _Drawn, counted: CountedMap, settings: SampleSettings, map_path: str) -> SampleDesign:
    """The record of the design."""
    names = _names(counted.map, counted.ids)
    points = np.bincount(drawn.sampled.pixels.classes, minlength=counted.pixels.size)
    by_block = None
    if drawn.clusters is not None:
        by_block = ClusterDesign(
            selection="equal" if settings.block_selection == "equal" else "proportional",
            blocks=drawn.clusters.blocks,
            size=settings.block_size,
            drawn=drawn.clusters.drawn,
        )
    area = float(counted.areas_m2[list(counted.ids)].sum())
    return SampleDesign.model_validate(
        {
            "design": "uncertainty" if drawn.measure else settings.design,
            "allocation": settings.allocation
            if settings.design == "stratified" and not drawn.measure
            else None,
            "seed": settings.seed,
            "map_path": map_path,
            "map_sha256": checksum(map_path),
            "strata": tuple(
                Stratum(
                    id=i,
                    name=names[i],
                    pixels=int(counted.pixels[i]),
                    sampled=int(points[i]),
                    area_m2=float(counted.areas_m2[i]),
                )
                for i in counted.ids
            ),
            "population_pixels": counted.population,
            "pixel_area_m2": area / counted.population if counted.even else None,
            "clusters": by_block,
            "min_distance": None if drawn.measure else settings.min_distance,
            "measure": drawn.measure,
            "software_version": __version__,
        }
    )


def _names(mapped: OpenMap, ids: Sequence[int]) -> dict[int, str]:
    return {i: mapped.stratum_name(i) for i in ids}


def _notices(design: SampleDesign, settings: SampleSettings) -> tuple[str, ...]:
    found = []
    if design.design == "uncertainty":
        found.append(
            "These points are no probability sample: use them as labels, never for areas or accuracies"
        )
    elif missing := [s.name for s in design.strata if not s.sampled]:
        found.append(
            f"No point lies in {', '.join(missing)}: a stratified sample has points in every class of the map"
        )
    if design.clusters is not None and len(design.clusters.drawn) < 20:
        found.append(
            f"Only {len(design.clusters.drawn)} blocks were drawn: with fewer than 20, intervals are rough; "
            "give more --points or fewer --per-block"
        )
    if design.min_distance is not None:
        found.append(
            "With a minimum distance the chances of pixels are a little uneven: estimates are approximate"
        )
    return tuple(found)
