"""Other classifiers that learn the labels too, and are asked about pixels all over the scenes.

A network of few labels learns from their opinions beside its labels (knowledge distillation). Random forests
and gradient boosting know the values of a pixel best, small CNNs what surrounds it. Which of them is right
more often depends on the scene, so held-out ground chooses their weights.

Source: Hinton, G., Vinyals, O., and Dean, J. (2015), "Distilling the knowledge in a neural network",
arXiv:1503.02531.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from das2f_map.training.loop import LoopRun, run_loop
from das2f_map.training.opinions import NO_OPINION, OFFSETS, Answers
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.training.small_cnn import SmallCnn
from das2f_map.types import Float32, Int64

FOREST: Final = ForestSettings(min_samples_leaf=4)
BOOSTING: Final = BoostingSettings(iterations=120, max_leaf_nodes=8, min_samples_leaf=5, l2=1.0)

MOST_LEARNT: Final = 5000
"""Labelled pixels that forests and boosting learn from; more are thinned at random, to save time."""

LEAST_KEPT: Final = 20
"""Pixels of a class that thinning leaves."""

CNNS: Final = 2
"""Small CNNs whose probabilities are averaged: with few labels two seeds differ by several points."""

CNN_STEPS: Final = 200
"""Most steps of a CNN; after these it hardly gains."""

CNN_RATE: Final = 2e-3
"""Highest learning rate of a CNN."""

_BATCH = 64

Teacher = Callable[[Tensor, Tensor], Float32]
"""MS and PAN patches of n targets → probabilities float32 ``(n, C)``."""


def ask_teachers(
    run: LoopRun, pixels: ScenePixels, held: TrainingPixels | None, progress: Progress
) -> Answers:
    """Let other classifiers learn the labelled pixels of a training, and ask them.

    Parameters
    ----------
    run:
        The training.
    pixels:
        Pixels whose opinions the network will learn, away from held-out ground.
    held:
        Labelled pixels of held-out ground.

    Raises
    ------
    MissingDependencyError
        scikit-learn is not installed.
    KeyboardInterrupt
        The user asked to stop.
    """
    teachers = (_mean([_small_cnn(run, k, progress) for k in range(CNNS)]), _mean(_classical(run)))
    classes, side = len(run.train.pixels.legend), len(OFFSETS)
    tables = np.full((len(teachers), len(pixels), side, side, classes), NO_OPINION, np.float32)
    with progress(f"{run.title}: opinions on the scene", side**2) as advance:
        for i, down in enumerate(OFFSETS):
            for j, right in enumerate(OFFSETS):
                there, usable = _moved(pixels, down, right)
                tables[:, usable, i, j] = _answers(teachers, there, usable, classes)
                advance(1)
    if held is None:
        nothing = np.zeros((len(teachers), 0, classes), np.float32)
        return Answers(pixels, tables, nothing, np.zeros(0, np.int64))
    answers = _answers(teachers, held, np.arange(len(held)), classes)
    return Answers(pixels, tables, answers, held.positions)


def _answers(teachers: Sequence[Teacher], pixels: ScenePixels, at: Int64, classes: int) -> Float32:
    """Probabilities of each teacher at some of the pixels, float32 ``(teachers, n, C)``."""
    found = np.zeros((len(teachers), at.size, classes), np.float32)
    for first in range(0, at.size, _BATCH):
        some = slice(first, first + _BATCH)
        patches = pixels.patches(at[some])
        for own, teacher in zip(found, teachers, strict=True):
            own[some] = teacher(*patches)
    return found


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
    """At most :data:`MOST_LEARNT` of the pixels, and some of every class."""
    if len(pixels) <= MOST_LEARNT:
        return pixels
    rng = np.random.default_rng([seed, 17])
    drawn = rng.permutation(len(pixels))
    # Place of each drawn pixel among those of its class: the first ones stay.
    order = np.argsort(pixels.positions[drawn], kind="stable")
    counts = np.bincount(pixels.positions[drawn])
    place = np.empty(len(pixels), np.int64)
    place[order] = np.arange(len(pixels)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = (np.arange(len(pixels)) < MOST_LEARNT) | (place < LEAST_KEPT)
    return pixels.select(np.sort(drawn[kept]).astype(np.int64))


def _small_cnn(run: LoopRun, number: int, progress: Progress) -> Teacher:
    """A small CNN that learns the training's labels, targets alone; each number has a seed of its own."""
    assert run.settings.steps is not None
    steps = min(run.settings.steps, CNN_STEPS)
    seed = (run.settings.seed + 1000 * number) % 2**32
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pixels = run.train.pixels
        cnn: nn.Module = SmallCnn(len(pixels.legend), len(pixels.readers[0].source.normalisation.ms_bands))
    with tempfile.TemporaryDirectory(prefix="das2f-map-") as folder:
        own = LoopRun(
            title=f"{run.title}: small CNN {number + 1} of {CNNS} first",
            train=PatchDataset(pixels, run.train.jitter),
            held=None,
            settings=replace(
                run.settings, steps=steps, checks=1, learning_rate=CNN_RATE, mixup=0.0, seed=seed
            ),
            hardware=run.hardware,
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
