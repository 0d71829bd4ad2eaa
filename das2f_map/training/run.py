"""The trainings of a run: those with ground held out, and that on all labels, in one working folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.turned import VIEWS
from das2f_map.progress import Progress
from das2f_map.training.assessment import (
    MOST_HELD_CPU,
    MOST_HELD_FAST,
    MOST_HELD_GPU,
    Assessment,
    HeldOut,
    assess,
    can_assess,
    held_out,
)
from das2f_map.training.common_ground import common_places
from das2f_map.training.folds import HOLDOUT_FOLDS, Folds, spatial_folds
from das2f_map.training.forest import ForestFigures, forest_figures
from das2f_map.training.opinions import EQUAL, Answers, Opinions, share_of_cnns
from das2f_map.training.prepare import Prepared
from das2f_map.training.run_files import (
    PartRecord,
    keep_answers,
    keep_record,
    read_answers,
    read_record,
    state_path,
)
from das2f_map.training.settings import map_turns
from das2f_map.types import Float32, Int64

if TYPE_CHECKING:
    from torch import Tensor

    from das2f_map.training.fit import Part
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
    turns:
        Turns of a patch whose logits the figures average, as a map does.
    share_of_cnns:
        Weight of the small CNNs in other classifiers' opinions, by all held-out ground.
    """

    folds: Folds
    parts: tuple[HeldOut, ...]
    histories: dict[str, list[dict[str, Any]]]
    assessment: Assessment
    forest: ForestFigures | None
    turns: int
    share_of_cnns: float


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
        holdout = settings.assess == "holdout"
        folds = spatial_folds(
            prepared.pixels,
            HOLDOUT_FOLDS if holdout else settings.folds,
            gap=prepared.reach,
            seed=settings.seed,
            by_scene=settings.fold_by == "scene",
            places=common_places(prepared.pixels),
            holdout=holdout,
        )
        most = MOST_HELD_CPU if prepared.hardware.on_cpu else MOST_HELD_GPU
        if settings.fast:
            most = min(most, MOST_HELD_FAST)
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
        answers = self._answers_of(parts)
        records = {part.name: self._checked(part, answers) for part in parts}
        without = [part.name for part in parts if self._lacks_scene_pixels(part)]
        if without and settings.statistics != "labels":
            log.warning(
                "Too little of the scenes lies away from the ground of %s: "
                "the statistics of the pooled head are those of the labels there",
                ", ".join(without),
            )
        at_check = None
        if self._turns > 1:

            def at_check(part: HeldOut, check: int) -> Float32:
                return self._turned_logits(part, records[part.name].weights[check])

        assessment = assess(prepared.pixels, parts, [r.logits for r in records.values()], at_check)
        if assessment.not_assessed:
            log.warning(
                "Not assessed, with labels too few or in too few places: %s",
                ", ".join(assessment.not_assessed),
            )
        histories = {name: record.history for name, record in records.items()}
        forest = forest_figures(prepared.pixels, parts, settings.seed)
        return HeldGround(folds, parts, histories, assessment, forest, self._turns, answers.share(None))

    def final(self, held: HeldGround | None) -> LoopOutcome:
        """Train on all labels, for as many steps as held-out ground chooses."""
        everything = np.arange(len(self.prepared.pixels))
        checks = self.prepared.settings.checks if held is None else held.assessment.checks
        part = self._part("final", "Training on all labels", everything, None, checks)
        answers = self._answers("final", part)
        if answers is None and self.prepared.settings.distillation:
            log.warning("Too little of the scenes can be used: no opinions of other classifiers are learnt")
        return self._fit(
            part, self._opinions("the model", answers, EQUAL if held is None else held.share_of_cnns)
        )

    def _answers_of(self, parts: Sequence[HeldOut]) -> _AnswersOfParts:
        """What teachers of every part say; a line names the parts without any."""
        if not self.prepared.settings.distillation:
            return _AnswersOfParts({})
        found = {part.name: self._answers(part.name, self._part_of(part)) for part in parts}
        if without := [name for name, answers in found.items() if answers is None]:
            log.warning(
                "Too little of the scenes lies away from the ground of %s: no opinions are learnt there",
                ", ".join(without),
            )
        return _AnswersOfParts({name: answers for name, answers in found.items() if answers is not None})

    def _answers(self, name: str, part: Part) -> Answers | None:
        """What teachers of a training say; from an earlier run if it has asked them."""
        from das2f_map.training.fit import answers_for

        prepared = self.prepared
        if not prepared.settings.distillation:
            return None
        if self.resume and (kept := read_answers(self.work, name, prepared.pixels.readers)) is not None:
            return kept
        found = answers_for(prepared, part, self.progress)
        if found is not None:
            keep_answers(self.work, name, found)
        return found

    def _opinions(self, whose: str, answers: Answers | None, share: float) -> Opinions | None:
        """What a training learns of the answers."""
        from das2f_map.training.fit import jitter_of

        if answers is None:
            return None
        log.info("Opinions of other classifiers for %s: the small CNNs weigh %.0f %%", whose, 100 * share)
        return answers.weighted(share, jitter_of(self.prepared))

    @property
    def _turns(self) -> int:
        """Turns that a map with the model averages, and so the figures too."""
        return map_turns(len(self.prepared.pixels), fast=self.prepared.settings.fast)

    def _lacks_scene_pixels(self, part: HeldOut) -> bool:
        """Whether a part's pooled head has to be standardised by labelled pixels."""
        from das2f_map.training.fit import standardising_pixels

        pooled = self.prepared.settings.head == "pooled"
        return pooled and standardising_pixels(self.prepared, part.fold.train, part.fold.held) is None

    @property
    def statistics(self) -> str | None:
        """Pixels that the model's head is standardised by: as in the settings, or ``None`` (not at all).

        They are the labels where the scenes have too few others.
        """
        from das2f_map.training.fit import standardising_pixels

        if self.prepared.settings.head != "pooled":
            return None
        everything = np.arange(len(self.prepared.pixels))
        if standardising_pixels(self.prepared, everything, None) is None:
            return "labels"
        return self.prepared.settings.statistics

    def _turned_logits(self, part: HeldOut, weights: dict[str, Tensor]) -> Float32:
        """Mean logits over the turns of a map, float32 (held, C)."""
        from das2f_map.training.batches import PatchDataset
        from das2f_map.training.fit import final_network
        from das2f_map.training.predict import predict

        prepared = self.prepared
        network = final_network(prepared, weights)
        dataset = PatchDataset(prepared.pixels.select(part.fold.held))
        device, size = prepared.hardware.first, 2 * prepared.settings.batch_size
        views = [predict(network, dataset, size, device, turn=turn) for turn in VIEWS[self._turns]]
        return np.asarray(np.mean(views, axis=0, dtype=np.float32))

    def _checked(self, part: HeldOut, answers: _AnswersOfParts) -> PartRecord:
        """Train with a part's ground held out; its checks, from an earlier run if it has them."""
        if self.resume and (record := read_record(self.work, part.name)) is not None:
            return record
        opinions = self._opinions(part.name, answers.each.get(part.name), answers.share(part))
        outcome = self._fit(self._part_of(part), opinions)
        record = PartRecord(outcome.history, outcome.logits, outcome.each)
        if outcome.complete and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            keep_record(self.work, part.name, record)
        if outcome.interrupted:
            raise KeyboardInterrupt
        return record

    def _part_of(self, part: HeldOut) -> Part:
        title = f"Training without the ground of {part.name}"
        return self._part(part.name, title, part.fold.train, part.fold.held, self.prepared.settings.checks)

    def _part(self, name: str, title: str, train: Int64, held: Int64 | None, checks: int) -> Part:
        from das2f_map.training.fit import Part

        keep = held is not None and self._turns > 1
        return Part(title, train, held, checks, state_path(self.work, name), keep)

    def _fit(self, part: Part, opinions: Opinions | None) -> LoopOutcome:
        """One training."""
        from das2f_map.training.fit import fit

        return fit(
            self.prepared, part, self.progress, start=self.start, opinions=opinions, resume=self.resume
        )


@dataclass(frozen=True, eq=False)
class _AnswersOfParts:
    """What teachers of the parts say, by the parts' names; empty where no opinions are wanted."""

    each: Mapping[str, Answers]

    def share(self, part: HeldOut | None) -> float:
        """Weight of the CNNs for a part, or with ``None`` for the final model.

        As for the number of steps, the ground of the other folds chooses.
        """
        own = None if part is None else part.name
        return share_of_cnns([answers for name, answers in self.each.items() if name != own])


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
