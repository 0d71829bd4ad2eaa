"""One training: a new network, the labelled patches it learns from, and the loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from das2f_map.bundle.model import ModelBundle
from das2f_map.network import Das2fNet
from das2f_map.network.classifier import PooledClassifier
from das2f_map.progress import Progress
from das2f_map.training.batches import PatchDataset
from das2f_map.training.common_ground import away_from
from das2f_map.training.folds import LEAST_TO_LEARN
from das2f_map.training.jitter import Jitter
from das2f_map.training.loop import LoopOutcome, LoopRun, run_loop
from das2f_map.training.opinions import SPACING, Answers, Opinions
from das2f_map.training.prepare import Prepared
from das2f_map.training.scene_pixels import ScenePixels
from das2f_map.training.settings import TrainingSettings
from das2f_map.training.teachers import ask_teachers
from das2f_map.types import Int64

LEAST_SCENE_PIXELS = 32
"""Pixels of the scenes that a pooled head standardises its features by, and that other classifiers are asked
about; with fewer the training batches serve, and nobody is asked."""


@dataclass(frozen=True, eq=False)
class Part:
    """A training of a run.

    Attributes
    ----------
    title:
        Of the progress bar.
    train, held:
        Positions of the labelled pixels to learn from, and of those to check; no checks with ``None``.
    stop_after:
        Checks after which it ends.
    state:
        File of its state.
    keep_weights:
        Whether the weights of every check are of use afterwards.
    """

    title: str
    train: Int64
    held: Int64 | None
    stop_after: int
    state: Path
    keep_weights: bool = False


def fit(
    prepared: Prepared,
    part: Part,
    progress: Progress,
    *,
    start: ModelBundle | None = None,
    opinions: Opinions | None = None,
    resume: bool = False,
) -> LoopOutcome:
    """Train a new network on some of the labelled pixels; errors as in :func:`run_loop`."""
    run = replace(loop_run(prepared, part, resume=resume), opinions=opinions)
    return run_loop(new_network(prepared, start), run, progress)


def answers_for(prepared: Prepared, part: Part, progress: Progress) -> Answers | None:
    """What other classifiers say that learn the same labels; errors as in :func:`.ask_teachers`.

    ``None`` where too little of the scenes lies away from held-out ground. Of held-out pixels those are left
    out whose class was hardly learnt.
    """
    pixels, held = prepared.pixels, None
    if part.held is not None:
        seen = np.bincount(pixels.positions[part.train], minlength=len(pixels.legend))
        held = pixels.select(part.held[seen[pixels.positions[part.held]] >= LEAST_TO_LEARN])
    ground = None if part.held is None else pixels.select(part.held)
    # The pixels with opinions lie around those that are drawn.
    asked = _away(prepared.scattered_pixels, pixels.select(part.train), ground, prepared.reach + SPACING)
    if len(asked) < LEAST_SCENE_PIXELS:
        return None
    return ask_teachers(loop_run(prepared, part), asked, held, progress)


def loop_run(prepared: Prepared, part: Part, *, resume: bool = False) -> LoopRun:
    """The run of the loop that a training is."""
    settings, pixels = prepared.settings, prepared.pixels
    return LoopRun(
        title=part.title,
        train=PatchDataset(pixels.select(part.train), jitter_of(prepared), neighbours(settings)),
        held=None if part.held is None else PatchDataset(pixels.select(part.held)),
        settings=settings,
        hardware=prepared.hardware,
        state=part.state,
        stop_after=part.stop_after,
        resume=resume,
        keep_weights=part.keep_weights,
        scene_pixels=standardising_pixels(prepared, part.train, part.held),
    )


def jitter_of(prepared: Prepared) -> Jitter | None:
    """The random radiometry of the training patches; ``None`` if they stay as they are."""
    settings = prepared.settings
    if settings.jitter == settings.haze == 0:
        return None
    return Jitter(prepared.normalisation, settings.jitter, settings.haze)


def standardising_pixels(prepared: Prepared, train: Int64, held: Int64 | None) -> ScenePixels | None:
    """Pixels of the scenes that are learnt, away from held-out ground; ``None`` if too few or not of use.

    ``train`` and ``held`` are positions of labelled pixels, as in :class:`Part`.
    """
    if prepared.settings.head != "pooled" or prepared.settings.statistics == "labels":
        return None
    pixels = prepared.pixels
    ground = None if held is None else pixels.select(held)
    found = _away(prepared.scene_pixels, pixels.select(train), ground, prepared.reach)
    return found if len(found) >= LEAST_SCENE_PIXELS else None


def _away(found: ScenePixels, train: ScenePixels, held: ScenePixels | None, distance: int) -> ScenePixels:
    """The pixels of the scenes that are learnt, so many MS pixels away from held-out ones."""
    found = found.select(np.flatnonzero(np.isin(found.scene, train.scene)))
    return found if held is None else away_from(found, held, distance)


def neighbours(settings: TrainingSettings) -> int:
    """Distance up to which labelled pixels around a target are learnt with it.

    The published head has weights of its own for every place in a patch, and mixed patches have no places.
    """
    return settings.neighbours if settings.head == "pooled" and settings.mixup == 0 else 0


def new_network(prepared: Prepared, start: ModelBundle | None = None) -> Das2fNet:
    """A network with the head of the settings, with fresh weights or those of another model.

    Fresh weights depend on the seed alone; the caller's random state stays as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(prepared.settings.seed)
        network = Das2fNet(prepared.config)
        if prepared.settings.head == "pooled":
            network.classifier = PooledClassifier(
                prepared.config, prepared.patch.target_index, dropout=prepared.settings.dropout
            )
    if start is not None:
        carry_over(start, network, [b.name for b in prepared.normalisation.ms_bands])
    return network


def carry_over(start: ModelBundle, network: Das2fNet, bands: Iterable[str]) -> None:
    """Copy all weights of a model that fit a network: all but the classifier, and bands by name."""
    theirs, ours = start.state_dict, network.state_dict()
    fitting: dict[str, Tensor] = {}
    for key, value in ours.items():
        old = theirs.get(key)
        if key.startswith("classifier.") or old is None:
            continue
        if old.shape == value.shape:
            fitting[key] = old
    key = "ms_stem.embedding.conv.weight"
    names = [b.name for b in start.card.ms_bands]
    weights = ours[key].clone()
    for k, name in enumerate(bands):
        if name in names:
            weights[:, k] = theirs[key][:, names.index(name)]
    fitting[key] = weights
    network.load_state_dict({**ours, **fitting})


def final_network(prepared: Prepared, weights: dict[str, Tensor]) -> Das2fNet:
    """The network of a finished training, its classifier folded into the published form."""
    network = new_network(prepared)
    network.load_state_dict(weights)
    network.fold_classifier()
    return network
