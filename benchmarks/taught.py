"""Other classifiers' opinions for the trainings of a benchmark, as `das2f-map train` makes them.

Other benchmarks import this module; it runs nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from held_ground import FOLDS, Ground

from das2f_map.progress import silent
from das2f_map.training.fit import Part, answers_on_held_ground, opinions_for, teachers_of
from das2f_map.training.loop import LoopRun
from das2f_map.training.prepare import Prepared
from das2f_map.training.settings import TrainingSettings
from das2f_map.training.teachers import Teachers, share_of_cnn
from das2f_map.types import Float32, Int64

Taught = tuple[Teachers, tuple[Float32, Int64]]
"""Teachers of a fold, and what they say of its held-out ground."""


@dataclass(frozen=True)
class Folded:
    """Which training of a scene it is: the settings that were asked for, the seed and the fold, from 0."""

    settings: TrainingSettings
    seed: int
    fold: int


def with_opinions(
    loop: LoopRun, prepared: Prepared, part: Part, ground: Ground, which: Folded
) -> tuple[float | None, LoopRun]:
    """A training with other classifiers' opinions, and the weight of the CNN in them; ``None`` without any.

    The other folds choose the weight, as in `das2f-map train`.
    """
    if not prepared.settings.distillation:
        return None, loop
    taught = _teachers(ground, which)
    share = share_of_cnn([answers for k, (_, answers) in enumerate(taught) if k != which.fold])
    return share, replace(loop, opinions=opinions_for(prepared, part, taught[which.fold][0], share, silent))


_kept: dict[tuple[str, TrainingSettings], list[Taught]] = {}


def _teachers(ground: Ground, which: Folded) -> list[Taught]:
    """The teachers of every fold. Those of the last scene and settings are kept: all folds need them."""
    key = ground.name, which.settings
    if key not in _kept:
        _kept.clear()
        found = []
        for number in range(FOLDS):
            fold = ground.fold(number, which.seed)
            prepared = ground.with_settings(which.settings, fold.train.size)
            with tempfile.TemporaryDirectory() as folder:
                part = Part("", fold.train, fold.held, 1, Path(folder) / "state.ckpt")
                teachers = teachers_of(prepared, part, silent)
            assert teachers is not None
            found.append((teachers, answers_on_held_ground(prepared, teachers, fold.train, fold.held)))
        _kept[key] = found
    return _kept[key]
