"""The model card, ``model.json``: everything a map needs beside the weights.

Network sizes, legend, band order, normalisation statistics, patch geometry, where the training data came
from and how good the model is.
"""

from __future__ import annotations

import json
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

from das2f_map.errors import ModelError
from das2f_map.legend import Legend
from das2f_map.network import NetworkConfig
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import BandStatistics, Normalisation

FORMAT_VERSION: Final = 1


class Domain(BaseModel):
    """The scenes the model is meant for; `classify` without `--model` chooses by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms_gsd_m: tuple[FiniteFloat, FiniteFloat] = Field(
        description="smallest and largest MS pixel size, metres"
    )
    ratio: tuple[FiniteFloat, FiniteFloat] = Field(
        description="smallest and largest MS : PAN pixel size ratio"
    )
    sensor: str = Field(default="", description="free text, e.g. 'Landsat-8 OLI, digital numbers'")


def domain_around(ms_gsd_m: float, ratio: float) -> Domain:
    """The domain of a model trained on one scene: a fifth finer to a quarter coarser, and so its ratio."""
    return Domain(ms_gsd_m=(0.8 * ms_gsd_m, 1.25 * ms_gsd_m), ratio=(0.8 * ratio, 1.25 * ratio))


class TrainingRecord(BaseModel):
    """Where the weights came from, enough to judge and to repeat."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(default="", description="what was trained on, in words, with source and licence")
    split: dict[str, Any] = Field(default_factory=dict, description="spatial split: block size, gap, counts")
    settings: dict[str, Any] = Field(default_factory=dict, description="epochs, batch, seed, rate…")
    notes: str = ""


class ModelCard(BaseModel):
    """``model.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    description: str = ""
    network: NetworkConfig
    legend: Legend
    ms_bands: tuple[BandStatistics, ...]
    pan_band: BandStatistics
    patch: PatchGeometry = PatchGeometry()
    domain: Domain | None = None
    training: TrainingRecord = TrainingRecord()
    metrics: dict[str, Any] = Field(default_factory=dict, description="held-out accuracy, see accuracy.py")
    software_version: str = ""
    licence: str = ""

    @field_validator("metrics")
    @classmethod
    def _readable_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """What others rely on in the figures; whatever else a training notes is its own affair."""
        for part, figures in metrics.items():
            if not isinstance(figures, dict):
                raise ValueError(f"{part} must be a table of figures")
            for key in ("overall_accuracy", "average_accuracy", "kappa"):
                if not isinstance(figures.get(key), (int, float, type(None))):
                    raise ValueError(f"{part}.{key} must be a number or null")
            classes = figures.get("classes", [])
            if not isinstance(classes, list) or not all(isinstance(c, dict) and "name" in c for c in classes):
                raise ValueError(f"{part}.classes must list the classes by name")
        return metrics

    @property
    def overall_accuracy(self) -> float | None:
        """Part of the held-out pixels that the model classifies right, 0..1; ``None`` if not measured."""
        value: float | None = self.metrics.get("test", {}).get("overall_accuracy")
        return value

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
    """The card that stands ``where`` in the model ``path``. Errors as :func:`load_bundle`."""
    if (version := _format_version(text)) > FORMAT_VERSION:
        raise ModelError(
            f"{path} has bundle format {version}, this das2f-map reads up to {FORMAT_VERSION}",
            "update das2f-map",
        )
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise ModelError(
            f"{path}: {where} is not a das2f-map model card: {place}{first['msg']}",
            "a checkpoint of the published network is turned into a bundle by `das2f-map models import`",
        ) from error


def _format_version(card: bytes) -> int:
    """Of a card that may be of a later version or no card at all: 0 where it does not say."""
    try:
        version = json.loads(card)["format_version"]
    except (ValueError, TypeError, KeyError):
        return 0
    return version if isinstance(version, int) else 0
