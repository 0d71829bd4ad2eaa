"""The DAS²F network on held-out ground, compared with parts of it, a small CNN and classical classifiers.

    python benchmarks/worth.py --data SCENES --minutes 60

All methods learn from the same labelled pixels of a fold and are tested on the same held-out pixels. Results
go into worth.json run by run; a second call does the missing runs. The classical classifiers come first, as
they take seconds. No run begins when the minutes are over.

One-stage network, small CNN and random forest with windows are also tested on disturbed images, with seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import common
import numpy as np
from disturbed import NONE, disturbed_counts
from held_ground import (
    FOLDS,
    GROUNDS,
    Ground,
    Records,
    counts_of,
    figures,
    key_of,
    open_ground,
    parser,
    quality,
)
from methods import (
    CLASSICAL,
    DEFAULT,
    DISTURBED,
    METHODS,
    NETWORKS,
    ClassicalMethod,
    NetworkMethod,
    Settings,
    classifier,
)
from runs import COUNTS, record_of, sorted_out
from taught import Folded, with_opinions

from das2f_map.network import Das2fNet
from das2f_map.progress import silent
from das2f_map.training.baselines import ForestSettings, stack_features
from das2f_map.training.batches import PatchDataset, PlainBatches
from das2f_map.training.fit import Part, carry_over, loop_run
from das2f_map.training.folds import Fold, spatial_folds
from das2f_map.training.loop import run_loop
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.predict import predict
from das2f_map.training.settings import AUTO, TrainingSettings
from das2f_map.training.start import find_start
from das2f_map.types import Float32, Int64

NAME: Final = "worth"
BATCH: Final = 64
"""Patches that are tested at once."""


INNER_FOLDS: Final = 3
"""Folds of the training pixels by which a classifier's settings are chosen."""

TUNED_ON: Final = 1000
"""Training pixels for that choice; more are thinned at random."""

MOST_LEARNT: Final = 20_000
"""Training pixels that a classical classifier learns from; more are thinned at random, to save time."""

FEWER_TREES: Final = 60
"""Trees of a forest for that choice."""


def thinned(positions: Int64, most: int, seed: int) -> Int64:
    """At most so many of some positions, drawn at random, in their order."""
    if positions.size <= most:
        return positions
    return np.sort(np.random.default_rng([seed, 12]).choice(positions, most, replace=False))


def tuned(
    grid: tuple[Settings, ...], pixels: TrainingPixels, rows: Float32, gap: int, seed: int
) -> tuple[Settings, list[float]]:
    """The settings of a grid that do best on inner folds of the training pixels, and the quality of each.

    The inner folds are blocks of ground with a gap, as the outer ones are. ``rows`` holds the features
    ``(n, F)`` of the training ``pixels``. Of equally good settings the first are taken.
    """
    some = thinned(np.arange(len(pixels)), TUNED_ON, seed)
    pixels, rows, n = pixels.select(some), rows[some], len(pixels.legend)
    inner = [
        fold
        for fold in spatial_folds(pixels, INNER_FOLDS, gap=gap, seed=seed).each()
        if fold.train.size and fold.held.size
    ]
    found = []
    for settings in grid:
        counts = np.zeros((n, n), np.int64)
        if isinstance(settings, ForestSettings):
            settings = replace(settings, trees=FEWER_TREES)
        for fold in inner:
            model = classifier(settings, n, seed)
            model.fit(rows[fold.train], pixels.positions[fold.train])
            named = model.probabilities(rows[fold.held]).argmax(axis=1)
            counts += counts_of(pixels.positions[fold.held], named, n)
        found.append(quality(counts, least=1))
    return grid[int(np.argmax(found))], found


# --- runs ------------------------------------------------------------------------------------------------

Predictor = Callable[[PatchDataset], Int64]
"""Patches → class positions ``(n,)``."""


def run(ground: Ground, method: str, seed: int, number: int, device: str) -> dict[str, Any]:
    """Counts at every check of a run, a single check for a classical classifier."""
    fold = ground.fold(number, seed)
    started = time.monotonic()
    if method in CLASSICAL:
        record, predictor = run_classical(ground, CLASSICAL[method], fold, seed)
    else:
        plain = {} if NETWORKS[method].whole else {"statistics": "labels", "distillation": 0.0}
        changes = plain | dict(NETWORKS[method].changes or {})
        settings = TrainingSettings(seed=seed, device=device, **changes)
        prepared = ground.with_settings(settings, fold.train.size)
        which = Folded(prepared.settings, seed, number)
        record, predictor = run_network(ground, NETWORKS[method], fold, which)
    record |= {"labels": int(fold.train.size), "seconds": round(time.monotonic() - started, 1)}
    if Job(ground.name, method, seed, number).disturbs:
        pixels = ground.folds.pixels.select(fold.held)
        counts = disturbed_counts(predictor, pixels, ground.prepared.normalisation)
        record["disturbed"] = {NONE: record["counts"][-1], **counts}
    return record


def run_classical(
    ground: Ground, method: ClassicalMethod, fold: Fold, seed: int
) -> tuple[dict[str, Any], Predictor]:
    """A tuned classifier's counts, and the classifier."""

    def rows_of(dataset: PatchDataset) -> Float32:
        batches = (dataset[batch][:2] for batch in PlainBatches(len(dataset), BATCH))
        return stack_features(batches, method.features)

    pixels = ground.folds.pixels
    some = thinned(fold.train, MOST_LEARNT, seed)
    train, held, n = pixels.select(some), pixels.select(fold.held), len(pixels.legend)
    rows = rows_of(PatchDataset(train))
    settings, found = tuned(method.grid, train, rows, ground.prepared.reach, seed)
    model = classifier(settings, n, seed)
    model.fit(rows, train.positions)

    def predictor(dataset: PatchDataset) -> Int64:
        return model.probabilities(rows_of(dataset)).argmax(axis=1)

    counts = counts_of(held.positions, predictor(PatchDataset(held)), n)
    quality_of_grid = [round(value, 4) for value in found]
    return {"counts": [counts], "settings": asdict(settings), "grid": quality_of_grid}, predictor


def run_network(
    ground: Ground, method: NetworkMethod, fold: Fold, which: Folded
) -> tuple[dict[str, Any], Predictor]:
    """A network's counts at every check, and the network after its last step."""
    prepared = ground.with_settings(which.settings, fold.train.size)
    settings, pixels = prepared.settings, prepared.pixels
    network = method.make(prepared)
    if method.whole:
        start = find_start(AUTO, prepared.config, [scene.pair for scene in prepared.scenes])
        if start is not None:
            assert isinstance(network, Das2fNet)
            carry_over(start, network, [b.name for b in prepared.normalisation.ms_bands])
    with tempfile.TemporaryDirectory() as folder:
        part = Part("", fold.train, fold.held, settings.checks, Path(folder) / "state.ckpt")
        _, loop = with_opinions(loop_run(prepared, part), ground, which)
        if not method.whole:
            loop = replace(loop, train=PatchDataset(loop.train.pixels, loop.train.jitter))
        outcome = run_loop(network, loop, silent)
    network.load_state_dict(outcome.weights)

    def predictor(dataset: PatchDataset) -> Int64:
        return predict(network, dataset, BATCH, prepared.hardware.first).argmax(axis=1)

    truth, n = pixels.positions[fold.held], len(pixels.legend)
    return record_of(outcome, truth, n), predictor


class Job(NamedTuple):
    """A run to do."""

    ground: str
    method: str
    seed: int
    fold: int

    @property
    def key(self) -> str:
        return key_of(self.ground, self.method, self.seed, self.fold)

    @property
    def disturbs(self) -> bool:
        """Whether it is tested on disturbed images too."""
        return self.method in DISTURBED and self.seed == 0


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All runs: the classical classifiers scene by scene, then the networks, the most telling runs first."""
    wanted = options.methods or METHODS
    for seed, ground, fold in itertools.product(range(options.seeds), options.grounds, range(FOLDS)):
        yield from (Job(ground, method, seed, fold) for method in CLASSICAL if method in wanted)
    for seed, fold, method in itertools.product(range(options.seeds), range(FOLDS), NETWORKS):
        if method in wanted:
            yield from (Job(ground, method, seed, fold) for ground in options.grounds)


def adopt(records: Records, found: Mapping[str, Any]) -> None:
    """Take over the runs of the default recipe from the results of recipe.py: DAS²F here is the same."""
    for (ground, variant), runs in sorted_out(found).items():
        for (seed, fold), record in runs.items():
            key = key_of(ground, DEFAULT, seed, fold)
            if variant == "default" and key not in records:
                adopted = ("steps", COUNTS, "labels", "seconds", "disturbed")
                kept = {name: record[name] for name in adopted if name in record}
                records.add(key, kept)


def parse() -> argparse.Namespace:
    made = parser(__doc__, GROUNDS)
    made.add_argument("--methods", nargs="+", choices=METHODS)
    made.add_argument(
        "--recipe", type=Path, help="recipe.json, whose runs of the default recipe are taken over"
    )
    return made.parse_args()


def main() -> None:
    options = parse()
    device = str(common.start(options))
    records = Records(options.output / f"{NAME}.json")
    if options.recipe is not None:
        adopt(records, Records(options.recipe).found)
    end = time.monotonic() + 60 * options.minutes
    missing = [job for job in jobs(options) if job.key not in records]
    # Runs that were taken over were not tested on disturbed images.
    missing += [
        job
        for job in jobs(options)
        if job.key in records and job.disturbs and "disturbed" not in records.found[job.key]
    ]
    for name, here in itertools.groupby(missing, attrgetter("ground")):
        if time.monotonic() > end:
            break
        with open_ground(name, options.data, device) as ground:
            if name not in records:
                records.add(name, ground.summary())
            for job in here:
                if time.monotonic() > end:
                    break
                record = run(ground, job.method, job.seed, job.fold, device)
                records.add(job.key, record)
                last = figures(record["counts"][-1])
                common.say(
                    f"{job.key}: OA {last.overall:.3f}, AA {last.average:.3f}, kappa {last.kappa:.3f}, "
                    f"F1 {last.mean_f1:.3f}, {record['seconds']:.0f} s"
                )


if __name__ == "__main__":
    main()
