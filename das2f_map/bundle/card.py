"""The model card, ``model.json``: everything that a map needs apart from the weights.

Network sizes, legend, band order, normalisation statistics, patch geometry, where the training data came
from and how good the model is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from das2f_map.bundle.card_parts import Domain, Text, odd_in, overall_accuracy
from das2f_map.errors import InputError, ModelError
from das2f_map.legend import Legend
from das2f_map.network.config import NetworkConfig
from das2f_map.scene.band_statistics import BandStatistics, Normalisation
from das2f_map.scene.patch import PatchGeometry

FORMAT_VERSION: Final = 2
"""Version 2 adds calibration, verdict and class shares."""


def require_card_texts(**texts: str | None) -> None:
    """Raise :class:`~das2f_map.errors.InputError` for a text that a card cannot hold, and name it."""
    for name, text in texts.items():
        if text is not None and (odd := odd_in(text)):
            raise InputError(f"the model's {name} has control characters ({odd})", "give it as plain text")


def card_text(text: str) -> str:
    """A text for a card, with a question mark for each control character, as names of files may have them."""
    return "".join("?" if odd_in(c) else c for c in text)


def domain_around(scenes: Sequence[tuple[float, float]]) -> Domain:
    """The domain of a model trained on some scenes, given by MS pixel size in metres and MS : PAN ratio.

    It goes from 0.8 times the smallest of each to 1.25 times the largest.
    """
    sizes, ratios = zip(*scenes, strict=True)
    return Domain(
        ms_gsd_m=(0.8 * min(sizes), 1.25 * max(sizes)), ratio=(0.8 * min(ratios), 1.25 * max(ratios))
    )


class Ground(BaseModel):
    """A rectangle on the ground, in degrees of longitude and latitude (WGS 84)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    west: FiniteFloat
    south: FiniteFloat
    east: FiniteFloat = Field(description="less than west where the rectangle crosses 180 degrees")
    north: FiniteFloat

    def overlaps(self, other: Ground) -> bool:
        """Whether two rectangles share ground."""
        if self.north <= other.south or other.north <= self.south:
            return False
        # Longitudes are compared from this rectangle's western edge on.
        own, theirs = (self.east - self.west) % 360 or 360, (other.east - other.west) % 360 or 360
        offset = (other.west - self.west) % 360
        return offset < own or offset + theirs > 360


class TrainingRecord(BaseModel):
    """Origin of the weights, in enough detail to judge and to repeat the training."""

    model_config = ConfigDict(extra="forbid")

    data: Text = Field(default="", description="what was trained on, in words, with source and licence")
    split: dict[str, Any] = Field(default_factory=dict, description="folds or hold-out: gap, leak, counts")
    settings: dict[str, Any] = Field(default_factory=dict, description="steps, batch, seed, rate…")
    notes: Text = ""
    ground: tuple[Ground, ...] = Field(default=(), description="of each scene; empty where not noted")


class ReliabilityBin(BaseModel):
    """Held-out pixels whose confidence lies in one interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(ge=0, le=1, description="mean confidence, after calibration")
    accuracy: float = Field(ge=0, le=1, description="share of the pixels that are classified right")
    pixels: int = Field(ge=1)


class Calibration(BaseModel):
    """Temperature scaling: the logits are divided by the temperature before the softmax.

    The temperature minimises the cross-entropy of held-out pixels (Guo et al. 2017).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0, lt=1e6, description="over 1 where the network is too sure")
    pixels: int = Field(ge=1, description="held-out pixels that it was fitted on")
    error_before: float = Field(ge=0, le=1, description="expected calibration error without it, 15 bins")
    error_after: float = Field(ge=0, le=1, description="expected calibration error with it, 15 bins")
    bins: tuple[ReliabilityBin, ...] = ()


NOT_ASSESSED: Final = "not assessed"
"""What the verdict of a model begins with whose accuracy is not known."""


class Verdict(BaseModel):
    """A judgement of the model by figures on the same held-out pixels, in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    usable: bool = Field(description="false where a map should not be used")
    text: Text = Field(description="one sentence for the screen")
    overall_accuracy: float | None = Field(default=None, description="of the network")
    commonest_accuracy: float | None = Field(default=None, description="of always the commonest class")
    forest_accuracy: float | None = Field(default=None, description="of a random forest")

    @property
    def assessed(self) -> bool:
        """Whether held-out pixels could judge the model."""
        return not self.text.startswith(NOT_ASSESSED)


class ClassShares(BaseModel):
    """Share of each class, 0..1 by class name, in the scenes of the training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    labels: dict[str, float] = Field(description="of the labelled pixels")
    scenes: dict[str, float] = Field(
        default_factory=dict, description="of pixels drawn at random from the scenes, as the model maps them"
    )
    forest: dict[str, float] = Field(
        default_factory=dict,
        description="of the same pixels, as a random forest maps them",
    )


class ModelCard(BaseModel):
    """The content of ``model.json``; the module's docstring lists its parts."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1, 2] = FORMAT_VERSION
    name: Text
    description: Text = ""
    network: NetworkConfig
    legend: Legend
    ms_bands: tuple[BandStatistics, ...]
    pan_band: BandStatistics
    patch: PatchGeometry = PatchGeometry()
    domain: Domain | None = None
    turns: Literal[1, 2, 4, 8] = Field(
        default=1, description="flips and quarter turns of a patch whose logits a map averages"
    )
    training: TrainingRecord = TrainingRecord()
    metrics: dict[str, Any] = Field(default_factory=dict, description="accuracy on held-out ground")
    calibration: Calibration | None = Field(default=None, description="null: probabilities are raw")
    verdict: Verdict | None = Field(default=None, description="null: not judged")
    shares: ClassShares | None = Field(default=None, description="null: not known")
    software_version: Text = ""
    licence: Text = ""

    @field_validator("metrics")
    @classmethod
    def _readable_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """Check the figures that other code reads; a training may note others, which stay unchecked."""
        for part, figures in metrics.items():
            if not isinstance(figures, dict):
                raise ValueError(f"{part} must be a table of figures")
            for key in ("overall_accuracy", "average_accuracy", "kappa"):
                value = figures.get(key)
                # Shares, and kappa, which may be negative; both up to rounding. NaN fails every comparison.
                if value is not None and not (isinstance(value, (int, float)) and abs(value) <= 1.001):
                    raise ValueError(f"{part}.{key} must be a number from -1 to 1, or null")
            classes = figures.get("classes", [])
            if not isinstance(classes, list) or not all(isinstance(c, dict) and "name" in c for c in classes):
                raise ValueError(f"{part}.classes must list the classes by name")
        return metrics

    @property
    def overall_accuracy(self) -> float | None:
        """Share of the held-out pixels that the model classifies right, 0..1; ``None`` if not measured."""
        return overall_accuracy(self.metrics)

    @property
    def temperature(self) -> float:
        """Divisor of the logits before the softmax; 1 without calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @property
    def normalisation(self) -> Normalisation:
        """How the network's inputs were normalised in training."""
        return Normalisation(self.ms_bands, self.pan_band)

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(self.ms_bands) != self.network.ms_bands:
            raise ValueError(f"{len(self.ms_bands)} band statistics for {self.network.ms_bands} MS bands")
        if len(self.legend) != self.network.classes:
            raise ValueError(f"legend of {len(self.legend)} for a network of {self.network.classes} classes")
        if self.patch.size != self.network.patch_size:
            raise ValueError(f"patch of {self.patch.size} for a network of {self.network.patch_size}")
        return self


def parse_card(text: bytes, path: Path, where: str) -> ModelCard:
    """The card in ``text``; messages name the model ``path`` and the card's place in it, ``where``.

    Raises :class:`~das2f_map.errors.ModelError` if it is no card, or one of a newer format.
    """
    if (version := _format_version(text)) > FORMAT_VERSION:
        raise ModelError(
            f"{path} has bundle format {min(version, 10**6)}, this das2f-map reads up to {FORMAT_VERSION}",
            "update das2f-map",
        )
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        # Keys of the file are part of the place: they may be of any length.
        place = "".join(f"{str(part)[:80]}: " for part in first["loc"])
        raise ModelError(
            f"{path}: {where} is not a das2f-map model card: {place}{first['msg']}",
            "a checkpoint of the published network is turned into a bundle by `das2f-map models import`",
        ) from error


def _format_version(card: bytes) -> int:
    """Format version of a text that may be a newer card or no card at all; 0 where it names none."""
    try:
        version = json.loads(card)["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0
