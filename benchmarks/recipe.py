"""Ablation of the training recipe on held-out ground: each part of it left out, or another one put in.

    python benchmarks/recipe.py --data SCENES --minutes 60

For every scene, seed and fold the default recipe and its variants train on the same pixels and are tested on
the same held-out ground. Results go into recipe.json run by run. A second call does the missing runs,
in an order that serves all variants alike, and begins none when the minutes are over.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import tried
from disturbed import NONE, disturbed_counts
from held_ground import (
    FOLDS,
    GROUNDS,
    SEEDS,
    Ground,
    Records,
    counts_of,
    figures,
    key_of,
    open_ground,
    parser,
)
from matplotlib.figure import Figure
from runs import (
    MEAN_F1,
    OVERALL,
    Run,
    Spread,
    at_chosen_checks,
    at_last_check,
    cell,
    curves_of,
    difference,
    draw,
    progress_line,
    record_of,
    sorted_out,
    spread,
    tables_of,
)
from taught import Folded, with_opinions
from tried import Variant

from das2f_map.engines.turned import VIEWS
from das2f_map.progress import silent
from das2f_map.scene.turns import TURNS
from das2f_map.training.batches import PatchDataset
from das2f_map.training.fit import Part, final_network, loop_run, new_network
from das2f_map.training.loop import run_loop
from das2f_map.training.predict import predict
from das2f_map.training.settings import AUTO, FRESH, TrainingSettings
from das2f_map.training.start import find_start

NAME: Final = "recipe"
FIRST_GROUNDS: Final = ("berlin", "rotterdam1", "gulf-5")
"""Scenes of few labels, on which each variant is tried before it is tried elsewhere."""

PLANNED_GROUNDS: Final = (*FIRST_GROUNDS, "gulf-1", "gulf-25", "gulf", "zion")
TURNED: Final = {f"{n} turns": views for n, views in VIEWS.items() if n > 1}
"""Turns of a patch whose logits are averaged, by the key of their accuracy."""

NO_OPINIONS: Final = "no opinions"

FORMER: Final = "earlier default"
"""The recipe that was the default before: no opinions of other classifiers, and held-out ground chose between
the statistics of the labels and of the scene. Its runs stay; no variant of today makes it."""

LABEL_STATISTICS: Final = "statistics of the labels (earlier)"
"""The recipe that was the default before that."""

VARIANTS: Final[dict[str, Variant]] = {
    "default": Variant(),
    NO_OPINIONS: Variant({"distillation": 0.0}),
    "statistics of the labels": Variant({"statistics": "labels"}),
    "statistics of the scene": Variant({"statistics": "scene"}),
    "fresh weights": Variant(fresh=True),
    "AALF's means above zero": Variant(fresh=True, start=tried.positive_means),
    "without AALF": Variant(start=tried.without_aalf),
    "stems that keep brightness": Variant(fresh=True, start=tried.bright_stems),
    "targets alone": Variant({"neighbours": 0}),
    "windows of 1 and the patch": Variant(start=tried.target_and_patch),
    "published head": Variant({"head": "published"}),
    "no jitter, haze or shade": Variant({"jitter": 0.0, "haze": 0.0}),
    "no haze or shade": Variant({"haze": 0.0}),
    "no running mean of weights": Variant({"ema": 0.0}),
    "no dropout": Variant({"dropout": 0.0}),
    "dropout 0.5": Variant({"dropout": 0.5}),
    "classes as often as labelled": Variant({"balance": 0.0}),
    "classes equally often": Variant({"balance": 1.0}),
    "weights of classes in the loss": Variant({"balance": 0.0}, learner=tried.weighted),
    "label smoothing 0.1": Variant({"label_smoothing": 0.1}),
    "mixup 0.2": Variant({"mixup": 0.2}),
    "half the steps": Variant({"steps": 0.5}),
    "twice the steps": Variant({"steps": 2.0}),
    "rate 5e-4": Variant({"learning_rate": 5e-4}),
    "rate 2e-3": Variant({"learning_rate": 2e-3}),
    "constant rate": Variant({"final_rate": 1.0}),
    "weight decay 0.05": Variant({"weight_decay": 0.05}),
    "batches of 16": Variant({"batch_size": 16}),
    "SGD, rate 0.05": Variant({"learning_rate": 0.05}, learner=tried.momentum),
    "trunk's rate 3e-4, head's 3e-3": Variant({"learning_rate": 3e-4}, learner=tried.quick_head),
    "MS and PAN shifted": Variant(shifts=True),
    "context of other patches": Variant(learner=tried.other_context),
    "consistency without labels": Variant(learner=tried.consistent),
    "self-supervised start": Variant(fresh=True, start=tried.self_supervised),
}
"""Variants of the default recipe, by name."""

UNTEACHABLE: Final = ("targets alone", "published head", "mixup 0.2")
"""Variants that opinions do not go with. They are compared with the default recipe without opinions."""

UNTAUGHT_ON: Final = {
    "gulf": (
        "statistics of the labels",
        "statistics of the scene",
        "without AALF",
        "trunk's rate 3e-4, head's 3e-3",
    )
}
"""Variants whose runs on a scene are from when the default had no opinions there. They are compared with the
default recipe without opinions."""

UNTAUGHT: Final = {
    f"{name} (earlier)": replace(VARIANTS[name], changes={**VARIANTS[name].changes, "distillation": 0.0})
    for name in (
        "statistics of the labels",
        "statistics of the scene",
        "without AALF",
        "published head",
        "half the steps",
    )
}
"""Variants of :data:`FORMER`. They are compared with that."""

EARLIER: Final = {
    f"{name} (labels)": replace(
        VARIANTS[name], changes={**VARIANTS[name].changes, "distillation": 0.0, "statistics": "labels"}
    )
    for name in (
        "fresh weights",
        "AALF's means above zero",
        "stems that keep brightness",
        "targets alone",
        "windows of 1 and the patch",
        "no jitter, haze or shade",
        "half the steps",
        "rate 2e-3",
        "context of other patches",
    )
}
"""Variants of the default before, which had the statistics of the labels. They are compared with that."""

ALL_VARIANTS: Final = VARIANTS | UNTAUGHT | EARLIER


def settings_of(variant: str, seed: int, device: str, labelled: int, ground: Ground) -> TrainingSettings:
    """The settings of a variant."""
    changes = dict(ALL_VARIANTS[variant].changes)
    factor = changes.pop("steps", 1.0)
    base = ground.with_settings(TrainingSettings(seed=seed, device=device), labelled).settings
    assert base.steps is not None
    return TrainingSettings(seed=seed, device=device, steps=round(factor * base.steps), **changes)


def run(ground: Ground, variant: str, seed: int, number: int, device: str) -> dict[str, Any]:
    """Counts at every check of one training."""
    fold, how = ground.fold(number, seed), ALL_VARIANTS[variant]
    settings = settings_of(variant, seed, device, fold.train.size, ground)
    prepared = ground.with_settings(settings, fold.train.size)
    pairs = [scene.pair for scene in prepared.scenes]
    start = find_start(FRESH if how.fresh else AUTO, prepared.config, pairs)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        part = Part(variant, fold.train, fold.held, prepared.settings.checks, Path(folder) / "state.ckpt")
        loop = loop_run(prepared, part)
        share, loop = with_opinions(loop, ground, Folded(prepared.settings, seed, number))
        if how.shifts:
            loop = replace(loop, train=tried.ShiftedPatches.like(loop.train))
        if how.learner is not None:
            loop = replace(loop, learner=how.learner(prepared))
        network = new_network(prepared, start)
        if how.start is not None:
            how.start(network, prepared)
        outcome = run_loop(network, loop, silent)
    seconds = time.monotonic() - started
    truth, n = prepared.pixels.positions[fold.held], len(prepared.pixels.legend)
    record = record_of(outcome, truth, n)
    record |= {"labels": int(fold.train.size), "seconds": round(seconds, 1)}
    if share is not None:
        record["share_of_cnn"] = share
    if variant in (DEFAULT, NO_OPINIONS):
        net = final_network(prepared, outcome.weights)
        dataset = PatchDataset(prepared.pixels.select(fold.held))
        logits = [predict(net, dataset, 64, prepared.hardware.first, turn=k) for k in range(TURNS)]
        for name, views in TURNED.items():
            mean = np.mean([logits[k] for k in views], axis=0)
            record[name] = counts_of(truth, mean.argmax(axis=1), n)
        if seed == 0:
            # For the page that compares methods.
            counts = disturbed_counts(
                lambda patches: predict(net, patches, 64, prepared.hardware.first).argmax(axis=1),
                dataset.pixels,
                prepared.normalisation,
            )
            record["disturbed"] = {NONE: record["counts"][-1], **counts}
    return record


def jobs(options: argparse.Namespace) -> Iterator[tuple[int, str, str, int]]:
    """Seed, variant, scene and fold of every run, the most telling first."""
    first = [g for g in options.grounds if g in FIRST_GROUNDS]
    others = [g for g in options.grounds if g not in FIRST_GROUNDS]
    variants = options.variants or list(VARIANTS)
    for seed, number, grounds in itertools.product(range(options.seeds), range(FOLDS), (first, others)):
        for variant, ground in itertools.product(variants, grounds):
            yield seed, variant, ground, number


def parse() -> argparse.Namespace:
    made = parser(__doc__, PLANNED_GROUNDS)
    made.add_argument("--variants", nargs="+", choices=list(ALL_VARIANTS))
    return made.parse_args()


def main() -> None:
    options = parse()
    device = common.start(options)
    records = Records(options.output / f"{NAME}.json")
    end = time.monotonic() + 60 * options.minutes
    for seed, variant, name, number in jobs(options):
        key = key_of(name, variant, seed, number)
        if key in records:
            continue
        if time.monotonic() > end:
            break
        with open_ground(name, options.data, str(device)) as ground:
            record = run(ground, variant, seed, number, str(device))
        records.add(key, record)
        best = max((figures(c) for c in record["counts"]), key=lambda f: f.overall)
        last = figures(record["counts"][-1])
        common.say(
            f"{key}: OA {last.overall:.3f} (best check {best.overall:.3f}), F1 {last.mean_f1:.3f}, "
            f"kappa {last.kappa:.3f}, {record['seconds']:.0f} s"
        )


# --- the page --------------------------------------------------------------------------------------------

COMMAND: Final = "python benchmarks/recipe.py --data SCENES"
DEFAULT: Final = "default"
BASES: Final = (DEFAULT, FORMER, LABEL_STATISTICS)
"""The default recipe and earlier ones."""

ROWS: Final = (*VARIANTS, FORMER, *UNTAUGHT, *EARLIER, *TURNED)
"""Rows of the tables."""


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables, by the names of their places in the page."""
    sorted_runs = sorted_out(found)
    grounds = _grounds(sorted_runs)
    planned = len(VARIANTS) * len(PLANNED_GROUNDS) * FOLDS * SEEDS
    done = sum(len(runs) for (_, variant), runs in sorted_runs.items() if variant in VARIANTS)
    progress = progress_line(done, planned, COMMAND)
    if not grounds:
        return {"recipe figures": progress, "recipe differences": "No runs yet."}
    made = [_tables_on(some, sorted_runs) for some in tables_of(grounds)]
    figures, differences = ("\n\n".join(each) for each in zip(*made, strict=True))
    return {
        "recipe figures": f"{figures}\n\n{progress}",
        "recipe differences": f"{differences}\n\n![Differences to the default recipe](benchmarks/{NAME}.png)",
    }


def _tables_on(grounds: Sequence[str], sorted_runs: Sorted) -> tuple[str, str]:
    """The tables of figures and of differences on some scenes."""
    heads = ["variant", *(f"{g}: OA / macro-F1, %" for g in grounds), "runs"]
    rows, differences = [], []
    for name in ROWS:
        ours = {g: _counts(sorted_runs, g, name) for g in grounds}
        if not any(ours.values()):
            continue
        runs = sum(len(counts) for counts in ours.values())
        cells = [cell(SHOWN, [spread(ours[g], k.value) for k in SHOWN]) for g in grounds]
        rows.append([name, *cells, f"{runs}"])
        if name != DEFAULT:
            less = [_difference(sorted_runs, g, name) for g in grounds]
            cells = [cell(SHOWN, each, sign=True) for each in less]
            if pairs := sum(each[0].runs for each in less if each[0] is not None):
                differences.append([name, *cells, f"{pairs}"])
    return common.markdown(heads, rows), common.markdown([*heads[:-1], "pairs"], differences)


def plots(found: dict[str, Any], folder: Path) -> None:
    """Draw the plot of the page into a folder."""
    sorted_runs = sorted_out(found)
    grounds = _grounds(sorted_runs)
    if grounds:
        draw(folder / f"{NAME}.png", lambda figure: _plot(figure, sorted_runs, grounds))


SHOWN: Final = (OVERALL, MEAN_F1)

Sorted = dict[tuple[str, str], dict[Run, Any]]


def _grounds(sorted_runs: Sorted) -> list[str]:
    """Scenes with runs of the default recipe or of an earlier one."""
    return [g for g in GROUNDS if any((g, base) in sorted_runs for base in BASES)]


def _base_of(name: str, ground: str) -> str:
    """The recipe that a row is compared with on a scene."""
    if name in EARLIER:
        return LABEL_STATISTICS
    if name in UNTAUGHT:
        return FORMER
    return NO_OPINIONS if name in (*UNTEACHABLE, *UNTAUGHT_ON.get(ground, ())) else DEFAULT


def _counts(sorted_runs: Sorted, ground: str, name: str) -> dict[Run, Any]:
    """Counts of a row's runs: at the chosen checks, or of the turned patches."""
    if name in TURNED:
        return _turned(sorted_runs, ground, name)
    return at_chosen_checks(curves_of(sorted_runs.get((ground, name), {})))


def _turned(sorted_runs: Sorted, ground: str, name: str) -> dict[Run, Any]:
    runs = sorted_runs.get((ground, DEFAULT), {})
    return {run: np.asarray(record[name]) for run, record in runs.items() if name in record}


def _difference(sorted_runs: Sorted, ground: str, name: str) -> list[Spread | None]:
    """Differences to the default recipe, or to an earlier one, on the runs that both have."""
    base = curves_of(sorted_runs.get((ground, _base_of(name, ground)), {}))
    if name in TURNED:
        # The turned patches are of the last check.
        ours, theirs = _turned(sorted_runs, ground, name), at_last_check(base)
    else:
        own = curves_of(sorted_runs.get((ground, name), {}))
        both = own.keys() & base.keys()
        # The checks too are chosen on the folds that both have.
        ours, theirs = (at_chosen_checks({run: curves[run] for run in both}) for curves in (own, base))
    return [difference(ours, theirs, kind.value) for kind in SHOWN]


def _plot(figure: Figure, sorted_runs: Sorted, grounds: list[str]) -> None:
    """The difference of every variant to the default recipe, a mark for each scene, a bar for its spread."""
    names = [n for n in ROWS if n != DEFAULT]
    found = {n: [_difference(sorted_runs, g, n) for g in grounds] for n in names}
    names = [n for n in names if any(each[0] for each in found[n])]
    figure.set_size_inches(11, 1.4 + 0.4 * len(names))
    # The marks of a row stay apart from those of its neighbours.
    apart = 0.8 / len(grounds)
    for axes, (k, kind) in zip(figure.subplots(1, 2, sharey=True), enumerate(SHOWN), strict=True):
        axes.axvline(0, color=common.BASELINE, linewidth=1)
        for i, ground in enumerate(grounds):
            own = [(y, found[n][i][k]) for y, n in enumerate(names)]
            here = [(y, d) for y, d in own if d is not None]
            axes.errorbar(
                [100 * d.mean for _, d in here],
                [y + apart * (i - (len(grounds) - 1) / 2) for y, _ in here],
                xerr=[100 * (d.deviation or 0) for _, d in here],
                fmt="o",
                markersize=4,
                linewidth=1,
                label=ground,
            )
        axes.set_xlabel(f"{kind.title.split(',')[0]}, percentage points to the default recipe")
        axes.set_yticks(range(len(names)), names)
        common.tidy(axes)
    figure.axes[0].invert_yaxis()
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False
    )


if __name__ == "__main__":
    main()
