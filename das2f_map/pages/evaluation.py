"""The figures of an evaluation as a page reads them: from the JSON of ``evaluate``, of any design."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.errors import InputError
from das2f_map.legend import Legend, LegendClass
from das2f_map.scene.paths import exists
from das2f_map.scene.products.delivery import read_text


@dataclass(frozen=True)
class Estimate:
    """An estimated figure: its value, standard error and interval; ``None`` where it is not known."""

    value: float | None
    error: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the interval has no width: all pixels that the figure is about were sampled."""
        if self.interval is None:
            return False
        low, high = self.interval
        return high - low <= 1e-9 * max(1.0, abs(high))


@dataclass(frozen=True)
class AreaEstimate:
    """Area of a class, m²: counted from the map's pixels, and estimated from the reference."""

    mapped: float | None
    estimated: Estimate


@dataclass(frozen=True, eq=False)
class EvaluationFigures:
    """An evaluation for a page.

    Attributes
    ----------
    matrix:
        Reference down, map across, in the map's colours.
    overall:
        Figures of the whole map by name: ``overall_accuracy``, ``average_accuracy``, ``kappa``, ``mean_f1``.
    classes:
        Class name → figures by name: ``users_accuracy``, ``producers_accuracy``, ``f1``.
    areas:
        Class name → area; empty where the evaluation gives none.
    design:
        The sampling design in words; empty where the evaluation names none.
    notices:
        Sentences for the reader of the figures.
    reference:
        File of the reference; empty where the evaluation names none.
    units:
        Units of the probability sample; ``None`` without one.
    """

    matrix: ConfusionMatrix
    overall: Mapping[str, Estimate]
    classes: Mapping[str, Mapping[str, Estimate]]
    areas: Mapping[str, AreaEstimate] = field(default_factory=dict)
    design: str = ""
    notices: tuple[str, ...] = ()
    reference: str = ""
    units: int | None = None

    @property
    def basis(self) -> str:
        """The number of pixels or sampled units that the figures rest on, in words."""
        return (
            f"{self.matrix.total:,} reference pixels"
            if self.units is None
            else f"{self.units:,} sampled units"
        )

    @property
    def has_intervals(self) -> bool:
        """Whether some accuracy has an interval."""
        every = [*self.overall.values(), *(e for figures in self.classes.values() for e in figures.values())]
        return any(e.interval is not None for e in every)


OVERALL = ("overall_accuracy", "average_accuracy", "kappa", "mean_f1")
PER_CLASS = ("users_accuracy", "producers_accuracy", "f1")


def read_evaluation(path: str | Path, legend: Legend | None = None) -> EvaluationFigures:
    """The figures in a JSON file of ``evaluate``; see :func:`figures_of`.

    Raises
    ------
    InputError
        The file cannot be read, or is no evaluation.
    """
    hint = "das2f-map evaluate MAP --reference FILE --json > evaluation.json"
    if not exists(path):
        raise InputError(f"evaluation {path} does not exist", hint)
    try:
        values = json.loads(read_text(str(path)))
    except ValueError as error:
        raise InputError(f"evaluation {path} is not JSON: {error}", hint) from error
    try:
        return figures_of(values, legend)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not an evaluation of das2f-map: {_said(error)}", hint) from error


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return " ".join(str(error).split())


def figures_of(values: Mapping[str, Any], legend: Legend | None = None) -> EvaluationFigures:
    """The figures of an evaluation as a dictionary, as :meth:`Evaluation.to_dict` gives it.

    Parameters
    ----------
    values:
        ``estimates``, as :meth:`AreaEstimates.to_dict` gives them, may be missing or ``None``: evaluations
        without a sampling design have none. These may have ``intervals`` of their accuracies.
    legend:
        Of the map, for the colours.

    Raises
    ------
    KeyError, TypeError, ValueError
        It is no evaluation.
    """
    estimates = values.get("estimates") or {}
    matrix = _matrix(values, legend)
    known = _by_name(values.get("classes") or [])
    given = _by_name(estimates.get("classes") or [])
    ends = values.get("intervals") or {}
    ends_by_name = _by_name(ends.get("classes") or [])
    overall = {key: _figure(key, estimates, values, ends) for key in OVERALL}
    classes = {
        name: {
            key: _figure(key, given.get(name, {}), known.get(name, {}), ends_by_name.get(name, {}))
            for key in PER_CLASS
        }
        for name in matrix.legend.names
    }
    areas = {
        name: AreaEstimate(_number(c.get("mapped_area_m2")), _estimate(c["area_m2"]))
        for name, c in given.items()
    }
    notes = [*(values.get("notices") or ()), *(estimates.get("notes") or ())]
    return EvaluationFigures(
        matrix,
        overall,
        classes,
        areas,
        str(estimates.get("design") or ""),
        tuple(dict.fromkeys(str(n) for n in notes)),
        str(values.get("reference") or ""),
        int(estimates["units"]) if estimates else None,
    )


def _by_name(given: Any) -> dict[str, Mapping[str, Any]]:
    return {str(c["name"]): c for c in given}


def _figure(
    key: str, estimates: Mapping[str, Any], counted: Mapping[str, Any], ends: Mapping[str, Any]
) -> Estimate:
    """A figure of a probability sample; else as counted in the reference, with an interval if it has one."""
    if estimates.get(key) is not None:
        return _estimate(estimates[key])
    value = _number(counted.get(key))
    spread = ends.get(key) if value is not None else None
    return Estimate(value) if spread is None else _estimate({**spread, "estimate": value})


def _matrix(values: Mapping[str, Any], legend: Legend | None) -> ConfusionMatrix:
    found = values["confusion_matrix"]
    names, ids = [str(n) for n in found["class_names"]], [int(i) for i in found["class_ids"]]
    made = Legend.from_names(names, ids)
    colours = {(c.id, c.name): c.color for c in legend.each()} if legend else {}
    kept = Legend(
        classes=tuple(
            LegendClass(id=c.id, name=c.name, color=colours.get((c.id, c.name), c.color)) for c in made.each()
        )
    )
    counts = np.array(found["counts"], np.int64).reshape(len(names), len(names))
    # The legend is in order of ids; so are the rows of the matrix then.
    order = np.argsort(ids)
    return ConfusionMatrix(kept, counts[np.ix_(order, order)])


def _estimate(given: Mapping[str, Any]) -> Estimate:
    """A figure from a table with its estimate, its standard error and the ends of its interval."""
    low, high = _number(given.get("lower")), _number(given.get("upper"))
    interval = None if low is None or high is None else (low, high)
    return Estimate(_number(given["estimate"]), _number(given.get("standard_error")), interval)


def _number(value: Any) -> float | None:
    """A finite number, else ``None``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        return None
    return float(value)
