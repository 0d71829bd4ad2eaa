"""What a training decides where its settings leave it open, and what it says of those without effect."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec

from das2f_map.errors import Das2fMapError, InputError, MissingDependencyError
from das2f_map.installation import install_extra
from das2f_map.training.settings import (
    FAST_CHECKS,
    FOLDS_UP_TO,
    TAUGHT_UP_TO,
    TrainingSettings,
    default_steps,
)

log = logging.getLogger(__name__)


def decided(settings: TrainingSettings, labelled: int, *, on_cpu: bool) -> TrainingSettings:
    """The settings with every ``auto`` and the number of steps decided, for so many labelled pixels.

    Every check comes after as many steps, so that the steps are a multiple of the checks.
    """
    assess = settings.assess
    if assess == "auto" and settings.fold_by == "scene":
        assess = "folds"
    if assess == "auto":
        assess = "folds" if labelled <= FOLDS_UP_TO and not settings.fast else "holdout"
    head = "pooled" if settings.head == "auto" else settings.head
    distillation = settings.distillation
    if distillation is None:
        distillation = default_distillation(settings, labelled)
    steps = settings.steps or default_steps(
        labelled, on_cpu=on_cpu, fast=settings.fast, taught=distillation > 0
    )
    # A check needs a step at least.
    checks = min(FAST_CHECKS if settings.fast else settings.checks, steps)
    steps = steps // checks * checks
    return replace(settings, assess=assess, head=head, steps=steps, checks=checks, distillation=distillation)


def default_distillation(settings: TrainingSettings, labelled: int) -> float:
    """1 where few pixels are labelled and other classifiers can be asked, else 0."""
    if labelled > TAUGHT_UP_TO or settings.fast:
        return 0.0
    reason = why_not_taught(settings)
    if isinstance(reason, MissingDependencyError):
        log.warning(
            "scikit-learn is not installed, so no other classifiers' opinions are learnt: maps of few labels "
            "are better with them (%s)",
            reason.hint,
        )
    return float(reason is None)


def why_not_taught(settings: TrainingSettings) -> Das2fMapError | None:
    """The reason why a training cannot learn other classifiers' opinions; ``None`` if it can.

    :class:`InputError` for settings that do not go with them, :class:`MissingDependencyError` without
    scikit-learn.
    """
    if settings.head == "published":
        return InputError("--distillation needs the pooled head", "leave out --head published")
    if settings.mixup or not settings.neighbours:
        return InputError(
            "Other classifiers' opinions are learnt beside the labels around a target",
            "set mixup to 0, and neighbours to 1 or more",
        )
    if settings.devices > 1:
        return InputError("--distillation works on one device", "leave out --devices")
    if find_spec("sklearn") is None:
        return MissingDependencyError(
            "--distillation needs the package scikit-learn, which is not installed", install_extra("train")
        )
    return None


def say_idle(asked: TrainingSettings, used: TrainingSettings) -> None:
    """Warn of settings that have no effect with the others, or another one than they seem to have."""
    default = TrainingSettings()
    if asked.folds != default.folds and used.assess != "folds":
        log.warning("--folds has no effect: no folds are made with --assess %s", _assessment_of(asked, used))
    elif asked.folds != default.folds and asked.fold_by == "scene":
        log.warning("--folds has no effect: each scene is a fold with --fold-by scene")
    if asked.fold_by == "scene" and asked.assess == "none":
        log.warning("--fold-by has no effect: no ground is held out with --assess none")
    if asked.head == "published" and asked.dropout != default.dropout:
        log.warning("--dropout has no effect: the published head has none")
    if asked.head == "published" and asked.statistics != default.statistics:
        log.warning("--statistics has no effect: the published head has none")
    if asked.steps is not None and asked.steps != used.steps:
        log.warning(
            "--steps %d: %d are taken, as many before each of the %d checks",
            asked.steps,
            used.steps,
            used.checks,
        )


def _assessment_of(asked: TrainingSettings, used: TrainingSettings) -> str:
    if asked.assess != "auto":
        return asked.assess
    why = "which --fast implies" if asked.fast else f"the default for over {FOLDS_UP_TO:,} labelled pixels"
    return f"{used.assess}, {why}"
