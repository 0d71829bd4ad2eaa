"""Tables and plots of the page on the worth of the network, from worth.json.

render.py imports this module; it runs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
from disturbed import DISTURBANCES, LEVELS, NONE
from held_ground import FOLDS, GROUNDS, SEEDS
from matplotlib.figure import Figure
from methods import CLASSICAL, DEFAULT, DISTURBED, FORMER, METHODS, PARTS, PLAIN
from runs import (
    AVERAGE,
    KAPPA,
    MEAN_F1,
    OVERALL,
    FigureKind,
    Run,
    at_chosen_checks,
    cell,
    curves_of,
    difference,
    draw,
    progress_line,
    sorted_out,
    spread,
    tables_of,
)

NAME: Final = "worth"

COMMAND: Final = "python benchmarks/worth.py --data SCENES"
KINDS: Final = {"overall": OVERALL, "average": AVERAGE, "kappa": KAPPA, "f1": MEAN_F1}
SHOWN: Final = (DEFAULT, FORMER, *(m for m in METHODS if m != DEFAULT))
"""Rows of the tables, and curves."""

CURVE: Final = {"gulf-1": 1, "gulf-5": 5, "gulf-25": 25, "gulf": 100}
"""Scenes of the learning curves, and their share of the labels in per cent."""

Sorted = dict[tuple[str, str], dict[Run, Any]]


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables, by the names of their places in the page."""
    sorted_runs = sorted_out(found)
    done = sum(len(runs) for (_, method), runs in sorted_runs.items() if method in METHODS)
    progress = progress_line(done, len(METHODS) * len(GROUNDS) * FOLDS * SEEDS, COMMAND)
    made = {f"worth {name}": _figures(sorted_runs, kind) for name, kind in KINDS.items()}
    made["worth runs"] = progress
    made["worth scenes"] = _scenes(found)
    made["worth differences"] = _differences(
        sorted_runs, DEFAULT, [m for m in SHOWN if m not in (DEFAULT, *PARTS)]
    )
    made["worth parts"] = _differences(sorted_runs, PLAIN, list(PARTS))
    made["worth disturbed"] = _disturbed(sorted_runs)
    return made


def plots(found: dict[str, Any], folder: Path) -> None:
    """Draw the plots of the page into a folder."""
    sorted_runs = sorted_out(found)
    if any(ground in CURVE for ground, _ in sorted_runs):
        draw(folder / f"{NAME}-labels.png", lambda figure: _plot_curves(figure, sorted_runs))
    if grounds := _disturbed_grounds(sorted_runs):
        draw(folder / f"{NAME}-disturbed.png", lambda figure: _plot_disturbed(figure, sorted_runs, grounds))


def _grounds(sorted_runs: Sorted) -> list[str]:
    return [ground for ground in GROUNDS if any(found == ground for found, _ in sorted_runs)]


def _counts(sorted_runs: Sorted, ground: str, method: str) -> dict[Run, Any]:
    return at_chosen_checks(curves_of(sorted_runs.get((ground, method), {})))


def _figures(sorted_runs: Sorted, kind: FigureKind) -> str:
    """A figure of all methods and scenes; the best of each scene among methods with all folds is bold."""
    grounds = _grounds(sorted_runs)
    columns = []
    for ground in grounds:
        found = [spread(_counts(sorted_runs, ground, method), kind.value) for method in SHOWN]
        best = max((s.mean for s in found if s is not None and s.whole), default=None)
        cells = [cell([kind], [s]) for s in found]
        columns.append(
            [
                f"**{text}**" if s is not None and s.whole and s.mean == best else text
                for s, text in zip(found, cells, strict=True)
            ]
        )
    rows = [[method, *cells] for method, *cells in zip(SHOWN, *columns, strict=True)]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    return common.markdown([kind.title, *grounds], rows)


def _differences(sorted_runs: Sorted, reference: str, methods: Sequence[str]) -> str:
    """A method less each other one, on the runs that both have."""
    grounds = [ground for ground in _grounds(sorted_runs) if (ground, reference) in sorted_runs]
    if not grounds:
        return f"No runs of {reference} yet."
    return "\n\n".join(_differences_on(some, sorted_runs, reference, methods) for some in tables_of(grounds))


def _differences_on(
    grounds: Sequence[str], sorted_runs: Sorted, reference: str, methods: Sequence[str]
) -> str:
    """The table of differences on some scenes."""
    rows = []
    for method in methods:
        cells, pairs = [], 0
        for ground in grounds:
            base = curves_of(sorted_runs[ground, reference])
            other = curves_of(sorted_runs.get((ground, method), {}))
            both = base.keys() & other.keys()
            ours, theirs = (at_chosen_checks({run: c[run] for run in both}) for c in (base, other))
            found = [difference(ours, theirs, kind.value) for kind in (OVERALL, MEAN_F1)]
            cells.append(cell((OVERALL, MEAN_F1), found, sign=True))
            pairs += found[0].runs if found[0] is not None else 0
        if pairs:
            rows.append([method, *cells, f"{pairs}"])
    return common.markdown([f"{reference}, less", *(f"{g}: OA / macro-F1" for g in grounds), "pairs"], rows)


def _scenes(found: dict[str, Any]) -> str:
    """Labels and folds of the scenes."""
    rows = []
    for name in GROUNDS:
        if name not in found:
            continue
        ground = found[name]
        shares = [100 * share for share in ground["overlapping"]]
        overlap = 100 * float(np.mean(ground["overlap"]))
        rows.append(
            [
                name,
                f"{len(ground['classes'])}",
                f"{sum(ground['classes'].values()):,}",
                " / ".join(f"{n:,}" for n in ground["train"]),
                " / ".join(f"{n:,}" for n in ground["tested"]),
                f"{ground['gap']} of {ground['apart']}",
                f"{np.mean(shares):.0f} %, {overlap:.0f} %",
            ]
        )
    heads = ["scene", "classes", "labelled pixels", "learnt from, by fold", "tested, by fold"]
    return common.markdown([*heads, "gap, MS pixels", "overlapping, mean overlap"], rows)


# --- disturbed images, learning curves ---


def _disturbed_grounds(sorted_runs: Sorted) -> list[str]:
    return [
        ground
        for ground in _grounds(sorted_runs)
        if ground not in ("gulf-25", "gulf-1")
        and any(_disturbed_counts(sorted_runs, ground, method, NONE) for method in DISTURBED)
    ]


def _disturbed_counts(sorted_runs: Sorted, ground: str, method: str, name: str) -> dict[Run, Any]:
    runs = sorted_runs.get((ground, method), {})
    return {run: np.asarray(r["disturbed"][name]) for run, r in runs.items() if "disturbed" in r}


def _disturbed(sorted_runs: Sorted) -> str:
    """Overall accuracy of some methods at all levels of disturbance."""
    names = [NONE, *(d.name for d in DISTURBANCES)]
    rows = []
    for ground, method in itertools.product(_disturbed_grounds(sorted_runs), DISTURBED):
        found = [
            spread(_disturbed_counts(sorted_runs, ground, method, name), OVERALL.value) for name in names
        ]
        cells = ["–" if s is None else f"{100 * s.mean:.1f}" for s in found]
        if set(cells) != {"–"}:
            missing = "" if found[0] is None else found[0].missing
            rows.append([ground, method + missing, *cells])
    if not rows:
        return "No runs yet."
    picture = f"![Accuracy on disturbed images](benchmarks/{NAME}-disturbed.png)"
    return common.markdown(["scene", "method", *names], rows, words=2) + f"\n\n{picture}"


def _plot_disturbed(figure: Figure, sorted_runs: Sorted, grounds: list[str]) -> None:
    """A row of panels for each scene, a panel for each kind of disturbance."""
    figure.set_size_inches(9, 0.6 + 1.9 * len(grounds))
    panels = figure.subplots(len(grounds), len(LEVELS), sharey="row", squeeze=False)
    units = {"shift": "shift, PAN pixels", "noise": "noise, standard deviations", "haze": "share of haze"}
    for row, ground in zip(panels, grounds, strict=True):
        for axes, (kind, levels) in zip(row, LEVELS.items(), strict=True):
            for k, method in enumerate(DISTURBED):
                names = [NONE, *(d.name for d in DISTURBANCES if d.kind == kind)]
                counts = [_disturbed_counts(sorted_runs, ground, method, name) for name in names]
                found = [spread(each, OVERALL.value) for each in counts]
                values = [100 * s.mean for s in found if s is not None]
                if values:
                    axes.plot([0, *levels], values, color=f"C{k}", marker="o", markersize=3, label=method)
            axes.set_xlabel(units[kind])
            common.tidy(axes)
        row[0].set_ylabel(f"{ground}\nOA, %")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)


def _plot_curves(figure: Figure, sorted_runs: Sorted) -> None:
    """Accuracy over the share of the labels, for all methods that have two shares."""
    figure.set_size_inches(12, 4.5)
    for axes, kind in zip(figure.subplots(1, 2), (OVERALL, MEAN_F1), strict=True):
        for k, method in enumerate(SHOWN):
            found = [
                (share, spread(_counts(sorted_runs, g, method), kind.value)) for g, share in CURVE.items()
            ]
            here = [(share, s) for share, s in found if s is not None and s.whole]
            if len(here) > 1:
                axes.errorbar(
                    [share * 1.02 ** (k - len(SHOWN) / 2) for share, _ in here],
                    [100 * s.mean for _, s in here],
                    yerr=[100 * (s.deviation or 0) if s.seeds > 1 else 0 for _, s in here],
                    color=f"C{k % 10}",
                    linestyle="--" if method in CLASSICAL else "-",
                    marker="o",
                    markersize=3,
                    linewidth=1,
                    label=method,
                )
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(list(CURVE.values()), [f"{share} %" for share in CURVE.values()])
        axes.set_xlabel("share of the training labels")
        axes.set_ylabel(kind.title)
        common.tidy(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
