"""The card of a trained model, and the records of its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from das2f_map._version import __version__
from das2f_map.assess.calibration import calibrate, reliability_bins, softmax
from das2f_map.assess.reliability_figure import draw_reliability
from das2f_map.assess.verdict import judge
from das2f_map.bundle.card import (
    NOT_ASSESSED,
    Calibration,
    ClassShares,
    ModelCard,
    TrainingRecord,
    Verdict,
    card_text,
    domain_around,
)
from das2f_map.bundle.reliance import share_doubts
from das2f_map.network import Das2fNet, NetworkConfig
from das2f_map.pages.model_page import model_page
from das2f_map.training.assessment import Assessment
from das2f_map.training.forest import forest_shares
from das2f_map.training.ground import ground_of
from das2f_map.training.optimism import compare_with_random_split
from das2f_map.training.prepare import Prepared
from das2f_map.training.report import draw_training
from das2f_map.training.request import TrainRequest
from das2f_map.training.run import HeldGround, TrainingRun
from das2f_map.training.run_files import CURVES_NAME, PAGE_NAME, RELIABILITY_NAME, TrainingFiles
from das2f_map.training.scene_shares import mapped_shares
from das2f_map.training.settings import map_turns

if TYPE_CHECKING:
    import torch

    from das2f_map.training.loop import LoopOutcome


def make_card(
    request: TrainRequest,
    folder: Path,
    run: TrainingRun,
    network: NetworkConfig,
    final: LoopOutcome,
    held: HeldGround | None,
    shares: ClassShares,
) -> ModelCard:
    """The card of a model.

    Parameters
    ----------
    folder:
        Of the bundle; its name is the model's, if the user gives none.
    network:
        Sizes of the network with its classifier folded.
    final:
        The training on all labels.
    held:
        Figures on held-out ground; ``None`` without an assessment.
    shares:
        Share of each class in labels and scenes.
    """
    prepared = run.prepared
    pixels = prepared.pixels
    return ModelCard(
        name=request.card.name or card_text(folder.name),
        description=request.card.description,
        network=network,
        legend=pixels.legend,
        ms_bands=prepared.normalisation.ms_bands,
        pan_band=prepared.normalisation.pan_band,
        patch=prepared.patch,
        turns=map_turns(len(pixels), fast=prepared.settings.fast),
        domain=domain_around([(s.pair.ms_gsd_m, s.pair.ratio) for s in prepared.scenes]),
        training=_record(request, run, final, held),
        metrics={} if held is None else _metrics(held),
        calibration=None if held is None else _calibration(held.assessment),
        verdict=_verdict(held, shares),
        shares=shares,
        software_version=__version__,
        licence=request.card.licence,
    )


def _record(
    request: TrainRequest, run: TrainingRun, final: LoopOutcome, held: HeldGround | None
) -> TrainingRecord:
    prepared = run.prepared
    settings = prepared.settings
    return TrainingRecord(
        data=request.data,
        split={
            **_split(held),
            **_random_split(run, held),
            "left_out": prepared.left_out,
        },
        settings={
            **settings.recorded(),
            "statistics": run.statistics,
            "distillation": 0.0 if final.share_of_cnns is None else settings.distillation,
            "share_of_cnns": final.share_of_cnns,
            "steps_done": final.history[-1]["steps"],
            "trained_on": "all labelled pixels",
            "precision": prepared.hardware.precision,
            "device": prepared.hardware.accelerator,
            "devices": settings.devices,
            "coregistration": [s.coregistration.summary().model_dump(mode="json") for s in prepared.scenes],
            "started_from": None if run.start is None else run.start.card.name,
        },
        notes="" if final.complete else "stopped early on request",
        ground=(
            *(ground for s in prepared.scenes if (ground := ground_of(s.pair)) is not None),
            # The trunk has seen what the model before it had seen.
            *(() if run.start is None else run.start.card.training.ground),
        ),
    )


def _split(held: HeldGround | None) -> dict[str, Any]:
    """How ground was held out."""
    if held is None:
        return {"method": "none: all labels, no assessment"}
    summary = held.folds.summary([part.fold for part in held.parts])
    if any(part.name == "holdout" for part in held.parts):
        return summary | {"method": "spatial hold-out with a gap: one fold gives the figures, one chooses"}
    return summary


def _random_split(run: TrainingRun, held: HeldGround | None) -> dict[str, Any]:
    """How far a split of random pixels would flatter; empty where nothing is held out."""
    if held is None:
        return {}
    found = compare_with_random_split(run.prepared.pixels, held.parts, run.prepared.settings.seed)
    return {} if found is None else {"random_split": found.to_dict()}


def _metrics(held: HeldGround) -> dict[str, Any]:
    """Figures of networks that did not see the ground; the model itself is trained on all labels."""
    summary = held.assessment.summary() | {"turns": held.turns}
    found = {"test": held.assessment.matrix.to_dict() | summary}
    if held.forest is not None:
        found["random_forest"] = held.forest.matrix.to_dict()
    return found


def _calibration(assessment: Assessment) -> Calibration | None:
    if not assessment.positions.size:
        return None
    return calibrate(assessment.logits, assessment.positions, assessment.groups)


def class_shares(
    network: Das2fNet, prepared: Prepared, held: HeldGround | None, device: torch.device
) -> ClassShares:
    """Share of each class in the labels, and in the scenes as the network and a forest map them."""
    pixels, seed = prepared.pixels, prepared.settings.seed
    labels = {name: round(k / len(pixels), 4) for name, k in pixels.counts().items()}
    scenes = mapped_shares(network, pixels, device, seed)
    forest = {}
    if held is not None and held.forest is not None:
        forest = forest_shares(pixels, held.forest.features, seed)
    return ClassShares(labels=labels, scenes=scenes, forest=forest)


def _verdict(held: HeldGround | None, shares: ClassShares) -> Verdict:
    if held is None:
        return Verdict(usable=True, text=f"{NOT_ASSESSED}: no ground was held out")
    forest = None if held.forest is None else held.forest.matrix.overall_accuracy
    assessment = held.assessment
    return judge(assessment.matrix, forest, not_tested=assessment.not_assessed, doubts=share_doubts(shares))


def training_files(
    card: ModelCard, prepared: Prepared, held: HeldGround | None, final: LoopOutcome
) -> TrainingFiles:
    """The records of the training that go into the bundle."""
    histories = {} if held is None else held.histories
    record = {
        "checks": {**histories, "final": final.history},
        "settings": card.training.settings,
        "split": card.training.split,
        "metrics": card.metrics,
    }
    folds = None if held is None else held.folds
    assessment = None if held is None else held.assessment

    def training_picture(path: Path) -> None:
        draw_training(path, histories, final.history, assessment, folds, title=card.name)

    pictures: dict[str, Callable[[Path], None]] = {
        CURVES_NAME: training_picture,
        PAGE_NAME: model_page(card, record).write_at,
    }
    if card.calibration is not None and assessment is not None:
        before = reliability_bins(softmax(assessment.logits), assessment.positions)
        after = card.calibration.bins

        def reliability_picture(path: Path) -> None:
            draw_reliability(path, after, before=before, title=card.name)

        pictures[RELIABILITY_NAME] = reliability_picture
    return TrainingFiles(record, pictures, folds, prepared.pixels)
