"""Where the classified pixel lies in its patch, and what stands for missing pixels around it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PatchGeometry(BaseModel):
    """Where the classified pixel sits in its patch, and how scene borders are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=16, ge=2, description="MS pixels a side")
    target_index: int = Field(default=7, ge=0, description="row and column of the classified pixel, from 0")
    pan_per_ms: Literal[4] = Field(
        default=4, description="PAN pixels along the side of an MS pixel; the same in every model"
    )
    border: Literal["reflect101"] = Field(
        default="reflect101", description="reflection that does not repeat the edge pixel"
    )
    invalid_fill: Literal["neighbours", "band-mean"] = Field(
        default="neighbours",
        description="what an invalid neighbour in a patch is replaced by: means of what is around it, "
        "see scene/fill.py, or the band's mean",
    )
    max_invalid_share: float = Field(
        default=0.5, ge=0, le=1, description="a target with more invalid pixels in its patch is nodata"
    )

    @model_validator(mode="after")
    def _inside(self) -> PatchGeometry:
        if self.target_index >= self.size:
            raise ValueError(f"target_index {self.target_index} lies outside a patch of {self.size}")
        return self

    @property
    def fill_radius(self) -> int:
        """MS pixels up to which invalid neighbours are filled: every pixel that a patch can have, since its
        target is valid; 0 for the band's mean."""
        return max(self.before, self.after) if self.invalid_fill == "neighbours" else 0

    @property
    def before(self) -> int:
        """Halo above and left of a target, MS pixels."""
        return self.target_index

    @property
    def after(self) -> int:
        """Halo below and right of a target, MS pixels."""
        return self.size - 1 - self.target_index
