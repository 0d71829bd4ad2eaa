"""The model bundle: a folder (or zip) with ``model.safetensors`` and ``model.json``, the card.

The card holds everything a map needs beside the weights: network sizes, legend, band order,
normalisation statistics, patch geometry, where the training data came from and how good the
model is. Weights are safetensors only; nothing in a bundle is ever evaluated.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from das2f_map.legend import Legend
from das2f_map.network.config import NetworkConfig
from das2f_map.scene.radiometry import BandStatistics

FORMAT_VERSION = 1
CARD_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"


class PatchGeometry(BaseModel):
    """Where the classified pixel sits in its patch, and how scene borders are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=16, ge=2, description="MS pixels a side")
    target_index: int = Field(default=7, ge=0, description="row and column of the classified pixel, from 0")
    pan_per_ms: Literal[4] = 4
    border: Literal["reflect101"] = Field(
        default="reflect101", description="reflection that does not repeat the edge pixel"
    )
    invalid_fill: Literal["band-mean"] = Field(
        default="band-mean", description="what an invalid neighbour in a patch is replaced by"
    )

    @model_validator(mode="after")
    def _inside(self) -> PatchGeometry:
        if self.target_index >= self.size:
            raise ValueError(f"target_index {self.target_index} lies outside a patch of {self.size}")
        return self

    @property
    def before(self) -> int:
        """Halo above and left of a target, MS pixels."""
        return self.target_index

    @property
    def after(self) -> int:
        """Halo below and right of a target, MS pixels."""
        return self.size - 1 - self.target_index


class Domain(BaseModel):
    """The scenes the model is meant for; `classify` without `--model` chooses by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms_gsd_m: tuple[float, float] = Field(description="smallest and largest MS pixel size, metres")
    ratio: tuple[float, float] = Field(description="smallest and largest MS : PAN pixel size ratio")
    sensor: str = Field(default="", description="free text, e.g. 'Landsat-8 OLI, digital numbers'")


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

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(self.ms_bands) != self.network.ms_bands:
            raise ValueError(f"{len(self.ms_bands)} band statistics for {self.network.ms_bands} MS bands")
        if len(self.legend) != self.network.classes:
            raise ValueError(f"legend of {len(self.legend)} for a network of {self.network.classes} classes")
        if self.patch.size != self.network.patch_size:
            raise ValueError(f"patch of {self.patch.size} for a network of {self.network.patch_size}")
        return self
