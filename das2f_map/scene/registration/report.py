"""The report of a pair's shift, as written to JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.shift_choice import CoregisterMode

ShiftAction = Literal["correct", "leave", "refuse"]
"""The action on a measured shift."""

Verdict = Literal["agree", "disagree", "unmeasured"]

MIN_WINDOWS = 3
"""Windows that must agree for a shift to count."""

MIN_AGREEING_SHARE = 0.5
"""Part of the matched windows that must agree."""

MAX_UNCERTAINTY = 0.2
"""Standard error in PAN pixels up to which a shift counts."""

VARIATION_LIMIT = 0.3
"""PAN pixels by which the shift must differ between two places to count as varying."""


class WindowShift(BaseModel):
    """The shift of one window; PAN pixels unless said otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: int = Field(description="first row, MS pixels of the file")
    col: int = Field(description="first column, MS pixels of the file")
    height: int = Field(description="MS pixels")
    width: int = Field(description="MS pixels")
    rows: float = Field(description="down")
    cols: float = Field(description="to the right")
    sigma_rows: float = Field(description="standard error, the disagreement of the MS bands included")
    sigma_cols: float
    residual_rows: float = Field(description="difference from the common shift")
    residual_cols: float = Field(description="difference from the common shift")
    fit: float = Field(description="R² of PAN explained by the MS bands at the window's own shift")
    agrees: bool


class ShiftVariation(BaseModel):
    """How the shift changes over the scene: a bilinear field fitted to the windows; PAN pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    range: float = Field(
        description="largest difference between two of the windows that agree with the field"
    )
    sigma: float = Field(description="standard error of that difference, along either axis")
    agreeing_share: float = Field(description="part of the windows that agree with the field")
    upper_left: tuple[float, float] = Field(description="(rows, cols) at the corner of the common area")
    upper_right: tuple[float, float]
    lower_right: tuple[float, float]
    lower_left: tuple[float, float]


class ShiftSummary(BaseModel):
    """Where PAN's content lies relative to MS's. Positive rows: further down; positive cols: further right.

    A field is ``None`` if it could not be measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict = Field(description="whether enough windows agree on one shift")
    reason: str | None = Field(description="why the shift is not relied on; null: it is")
    rows: float | None = Field(description="PAN pixels down")
    cols: float | None = Field(description="PAN pixels to the right")
    sigma_rows: float | None = Field(description="standard error, PAN pixels")
    sigma_cols: float | None
    east_m: float | None = Field(description="metres towards the map's east")
    north_m: float | None = Field(description="metres towards the map's north")
    length: float | None = Field(description="PAN pixels")
    length_m: float | None
    uncertainty: float | None = Field(description="standard error of both axes together, PAN pixels")
    uncertainty_m: float | None
    pan_pixel_m: float = Field(description="metres in one PAN pixel")
    windows_tried: int
    windows_matched: int
    windows_agreeing: int
    agreeing_share: float = Field(description="of the matched windows")
    left_out: dict[str, int] = Field(description="windows not matched, by reason")
    fit_before: float | None = Field(
        description="R² of PAN explained by the MS bands over the agreeing windows, as the files are"
    )
    fit_after: float | None = Field(description="the same R² with the shift corrected")
    varies: bool | None = Field(
        description="whether the shift changes over the scene; null: the windows cannot tell"
    )
    variation: ShiftVariation | None


class ShiftReport(ShiftSummary):
    """A measured shift and the windows that it was measured in."""

    windows: tuple[WindowShift, ...]

    def summary(self) -> ShiftSummary:
        """The same without the windows."""
        return ShiftSummary(**{name: getattr(self, name) for name in ShiftSummary.model_fields})

    @property
    def shift(self) -> PanShift | None:
        """The measured shift, whether or not it can be relied on; ``None`` if none was measured."""
        if self.rows is None or self.cols is None:
            return None
        return PanShift(self.rows, self.cols)

    def sentence(self) -> str:
        """The finding in one line."""
        if self.rows is None or self.cols is None or self.uncertainty is None or self.length_m is None:
            return f"the shift between MS and PAN cannot be measured: {self.reason}"
        down = f"{abs(self.rows):.2f} {'down' if self.rows >= 0 else 'up'}"
        right = f"{abs(self.cols):.2f} {'right' if self.cols >= 0 else 'left'}"
        text = (
            f"PAN lies {self.length:.2f} ± {self.uncertainty:.2f} PAN pixels ({self.length_m:.2f} m) from "
            f"MS: {down}, {right}; {self.windows_agreeing} of {self.windows_matched} windows agree"
        )
        return text if self.reason is None else f"{text}; not relied on: {self.reason}"


class CoregistrationReport(BaseModel):
    """The shift of a pair's contents in a run: whether it was measured and corrected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: CoregisterMode = Field(description="the mode that the user chose")
    corrected: bool
    measured: ShiftSummary | None = Field(description="null if nothing was measured")
