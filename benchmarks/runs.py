"""Runs over scenes, seeds and folds: their figures, the spread of these, and paired differences.

A run is one training of a method on a fold of a scene, with a seed. The figures of a seed come from the
counts of its folds together. They spread over the seeds; where there is one seed, over its folds.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
from held_ground import FOLDS, Figures, chosen_checks, counts_of, figures
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MatplotlibFigure

from das2f_map.outputs.whole_files import written_whole
from das2f_map.training.loop import LoopOutcome
from das2f_map.types import Int64

Run = tuple[int, int]
"""Seed and fold, both from 0."""

Figure = Callable[[Figures], float]

SCENES_A_TABLE: Final = 4
"""More columns with two figures each would make lines too long to read."""

COUNTS, LABEL_COUNTS = "counts", "label_counts"
"""Keys of a run's confusion counts at every check, and of those by the statistics of the labels in runs of an
earlier recipe, in which held-out ground chose between both."""


def sorted_out(found: Mapping[str, Any]) -> dict[tuple[str, str], dict[Run, Any]]:
    """Records of a results file by (scene, method), then by run; other entries are left out."""
    out: dict[tuple[str, str], dict[Run, Any]] = {}
    for key, record in found.items():
        parts = key.split(" | ")
        if len(parts) != 4:
            continue
        ground, name, seed, fold = parts
        run = int(seed.removeprefix("seed ")), int(fold.removeprefix("fold ")) - 1
        out.setdefault((ground, name), {})[run] = record
    return out


@dataclass(frozen=True)
class Spread:
    """A figure of some runs.

    Attributes
    ----------
    mean:
        Over the seeds.
    deviation:
        Standard deviation over the seeds, or over the folds of a single seed; ``None`` for a single run.
    runs, seeds:
        How many there are.
    """

    mean: float
    deviation: float | None
    runs: int
    seeds: int

    @property
    def whole(self) -> bool:
        """Whether every seed has all its folds."""
        return self.runs == FOLDS * self.seeds

    def text(self, *, factor: float = 100, digits: int = 1, sign: bool = False) -> str:
        """Mean ± deviation."""
        mean = f"{factor * self.mean:{'+' if sign else ''}.{digits}f}"
        spread = "" if self.deviation is None else f" ± {factor * self.deviation:.{digits}f}"
        return f"{mean}{spread}".replace("-", "−")

    @property
    def missing(self) -> str:
        """Text to go after it where folds are missing."""
        return "" if self.whole else f" ({self.runs} of {FOLDS * self.seeds} folds)"


def at_chosen_checks(curves: Mapping[Run, Any]) -> dict[Run, Any]:
    """Counts ``(C, C)`` of every run from those at every check; the other folds of its seed choose it."""
    out = {}
    for seed in sorted({seed for seed, _ in curves}):
        own = [run for run in sorted(curves) if run[0] == seed]
        chosen = chosen_checks([curves[run] for run in own])
        out |= {run: np.asarray(curves[run])[place] for run, place in zip(own, chosen, strict=True)}
    return out


def at_last_check(curves: Mapping[Run, Any]) -> dict[Run, Any]:
    """Counts ``(C, C)`` of every run at its last check."""
    return {run: np.asarray(curve)[-1, -1] for run, curve in curves.items()}


def curves_of(records: Mapping[Run, Any]) -> dict[Run, Any]:
    """Counts of every run by kind of statistics and check, ``(kinds, checks, C, C)``."""
    return {
        run: np.asarray([record[key] for key in (LABEL_COUNTS, COUNTS) if key in record])
        for run, record in records.items()
    }


def record_of(outcome: LoopOutcome, truth: Int64, classes: int) -> dict[str, Any]:
    """The record of a training: steps and counts at every check."""
    return {
        "steps": [check["steps"] for check in outcome.history],
        COUNTS: [counts_of(truth, found.argmax(axis=1), classes) for found in outcome.logits],
    }


def comparable(runs: Iterable[Run]) -> list[Run]:
    """Runs of the seeds that have most folds: the figures of a seed with fewer are of other ground."""
    found = sorted(runs)
    folds = {seed: sum(run[0] == seed for run in found) for seed, _ in found}
    most = max(folds.values(), default=0)
    return [run for run in found if folds[run[0]] == most]


def spread(counts: Mapping[Run, Any], figure: Figure) -> Spread | None:
    """A figure of some runs' counts; ``None`` without runs."""
    return _spread(comparable(counts), lambda runs: figure(figures(sum(counts[run] for run in runs))))


def difference(ours: Mapping[Run, Any], theirs: Mapping[Run, Any], figure: Figure) -> Spread | None:
    """A figure of ours less that of theirs, on the runs (seed and fold) that both have; ``None`` without any.

    Both take counts by run. Within a seed the folds that both have are counted together.
    """

    def less(runs: list[Run]) -> float:
        mine, other = (figure(figures(sum(counts[run] for run in runs))) for counts in (ours, theirs))
        return mine - other

    return _spread(comparable(ours.keys() & theirs.keys()), less)


def _spread(runs: list[Run], value: Callable[[list[Run]], float]) -> Spread | None:
    if not runs:
        return None
    seeds = sorted({seed for seed, _ in runs})
    by_seed = [value([run for run in runs if run[0] == seed]) for seed in seeds]
    scattered = by_seed if len(seeds) > 1 else [value([run]) for run in runs]
    deviation = float(np.nanstd(scattered, ddof=1)) if len(scattered) > 1 else None
    return Spread(float(np.mean(by_seed)), deviation, len(runs), len(seeds))


# --- tables ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FigureKind:
    """A figure as tables show it."""

    title: str
    value: Figure
    factor: float
    digits: int


OVERALL = FigureKind("OA, %", attrgetter("overall"), 100, 1)
AVERAGE = FigureKind("AA, %", attrgetter("average"), 100, 1)
KAPPA = FigureKind("kappa", attrgetter("kappa"), 1, 3)
MEAN_F1 = FigureKind("macro-F1, %", attrgetter("mean_f1"), 100, 1)


def tables_of(grounds: Sequence[str]) -> list[Sequence[str]]:
    """The scenes of each table of a page, in order."""
    return [grounds[first : first + SCENES_A_TABLE] for first in range(0, len(grounds), SCENES_A_TABLE)]


def cell(kinds: Sequence[FigureKind], spreads: Sequence[Spread | None], *, sign: bool = False) -> str:
    """A cell of a table with figures of the same runs; it says when folds are missing."""
    found = [(k, s) for k, s in zip(kinds, spreads, strict=True) if s is not None]
    if not found:
        return "–"
    texts = [s.text(factor=k.factor, digits=k.digits, sign=sign) for k, s in found]
    return " / ".join(texts) + found[0][1].missing


def progress_line(done: int, planned: int, command: str) -> str:
    """A line under the tables: how many of the planned runs there are, and how to make the others."""
    if done >= planned:
        return f"All {planned:,} runs are there."
    return f"{done:,} of {planned:,} runs are there; `{command}` makes the others."


def draw(path: Path, plot: Callable[[MatplotlibFigure], None]) -> None:
    """Write a plot to a PNG file that is complete or absent."""
    picture = MatplotlibFigure(layout="constrained")
    FigureCanvasAgg(picture)
    plot(picture)
    with written_whole(path) as partial:
        picture.savefig(partial, dpi=120, format="png", metadata={"Software": None})
