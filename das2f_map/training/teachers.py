"""Other classifiers that learn the labels too, and are asked about pixels without labels.

A network of few labels learns from their opinions beside its labels (knowledge distillation). Random forests
and gradient boosting know the values of a pixel best, a small CNN what surrounds it. Which of them is right
more often depends on the scene, so held-out ground chooses their weights.

Source: Hinton, G., Vinyals, O., and Dean, J. (2015), "Distilling the knowledge in a neural network",
arXiv:1503.02531.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from das2f_map.progress import Progress
from das2f_map.training.baselines import (
    Baseline,
    BoostingSettings,
    FeatureFunction,
    ForestSettings,
    gradient_boosting,
    pixel_features,
    random_forest,
    stack_features,
    window_features,
)
from das2f_map.training.batches import PatchDataset, PlainBatches
from das2f_map.training.jitter import Jitter
from das2f_map.training.loop import LoopRun, run_loop
from das2f_map.training.opinions import NO_OPINION, OFFSETS, Opinions
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.training.small_cnn import SmallCnn
from das2f_map.types import Float32, Int64

FOREST: Final = ForestSettings(min_samples_leaf=4)
BOOSTING: Final = BoostingSettings(iterations=120, max_leaf_nodes=8, min_samples_leaf=5, l2=1.0)

MOST_LEARNT: Final = 5000
"""Labelled pixels that forests and boosting learn from; more are thinned at random, to save time."""

CNN_STEPS: Final = 200
"""Most steps of the CNN; after these it hardly gains."""

CNN_RATE: Final = 2e-3
"""Highest learning rate of the CNN."""

_BATCH = 64

SHARES: Final = np.linspace(0.0, 1.0, 11)
"""Weights of the CNN that are tried."""

EQUAL: Final = 0.5
"""Weight of the CNN where no ground is held out to choose it by."""

_LEAST_PROBABILITY = 1e-3
"""A teacher may be sure and wrong; a single such pixel must not decide."""

_NO_DIFFERENCE = 1e-3
"""Of a loss a pixel."""

Teacher = Callable[[Tensor, Tensor], Float32]
"""MS and PAN patches of n targets → probabilities float32 ``(n, C)``."""


@dataclass(frozen=True, eq=False)
class Teachers:
    """Classifiers that have learnt a training's labelled pixels: a small CNN, and the mean of four others."""

    cnn: Teacher
    others: Teacher

    def answers(self, pixels: ScenePixels, at: Int64) -> Float32:
        """Probabilities of the CNN and of the others at some of the pixels, float32 ``(2, n, C)``."""
        found = []
        for some in np.array_split(at, -(-at.size // _BATCH) or 1):
            patches = pixels.patches(some)
            found.append(np.stack([self.cnn(*patches), self.others(*patches)]))
        return np.concatenate(found, axis=1)


def teach(run: LoopRun, progress: Progress) -> Teachers:
    """Let other classifiers learn the labelled pixels of a training.

    Raises
    ------
    MissingDependencyError
        scikit-learn is not installed.
    KeyboardInterrupt
        The user asked to stop.
    """
    return Teachers(_small_cnn(run, progress), _mean(_classical(run)))


def share_of_cnn(answers: Sequence[tuple[Float32, Int64]]) -> float:
    """Weight of the CNN in the mean of both, by the least loss on ground that they have not learnt.

    ``answers`` holds what the teachers of a training say, ``(2, n, C)``, and the classes that are there
    ``(n,)``. Without any the weights are :data:`EQUAL`.
    """
    if not sum(truth.size for _, truth in answers):
        return EQUAL
    right = np.concatenate([found[:, np.arange(truth.size), truth] for found, truth in answers], axis=1)
    losses = [
        -np.log(_LEAST_PROBABILITY + share * right[0] + (1 - share) * right[1]).mean() for share in SHARES
    ]
    # Of shares that do as well, the most even one: a scene that both know says nothing of the next one.
    good = SHARES[np.asarray(losses) <= min(losses) + _NO_DIFFERENCE]
    return float(good[np.argmin(np.abs(good - EQUAL))])


def ask(
    teachers: Teachers,
    share: float,
    pixels: ScenePixels,
    jitter: Jitter | None,
    advance: Callable[[int], None],
) -> Opinions:
    """Opinions on some pixels without labels, with a weight of the CNN; ``advance`` is told of nine steps."""
    table: Float32 | None = None
    for i, down in enumerate(OFFSETS):
        for j, right in enumerate(OFFSETS):
            there, usable = _moved(pixels, down, right)
            found = teachers.answers(there, usable)
            if table is None:
                table = np.full(
                    (len(pixels), len(OFFSETS), len(OFFSETS), found.shape[-1]), NO_OPINION, np.float32
                )
            table[usable, i, j] = share * found[0] + (1 - share) * found[1]
            advance(1)
    assert table is not None
    return Opinions(pixels, table, jitter)


def _moved(pixels: ScenePixels, down: int, right: int) -> tuple[ScenePixels, Int64]:
    """The pixels so many MS pixels further, and the positions of those that can be used."""
    moved = replace(
        pixels, rows=(pixels.rows + down).astype(np.int32), cols=(pixels.cols + right).astype(np.int32)
    )
    usable = np.zeros(len(pixels), bool)
    for scene, reader in enumerate(pixels.readers):
        grid = reader.source.pair.grids.ms
        inside = (
            (moved.rows >= 0) & (moved.rows < grid.height) & (moved.cols >= 0) & (moved.cols < grid.width)
        )
        here = np.flatnonzero(inside & (moved.scene == scene))
        usable[here] = reader.load(moved.rows[here], moved.cols[here])
    return moved, np.flatnonzero(usable)


def _mean(teachers: list[Teacher]) -> Teacher:
    def mean(ms: Tensor, pan: Tensor) -> Float32:
        return np.asarray(np.mean([teacher(ms, pan) for teacher in teachers], axis=0), np.float32)

    return mean


def _classical(run: LoopRun) -> list[Teacher]:
    """Forests and boosting, each on the pixel's own values and with those around it."""
    train, seed = _thinned(run.train.pixels, run.settings.seed), run.settings.seed
    classes = len(train.legend)
    dataset = PatchDataset(train)
    found: list[Teacher] = []
    for features in (pixel_features, window_features):
        batches = (dataset[batch][:2] for batch in PlainBatches(len(dataset), _BATCH))
        rows = stack_features(batches, features)
        for model in (random_forest(classes, seed, FOREST), gradient_boosting(classes, seed, BOOSTING)):
            model.fit(rows, train.positions)
            found.append(partial(_probabilities, model, features))
    return found


def _probabilities(model: Baseline, features: FeatureFunction, ms: Tensor, pan: Tensor) -> Float32:
    return np.asarray(model.probabilities(features(ms, pan)), np.float32)


def _thinned(pixels: TrainingPixels, seed: int) -> TrainingPixels:
    if len(pixels) <= MOST_LEARNT:
        return pixels
    rng = np.random.default_rng([seed, 17])
    return pixels.select(np.sort(rng.choice(len(pixels), MOST_LEARNT, replace=False)).astype(np.int64))


def _small_cnn(run: LoopRun, progress: Progress) -> Teacher:
    """A small CNN that learns the training's batches, targets alone."""
    assert run.settings.steps is not None
    steps = min(run.settings.steps, CNN_STEPS)
    with torch.random.fork_rng():
        torch.manual_seed(run.settings.seed)
        pixels = run.train.pixels
        cnn: nn.Module = SmallCnn(len(pixels.legend), len(pixels.readers[0].source.normalisation.ms_bands))
    with tempfile.TemporaryDirectory(prefix="das2f-map-") as folder:
        own = LoopRun(
            title=f"{run.title}: a small CNN first",
            train=PatchDataset(pixels, run.train.jitter),
            held=None,
            settings=replace(run.settings, steps=steps, checks=1, learning_rate=CNN_RATE, mixup=0.0),
            hardware=run.hardware.alone(),
            state=Path(folder) / "state.ckpt",
            stop_after=1,
            says_checks=False,
        )
        outcome = run_loop(cnn, own, progress)
    if outcome.interrupted:
        raise KeyboardInterrupt
    cnn.load_state_dict(outcome.weights)
    device = run.hardware.first
    cnn.to(device).eval()

    def probabilities(ms: Tensor, pan: Tensor) -> Float32:
        with torch.inference_mode():
            logits = cnn(ms.to(device), pan.to(device)).float()
        return np.asarray(logits.softmax(dim=1).cpu().numpy(), np.float32)

    return probabilities
