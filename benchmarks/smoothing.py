"""Accuracy with `classify --smooth` on held-out ground.

    python benchmarks/smoothing.py --data SCENES --grounds gulf

A method learns from the training pixels of a fold. The tested pixels of the fold, and all pixels around them,
get probabilities; these are smoothed as in a map, and the class with the highest one is compared with the
label. Results go into smoothing.json run by run; a second call does the missing runs. The network learns with
the default recipe from random weights; `--steps` shortens its training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
from held_ground import FOLDS, GROUNDS, Ground, Records, counts_of, figures, key_of, open_ground, parser
from methods import CLASSICAL, DEFAULT, FOREST, NETWORKS, classifier

from das2f_map.progress import silent
from das2f_map.running.smoothing import guide_of, smoothed, spread
from das2f_map.scene.grid import PAN_PER_MS
from das2f_map.training.baselines import stack_features
from das2f_map.training.batches import PatchDataset, PlainBatches
from das2f_map.training.fit import neighbours
from das2f_map.training.folds import Fold
from das2f_map.training.jitter import Jitter
from das2f_map.training.loop import LoopRun, run_loop
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.predict import predict
from das2f_map.training.settings import TrainingSettings
from das2f_map.types import Float32

NAME: Final = "smoothing"
RADII: Final = (1, 2, 3)
BATCH: Final = 64

Predictor = Callable[[TrainingPixels], Float32]
"""Pixels → probabilities (n, classes)."""


def forest(ground: Ground, fold: Fold, settings: TrainingSettings) -> Predictor:
    """A random forest on windows, with the first settings of its grid."""
    method, seed = CLASSICAL[FOREST], settings.seed

    def rows_of(pixels: TrainingPixels) -> Float32:
        dataset = PatchDataset(pixels)
        return stack_features(
            (dataset[batch][:2] for batch in PlainBatches(len(dataset), BATCH)), method.features
        )

    train = ground.folds.pixels.select(fold.train)
    model = classifier(method.grid[0], len(train.legend), seed)
    model.fit(rows_of(train), train.positions)
    return lambda pixels: np.asarray(model.probabilities(rows_of(pixels)), np.float32)


def network(ground: Ground, fold: Fold, settings: TrainingSettings) -> Predictor:
    """The one-stage network after its last step, without other classifiers' opinions."""
    prepared = ground.with_settings(settings, fold.train.size)
    pixels, device = prepared.pixels, prepared.hardware.first
    made = NETWORKS[DEFAULT].make(prepared)
    with tempfile.TemporaryDirectory() as folder:
        loop = LoopRun(
            title="",
            train=PatchDataset(
                pixels.select(fold.train),
                Jitter(prepared.normalisation, prepared.settings.jitter, prepared.settings.haze),
                neighbours(prepared.settings),
            ),
            held=PatchDataset(pixels.select(fold.held)),
            settings=prepared.settings,
            hardware=prepared.hardware,
            state=Path(folder) / "state.ckpt",
            stop_after=prepared.settings.checks,
        )
        made.load_state_dict(run_loop(made, loop, silent).weights)

    def probabilities(wanted: TrainingPixels) -> Float32:
        logits = predict(made, PatchDataset(wanted), BATCH, device)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)

    return probabilities


METHODS: Final = {FOREST: forest, DEFAULT: network}


def around(pixels: TrainingPixels) -> TrainingPixels:
    """The pixels within the largest radius of some pixels of one scene; their classes mean nothing."""
    reader, most = pixels.readers[0], max(RADII)
    grid = reader.source.pair.grids.ms
    tested = np.zeros((grid.height, grid.width), bool)
    tested[pixels.rows, pixels.cols] = True
    rows, cols = np.nonzero(spread(tested, most)[most:-most, most:-most])
    valid = reader.load(rows, cols)
    rows, cols = rows[valid].astype(np.int32), cols[valid].astype(np.int32)
    none = np.zeros(rows.size, np.int64)
    return replace(pixels, scene=none, rows=rows, cols=cols, positions=none)


def guides(pixels: TrainingPixels) -> Float32:
    """Mean PAN of each pixel: float32 (n,)."""
    first = PAN_PER_MS * pixels.readers[0].source.patch.target_index
    part = slice(first, first + PAN_PER_MS)
    found = []
    for start in range(0, len(pixels), BATCH):
        _, pan = pixels.patches(np.arange(start, min(start + BATCH, len(pixels))))
        found += [guide_of(one)[0, 0] for one in pan.numpy()[:, 0, part, part]]
    return np.array(found, np.float32)


def run(ground: Ground, method: str, number: int, settings: TrainingSettings, tested: int) -> dict[str, Any]:
    """Counts without smoothing (0) and with each radius, by the radius."""
    started, fold = time.monotonic(), ground.fold(number, settings.seed)
    held = np.sort(np.random.default_rng(number).permutation(fold.held)[:tested])
    pixels = ground.folds.pixels.select(held)
    probabilities = METHODS[method](ground, fold, settings)
    near, n = around(pixels), len(pixels.legend)
    grid = near.readers[0].source.pair.grids.ms
    every = np.full((n, grid.height, grid.width), np.nan, np.float32)
    every[:, near.rows, near.cols] = probabilities(near).T
    guide = np.zeros((grid.height, grid.width), np.float32)
    guide[near.rows, near.cols] = guides(near)
    maps = {0: every} | {radius: smoothed(every, guide, radius) for radius in RADII}
    counts = {
        str(radius): counts_of(pixels.positions, values[:, pixels.rows, pixels.cols].argmax(axis=0), n)
        for radius, values in maps.items()
    }
    return {
        "counts": counts,
        "tested": int(held.size),
        "labels": int(fold.train.size),
        "steps": settings.steps,
        "seconds": round(time.monotonic() - started, 1),
    }


def parse() -> argparse.Namespace:
    made = parser(__doc__, [g for g in GROUNDS if g == "gulf"])
    made.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    made.add_argument("--steps", type=int, help="of the network's training [as the recipe has]")
    made.add_argument("--tested", type=int, default=500, help="pixels that are tested of each fold [500]")
    made.add_argument("--folds", type=int, default=FOLDS, help=f"folds to run [{FOLDS}]")
    return made.parse_args()


def main() -> None:
    options = parse()
    device = str(common.start(options))
    records = Records(options.output / f"{NAME}.json")
    end = time.monotonic() + 60 * options.minutes
    for name in options.grounds:
        with open_ground(name, options.data, device) as ground:
            for method in options.methods:
                for seed in range(options.seeds):
                    settings = TrainingSettings(seed=seed, device=device, steps=options.steps)
                    for number in range(options.folds):
                        key = key_of(name, method, seed, number)
                        if key in records or time.monotonic() > end:
                            continue
                        record = run(ground, method, number, settings, options.tested)
                        records.add(key, record)
                        overall = {r: round(figures(c).overall, 4) for r, c in record["counts"].items()}
                        common.say(f"{key}: OA by radius {overall}, {record['seconds']:.0f} s")


if __name__ == "__main__":
    main()
