"""Ablation of the training recipe on held-out ground: each part of it left out, or another one put in.

    python benchmarks/recipe.py --data SCENES --minutes 60

For every scene, seed and fold the default recipe and its variants train on the same pixels and are tested on
the same held-out ground. Results go into recipe.json run by run. A second call does the missing runs,
in an order that serves all variants alike, and begins none when the minutes are over.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import torch
from held_ground import FOLDS, GROUNDS, Ground, Records, counts_of, figures, key_of, open_ground

from das2f_map.progress import silent
from das2f_map.training.batches import PatchDataset
from das2f_map.training.fit import Part, final_network, fit
from das2f_map.training.predict import predict
from das2f_map.training.settings import TrainingSettings

NAME: Final = "recipe"
TURNS: Final = "8 turns"
"""Key of the accuracy with the mean over the eight turns of a patch."""

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "rate 2e-3": {"learning_rate": 2e-3},
    "rate 1e-3": {"learning_rate": 1e-3},
    "published head": {"head": "published"},
    "no jitter, haze or shade": {"jitter": 0.0, "haze": 0.0},
    "no haze or shade": {"haze": 0.0},
    "no running mean of weights": {"ema": 0.0},
    "no dropout": {"dropout": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "classes as often as labelled": {"balance": 0.0},
    "classes equally often": {"balance": 1.0},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "mixup 0.2": {"mixup": 0.2},
    "constant rate": {"final_rate": 1.0},
    "weight decay 0.05": {"weight_decay": 0.05},
    "batches of 16": {"batch_size": 16},
    "half the steps": {"steps": -2},
    "twice the steps": {"steps": 2},
}
"""Settings that differ from the default recipe. ``steps``: a factor, or a divisor if negative."""


def settings_of(variant: str, seed: int, device: str, labelled: int, ground: Ground) -> TrainingSettings:
    """The settings of a variant."""
    changes = dict(VARIANTS[variant])
    factor = changes.pop("steps", 1)
    base = ground.with_settings(TrainingSettings(seed=seed, device=device), labelled).settings
    assert base.steps is not None
    steps = base.steps * factor if factor > 0 else base.steps // -factor
    return TrainingSettings(seed=seed, device=device, steps=steps, **changes)


def run(ground: Ground, variant: str, seed: int, number: int, device: str) -> dict[str, Any]:
    """Counts at every check of one training."""
    fold = ground.fold(number, seed)
    settings = settings_of(variant, seed, device, fold.train.size, ground)
    prepared = ground.with_settings(settings, fold.train.size)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        part = Part(variant, fold.train, fold.held, prepared.settings.checks, Path(folder) / "state.ckpt")
        outcome = fit(prepared, part, silent)
    seconds = time.monotonic() - started
    truth, n = prepared.pixels.positions[fold.held], len(prepared.pixels.legend)
    record: dict[str, Any] = {
        "steps": [h["steps"] for h in outcome.history],
        "counts": [counts_of(truth, found.argmax(axis=1), n) for found in outcome.logits],
        "labels": int(fold.train.size),
        "seconds": round(seconds, 1),
    }
    if variant == "default":
        net = final_network(prepared, outcome.weights)
        dataset = PatchDataset(prepared.pixels.select(fold.held))
        logits = [predict(net, dataset, 64, prepared.hardware.first, turn=k) for k in range(8)]
        mean = np.mean([torch.softmax(torch.from_numpy(x), 1).numpy() for x in logits], axis=0)
        record[TURNS] = counts_of(truth, mean.argmax(axis=1), n)
    return record


def jobs(options: argparse.Namespace) -> Iterator[tuple[int, str, str, int]]:
    """Seed, variant, scene and fold of every run, the most telling first."""
    for seed in range(options.seeds):
        for number in range(FOLDS):
            for variant in options.variants or VARIANTS:
                for ground in options.grounds:
                    yield seed, variant, ground, number


def parse() -> argparse.Namespace:
    made = common.parser(__doc__, rounds=1)
    made.add_argument("--data", type=Path, required=True, help="folder of the scenes")
    made.add_argument("--minutes", type=float, default=600, help="begin no run after these [600]")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--grounds", nargs="+", choices=GROUNDS, default=["berlin", "rotterdam1", "gulf-5"])
    made.add_argument("--variants", nargs="+", choices=list(VARIANTS))
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


if __name__ == "__main__":
    main()
