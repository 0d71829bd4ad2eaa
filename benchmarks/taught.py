"""Other classifiers' opinions for the trainings of a benchmark, as `das2f-map train` makes them.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from held_ground import FOLDS, Ground

from das2f_map.progress import silent
from das2f_map.training.fit import Part, answers_for
from das2f_map.training.loop import LoopRun
from das2f_map.training.opinions import Answers, share_of_cnns
from das2f_map.training.settings import TrainingSettings


@dataclass(frozen=True)
class Folded:
    """Which training of a scene it is: its decided settings, the seed and the fold, from 0."""

    settings: TrainingSettings
    seed: int
    fold: int


def with_opinions(loop: LoopRun, ground: Ground, which: Folded) -> tuple[float | None, LoopRun]:
    """A training with other classifiers' opinions, and the weight of the CNN in them; ``None`` without any.

    The other folds choose the weight, as in `das2f-map train`.
    """
    if not which.settings.distillation:
        return None, loop
    answers = _answers(ground, which)
    share = share_of_cnns([a for k, a in enumerate(answers) if k != which.fold and a is not None])
    own = answers[which.fold]
    if own is None:
        return share, loop
    # What was kept may be of files that have been closed since.
    pixels = replace(own.pixels, readers=ground.prepared.pixels.readers)
    return share, replace(loop, opinions=replace(own, pixels=pixels).weighted(share, loop.train.jitter))


_kept: dict[tuple[str, int, TrainingSettings], list[Answers | None]] = {}


def _answers(ground: Ground, which: Folded) -> list[Answers | None]:
    """What the teachers of every fold say. The last ones are kept: all folds of a scene need them."""
    # Teachers take the default number of steps of each fold, and have no head.
    settings = replace(which.settings, steps=None, statistics=TrainingSettings.statistics)
    key = ground.name, which.seed, settings
    if key not in _kept:
        found = []
        for number in range(FOLDS):
            fold = ground.fold(number, which.seed)
            prepared = ground.with_settings(settings, fold.train.size)
            with tempfile.TemporaryDirectory() as folder:
                part = Part("", fold.train, fold.held, 1, Path(folder) / "state.ckpt")
                found.append(answers_for(prepared, part, silent))
        _kept.clear()
        _kept[key] = found
    return _kept[key]
