"""Labelled scenes with ground held out, shared by the benchmarks of accuracy.

Each scene's labelled ground is cut into the folds that `das2f-map train` makes, with its gap. A method learns
from the training pixels of a fold, or from a share of them, and is tested on all held-out pixels of the fold.
Training pixels and tested pixels share no image content; where a scene is too small for that, the page says
how much they share.

The gulf scene comes with the repository. The other scenes lie in a folder of their own, in subfolders by
their names: ms.tif, pan.tif and a label file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
from common import EXAMPLE

from das2f_map.outputs.whole_files import written_whole
from das2f_map.progress import silent
from das2f_map.scene.request import PairRequest
from das2f_map.training.decided import decided, default_distillation
from das2f_map.training.folds import Fold, Folds, spatial_folds
from das2f_map.training.hardware import find_hardware
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.prepare import Prepared, prepare
from das2f_map.training.request import LabelRequest, SceneRequest, TrainRequest
from das2f_map.training.settings import TrainingSettings, default_steps
from das2f_map.types import Float64, Int64

FOLDS: Final = 3
SEEDS: Final = 3
"""Seeds that a benchmark runs unless its options name others."""

LEAST_TESTED: Final = 50
"""Tested pixels from which a class counts in the mean F1."""

MOST_TESTED: Final = 500
"""Pixels that are tested of each fold; more are thinned at random, the same for all methods."""

LABELS: Final = {"berlin": "labels_south.gpkg", "rotterdam1": "labels.gpkg", "zion": "labels.tif"}

GROUNDS: Final = ("berlin", "rotterdam1", "zion", "gulf", "gulf-25", "gulf-5", "gulf-1")
"""Scenes; a number is the share of the training labels in per cent."""

BLOCK: Final = 8
"""MS pixels a side of the blocks of labels that a share keeps or leaves out."""


def parser(description: str | None, grounds: Sequence[str]) -> argparse.ArgumentParser:
    """Options of the benchmarks of accuracy; ``grounds`` are the default ones."""
    made = common.parser(description, rounds=1)
    made.add_argument("--data", type=Path, required=True, help="folder of the scenes")
    made.add_argument("--minutes", type=float, default=600, help="begin no run after these [600]")
    made.add_argument("--seeds", type=int, default=SEEDS)
    made.add_argument("--grounds", nargs="+", choices=GROUNDS, default=list(grounds))
    return made


@dataclass(frozen=True, eq=False)
class Ground:
    """A scene's labelled ground, cut into folds.

    Attributes
    ----------
    name:
        One of :data:`GROUNDS`.
    prepared:
        The open scene.
    folds:
        All labelled pixels, by fold.
    share:
        Share of the training labels that is used, 0..1.
    """

    name: str
    prepared: Prepared
    folds: Folds
    share: float

    def fold(self, number: int, seed: int) -> Fold:
        """Pixels to learn from and to test on; the seed decides which share of the labels is used."""
        whole = self.folds.fold(number)
        held = whole.held
        if held.size > MOST_TESTED:
            # The same pixels for every seed and method.
            held = np.sort(np.random.default_rng(number).choice(held, MOST_TESTED, replace=False))
        return Fold(share_of(self.folds.pixels, whole.train, self.share, seed), held)

    def with_settings(self, settings: TrainingSettings, labelled: int) -> Prepared:
        """The scene prepared for a training with other settings on so many labelled pixels."""
        if settings.distillation is None:
            # As `das2f-map train`, by all labels, not by those of a fold.
            every = round(self.share * len(self.prepared.pixels))
            settings = replace(settings, distillation=default_distillation(settings, every))
        if settings.steps is None:
            # By the labels of the fold, for all methods alike: with opinions `train` takes a quarter less of
            # those by all labels, which is nearly the same.
            on_cpu = self.prepared.hardware.on_cpu
            settings = replace(settings, steps=default_steps(labelled, on_cpu=on_cpu))
        chosen = decided(settings, labelled, on_cpu=self.prepared.hardware.on_cpu)
        return replace(self.prepared, settings=chosen)

    def summary(self) -> dict[str, Any]:
        """Labels, folds and the image content that they share, for the pages."""
        folds = [self.fold(number, seed=0) for number in range(FOLDS)]
        leaks = [self.folds.leak(fold) for fold in folds]
        return {
            "classes": self.folds.pixels.counts(),
            "train": [int(fold.train.size) for fold in folds],
            "tested": [int(fold.held.size) for fold in folds],
            "gap": self.folds.gap,
            "apart": self.folds.reach,
            "overlapping": [round(leak.share, 4) for leak in leaks],
            "overlap": [round(leak.overlap, 4) for leak in leaks],
        }


@contextmanager
def open_ground(name: str, data: Path, device: str) -> Iterator[Ground]:
    """A scene with its folds; files stay open inside the ``with`` block."""
    scene, _, per_cent = name.partition("-")
    folder = EXAMPLE if scene == "gulf" else data / scene
    labels = folder / LABELS.get(scene, "labels.gpkg")
    settings = TrainingSettings(device=device)
    request = TrainRequest(
        (SceneRequest(PairRequest.of(folder / "ms.tif", folder / "pan.tif"), LabelRequest(str(labels))),),
        Path("unused"),
        settings,
    )
    with prepare(request, find_hardware(settings), silent) as prepared:
        folds = spatial_folds(prepared.pixels, FOLDS, gap=prepared.reach, seed=0)
        yield Ground(name, prepared, folds, float(per_cent or 100) / 100)


def share_of(pixels: TrainingPixels, train: Int64, share: float, seed: int) -> Int64:
    """Training pixels in random blocks: a share of each class's pixels, at least 8, or all of fewer.

    ``train`` holds positions in ``pixels``; so does the result, in the same order.
    """
    if share >= 1:
        return train
    rng = np.random.default_rng([seed, 11])
    block = pixels.rows[train].astype(np.int64) // BLOCK * 1_000_000 + pixels.cols[train] // BLOCK
    kept = []
    for k in range(len(pixels.legend)):
        mine = np.flatnonzero(pixels.positions[train] == k)
        wanted, have = max(8, round(share * mine.size)), 0
        for b in rng.permutation(np.unique(block[mine])):
            if have >= wanted:
                break
            here = mine[block[mine] == b][: wanted - have]
            kept.append(here)
            have += here.size
    return train[np.sort(np.concatenate(kept))]


# --- results ---------------------------------------------------------------------------------------------


def key_of(ground: str, name: str, seed: int, number: int) -> str:
    """Key of a run in the results; ``number`` is that of its fold, from 0."""
    return f"{ground} | {name} | seed {seed} | fold {number + 1}"


def counts_of(truth: Int64, found: Int64, classes: int) -> list[list[int]]:
    """Confusion counts, reference down."""
    flat = np.bincount(truth * classes + found, minlength=classes * classes)
    return [[int(n) for n in row] for row in flat.reshape(classes, classes)]


@dataclass(frozen=True)
class Figures:
    """Overall accuracy, average accuracy (mean over the classes), kappa and mean F1; each at most 1.

    A figure that the counts leave undefined is NaN.
    """

    overall: float
    average: float
    kappa: float
    mean_f1: float


def figures(counts: Any, least: int = LEAST_TESTED) -> Figures:
    """Figures of confusion counts ``(C, C)``, reference down.

    Classes with fewer than ``least`` tested pixels count in overall accuracy and kappa, but not in the means.
    """
    matrix = np.asarray(counts, float)
    total, right = matrix.sum(), np.diag(matrix)
    reference, mapped = matrix.sum(axis=1), matrix.sum(axis=0)
    known = reference >= max(1, least)
    if not total:
        return Figures(*[float("nan")] * 4)
    chance = float((reference * mapped).sum() / total**2)
    overall = float(right.sum() / total)
    return Figures(
        overall,
        _mean(right[known] / reference[known]),
        (overall - chance) / (1 - chance) if chance < 1 else float("nan"),
        _mean(2 * right[known] / (reference + mapped)[known]),
    )


def _mean(values: Float64) -> float:
    return float(values.mean()) if values.size else float("nan")


def quality(counts: Any, least: int = LEAST_TESTED) -> float:
    """The mean of overall accuracy and mean F1, by which checks and settings are chosen; 0 if undefined."""
    found = figures(counts, least)
    return float(np.nan_to_num((found.overall + found.mean_f1) / 2))


def chosen_checks(curves: Sequence[Any]) -> list[tuple[int, int]]:
    """For every fold the kind of network and the check, from 0, that the other folds do best at.

    ``curves`` holds for every fold its counts by kind and check, ``(kinds, checks, C, C)``. No tested pixel
    has a say in its own figures. Quality is smoothed over neighbouring checks, as ``das2f-map train`` does. A
    single fold is taken at the last check of the last kind.
    """
    arrays = [np.asarray(curve) for curve in curves]
    if len(arrays) == 1:
        kinds, checks = arrays[0].shape[:2]
        return [(kinds - 1, checks - 1)]
    checks = min(array.shape[1] for array in arrays)
    stacked = [array[:, :checks] for array in arrays]
    together = np.sum(stacked, axis=0)
    chosen = []
    for own in stacked:
        raw = [[quality(c) for c in kind] for kind in together - own]
        padded = np.pad(raw, ((0, 0), (1, 1)), mode="edge")
        smooth = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
        kind, check = divmod(int(np.argmax(smooth)), checks)
        chosen.append((kind, check))
    return chosen


class Records:
    """Results by key in a JSON file that grows run by run, so that a long benchmark can be resumed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a result; one that another process has written meanwhile stays."""
        if self.path.exists():
            self.found = json.loads(self.path.read_text())
        self.found[key] = dict(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(self.found.items())]
        with written_whole(self.path) as partial:
            partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
