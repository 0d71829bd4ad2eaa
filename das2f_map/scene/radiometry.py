"""Band statistics and the normalisation that goes with them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class BandStatistics(BaseModel):
    """Values of one band over valid pixels, in the file's units after scale and offset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mean: float = Field(description="subtracted before the network")
    std: float = Field(gt=0, description="divided by before the network")
    p01: float = Field(description="1st percentile")
    p99: float = Field(description="99th percentile")
