"""The findings of `das2f-map inspect`, for the screen and as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.bundle.fit import ModelFit
from das2f_map.scene.bands import roles_of
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import BandStatistics
from das2f_map.scene.registration import Decision, ShiftAction, ShiftReport, ShiftSummary
from das2f_map.scene.report import PairReport
from das2f_map.scene.survey import Survey


class Overlap(BaseModel):
    """The ground that both images show."""

    model_config = ConfigDict(extra="forbid")

    ms_share: float = Field(description="part of the MS image, 0..1")
    pan_share: float = Field(description="part of the PAN image, 0..1")
    km2: float

    @classmethod
    def of(cls, pair: ScenePair) -> Overlap:
        """The overlap of a pair; its areas follow from the pixel sizes."""
        ms, pan = pair.sources
        grid = pair.grids.ms
        area = abs(grid.transform.determinant) * grid.height * grid.width
        ms_area = abs(ms.grid.transform.determinant) * ms.grid.height * ms.grid.width
        # PAN may be in a CRS with other units, so both areas are in metres here.
        in_metres = grid.height * grid.width * pair.ms_gsd_m**2
        pan_area = pan.grid.height * pan.grid.width * pair.pan_gsd_m**2
        return cls(
            ms_share=_rounded(min(1.0, area / ms_area)),
            pan_share=_rounded(min(1.0, in_metres / pan_area)),
            km2=_rounded(in_metres / 1e6),
        )


def _rounded(value: float) -> float:
    """Four decimals, or four digits below 1, so that the share of a single common pixel is not 0."""
    return round(value, 4) if value >= 1 else float(f"{value:.4g}")


class _Finding(BaseModel):
    """The fields that come first in :class:`ShiftFinding`."""

    sentence: str = Field(description="the measurement in words")
    action: ShiftAction = Field(description="what `classify` does about it")
    because: str = Field(description="action and reason in a few words")


class ShiftFinding(ShiftSummary, _Finding):
    """The measured shift of a pair's contents, and what `classify` does about it."""

    @classmethod
    def of(cls, report: ShiftReport, decision: Decision) -> ShiftFinding:
        """The finding for a measurement and the decision on it."""
        return cls(
            sentence=report.sentence(),
            action=decision.action,
            because=decision.because,
            **dict(report.summary()),
        )


class BandValues(BaseModel):
    """Values of a band over the valid pixels of a sample, in the file's units after scale and offset."""

    model_config = ConfigDict(extra="forbid")

    min: float
    p01: float = Field(description="1st percentile")
    mean: float
    p99: float = Field(description="99th percentile")
    max: float
    std: float = Field(description="standard deviation, 0 of a constant band")

    @classmethod
    def of(cls, known: BandStatistics, lowest: float, highest: float) -> BandValues:
        """The values from the statistics of a sample and its smallest and largest value."""
        return cls(min=lowest, p01=known.p01, mean=known.mean, p99=known.p99, max=highest, std=known.spread)


class BandReport(BaseModel):
    """A band of a file."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="MS or PAN")
    number: int
    name: str
    role: str | None = Field(description="what its name says it is, in plain words")
    used_as: str | None = Field(description="the model's name for it; null for a band that is not read")
    dtype: str
    values: BandValues | None = Field(description="null where no pixel is valid, or the band is not read")


class Estimate(BaseModel):
    """The time and memory that `classify` would take on this machine, from a trial on a part of the scene."""

    model_config = ConfigDict(extra="forbid")

    model: str
    engine: str
    device: str
    precision: str
    pixels: int = Field(description="MS pixels to classify, about")
    trial_pixels: int = Field(description="MS pixels that were classified to find out")
    pixels_per_second: float
    seconds: float
    bf16_pixels_per_second: float | None = Field(
        default=None, description="with `--precision bf16` on a CPU, where that is faster; null elsewhere"
    )
    memory_mb: float | None = Field(description="most memory in use during the trial; it hardly grows")


class Inspection(BaseModel):
    """Everything that `inspect` finds."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    scene: PairReport = Field(description="files and common grid")
    overlap: Overlap
    alignment: str = Field(description="what is resampled")
    shift: ShiftFinding | None = Field(description="null if nothing is valid")
    bands: list[BandReport]
    sampled_pixels: int
    invalid_share: float
    masked_share: float
    models: list[ModelFit]
    estimate: Estimate | None
    notices: list[str]
    verdict: str
    next_command: str
    quicklook: str | None


def alignment(pair: ScenePair, *, nested: bool) -> str:
    """A sentence on which image is resampled.

    ``nested`` tells that the files' pixels nest 4 : 1, so that only a corrected shift needs resampling.
    """
    if nested and pair.strategy != "native":
        return (
            "MS and PAN pixels nest 4 : 1; MS is read as it is, PAN is resampled once, for the shift of its "
            "content"
        )
    return {
        "native": "MS and PAN pixels nest 4 : 1, both are read as they are",
        "ms-to-pan-grid": "MS is resampled once to 4 × 4 PAN pixels, PAN is read as it is",
        "pan-to-quarter-ms": "PAN is resampled once to a quarter of the MS pixel, MS is read as it is",
    }[pair.strategy]


def band_reports(pair: ScenePair, survey: Survey, *, matched: bool) -> list[BandReport]:
    """All bands of both files.

    Parameters
    ----------
    pair:
        The pair with the bands that the survey has read.
    survey:
        Source of the bands' values.
    matched:
        Whether these bands are the bands of a model.
    """
    ms, pan = pair.sources
    ms_values: dict[int, BandValues] = {}
    pan_values = None
    if survey.sample is not None:
        known, sample = survey.sample.statistics(), survey.sample
        for choice, band, v in zip(pair.bands, known.ms_bands, sample.ms, strict=True):
            ms_values[choice.number] = BandValues.of(band, float(v.min()), float(v.max()))
        pan_values = BandValues.of(known.pan_band, float(sample.pan.min()), float(sample.pan.max()))
    roles = roles_of([b.name for b in pair.file_bands])
    used = {b.number: b.role for b in pair.bands}
    found = [
        BandReport(
            file="MS",
            number=b.number,
            name=b.name,
            role="alpha" if b.alpha and b.number not in used else role,
            used_as=used.get(b.number) if matched else None,
            dtype=ms.dtype_of(b.number),
            values=ms_values.get(b.number),
        )
        for b, role in zip(pair.file_bands, roles, strict=True)
    ]
    first = next(b for b in pan.bands if not b.alpha)
    return [
        *found,
        BandReport(
            file="PAN",
            number=first.number,
            name=first.name,
            role="pan",
            used_as="pan",
            dtype=pan.dtype,
            values=pan_values,
        ),
    ]
