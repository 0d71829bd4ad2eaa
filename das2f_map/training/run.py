"""The trainings of a run: those with ground held out, and that on all labels, in one working folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from das2f_map.assess.confusion_matrix import ConfusionMatrix
from das2f_map.bundle.model import ModelBundle
from das2f_map.progress import Progress
from das2f_map.training.assessment import (
    HOLDOUT_FOLDS,
    MOST_HELD_CPU,
    MOST_HELD_GPU,
    Assessment,
    HeldOut,
    assess,
    can_assess,
    held_out,
)
from das2f_map.training.folds import Folds, spatial_folds
from das2f_map.training.forest import forest_matrix
from das2f_map.training.prepare import Prepared
from das2f_map.training.run_files import keep_record, read_record, state_path
from das2f_map.types import Float32, Int64

if TYPE_CHECKING:
    from das2f_map.training.loop import LoopOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HeldGround:
    """The trainings with held-out ground, and what they say.

    Attributes
    ----------
    folds:
        The cut of the ground.
    parts:
        The trainings.
    histories:
        Checks of each training by its name.
    assessment:
        Figures on the held-out ground.
    forest:
        Figures of a random forest there; ``None`` without scikit-learn.
    """

    folds: Folds
    parts: tuple[HeldOut, ...]
    histories: dict[str, list[dict[str, Any]]]
    assessment: Assessment
    forest: ConfusionMatrix | None


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """The trainings of a run, all in one working folder."""

    prepared: Prepared
    work: Path
    start: ModelBundle | None
    resume: bool
    progress: Progress

    def held_ground(self) -> HeldGround | None:
        """Train with ground held out, and measure there; ``None`` without an assessment.

        The user does not want one, or the labels do not allow it.
        """
        prepared, settings = self.prepared, self.prepared.settings
        if settings.assess == "none":
            return None
        count = HOLDOUT_FOLDS if settings.assess == "holdout" else settings.folds
        folds = spatial_folds(
            prepared.pixels,
            count,
            gap=prepared.reach,
            seed=settings.seed,
            by_scene=settings.fold_by == "scene",
        )
        most = MOST_HELD_CPU if prepared.hardware.on_cpu else MOST_HELD_GPU
        every = held_out(folds, settings.assess, most=most, seed=settings.seed)
        parts = tuple(part for part in every if can_assess(prepared.pixels, part))
        if not parts:
            log.warning(
                "Not assessed: the labels lie in too few places to hold some of them out. "
                "Label every class in several places"
            )
            return None
        if len(parts) < len(every):
            log.warning(
                "%d of %d folds cannot be assessed: outside them are labels of fewer than two classes. "
                "Label every class in several places",
                len(every) - len(parts),
                len(every),
            )
        _say_leak(folds, parts)
        histories: dict[str, list[dict[str, Any]]] = {}
        logits = []
        for part in parts:
            history, found = self._checked(part)
            histories[part.name] = history
            logits.append(found)
        assessment = assess(prepared.pixels, parts, logits)
        if assessment.not_assessed:
            log.warning("Not assessed, for lack of labels: %s", ", ".join(assessment.not_assessed))
        return HeldGround(
            folds, parts, histories, assessment, forest_matrix(prepared.pixels, parts, settings.seed)
        )

    def _checked(self, part: HeldOut) -> tuple[list[dict[str, Any]], Float32]:
        """Train with a part's ground held out; its checks, from an earlier run if it has them."""
        if self.resume and (record := read_record(self.work, part.name)) is not None:
            return record
        title = f"Training without the ground of {part.name}"
        checks = self.prepared.settings.checks
        outcome = self.fit(part.name, title, part.fold.train, part.fold.held, checks)
        if outcome.complete and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            keep_record(self.work, part.name, outcome.history, outcome.logits)
        if outcome.interrupted:
            raise KeyboardInterrupt
        return outcome.history, outcome.logits

    def fit(self, name: str, title: str, train: Int64, held: Int64 | None, checks: int) -> LoopOutcome:
        """One training."""
        from das2f_map.training.fit import Part, fit

        part = Part(title, train, held, checks, state_path(self.work, name))
        return fit(self.prepared, part, self.progress, start=self.start, resume=self.resume)


def _say_leak(folds: Folds, parts: Sequence[HeldOut]) -> None:
    summary = folds.summary([part.fold for part in parts])
    if summary["held_out_overlapping_training"]:
        log.warning(
            "The labels lie too close for folds a whole patch apart: held-out pixels lie at least %d MS "
            "pixels from training pixels, and %.0f %% of their patches overlap a training patch, "
            "by %.1f %% of a patch on the average of all",
            folds.gap,
            100 * summary["held_out_overlapping_training"],
            100 * summary["mean_overlap"],
        )
