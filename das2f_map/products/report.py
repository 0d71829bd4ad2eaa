"""The run report, as JSON: inputs, model and settings of a run, and the classes of its map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.legend import Legend
from das2f_map.products.class_areas import ClassArea
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import PathText
from das2f_map.scene.radiometry import BandStatistics
from das2f_map.scene.registration import CoregistrationReport
from das2f_map.scene.report import PairReport, crs_text

REPORT_VERSION: Final = 1


class ModelReport(BaseModel):
    """Which model made the map."""

    model_config = ConfigDict(extra="forbid")

    name: str
    path: PathText | None = Field(description="bundle it was read from; null for one given in memory")
    temperature: float | None = Field(
        description="calibration of the probabilities: logits are divided by it; null: not calibrated"
    )
    weights_sha256: str | None = Field(default=None, description="of the weights, by name")
    card_sha256: str | None = Field(default=None, description="of the card")


class InputReport(BaseModel):
    """A file that the run read."""

    model_config = ConfigDict(extra="forbid")

    path: PathText
    bytes: int | None = Field(description="size; null for an address")
    sha256: str | None = Field(
        description="of the file; over 256 MiB of its size and 256 pieces of 1 MiB; null for an address"
    )


class ClassReport(BaseModel):
    """The part of the map that one class has."""

    model_config = ConfigDict(extra="forbid")

    id: int
    name: str
    color: str
    pixels: int
    area_m2: float = Field(description="on the ellipsoid, of the raster's pixels")
    share: float = Field(description="of the classified area, 0..1")
    mean_confidence: float | None = Field(description="mean probability of the most probable class")
    polygons: int | None = Field(description="polygons written; null when none were asked for")
    polygon_area_m2: float | None = Field(
        default=None,
        description="of the polygons; null where they are the raster's own regions or were not written",
    )


class RadiometryReport(BaseModel):
    """Statistics that values were normalised with."""

    model_config = ConfigDict(extra="forbid")

    statistics: Literal["model", "scene"] = Field(description="from the model, or from the scene")
    ms: tuple[BandStatistics, ...]
    pan: BandStatistics


class ClassifySettings(BaseModel):
    """Options of a run, as the user gave them."""

    model_config = ConfigDict(extra="forbid")

    engine: str
    device: str
    precision: str
    batch_size: int | None
    turns: int | None = Field(default=None, description="null: those of the model's card")
    min_area_m2: float | None
    simplify_m: float | None = Field(default=None, description="tolerance of the polygons; null: exact")
    reject: float | None = Field(description="lowest probability that a pixel's class needs; null: any")
    smooth: int | None = Field(
        default=None, description="pixels around that probabilities are averaged over; null: none"
    )
    max_shift: float = Field(description="PAN pixels")
    force: bool
    every: int = Field(default=1, description="K where one pixel of each K × K was classified")


class GridReport(BaseModel):
    """The map's grid."""

    model_config = ConfigDict(extra="forbid")

    height: int
    width: int
    transform: list[float] = Field(description="pixel to map: a, b, c, d, e, f")
    crs: str
    pixel_size: list[float] = Field(description="along rows, along columns; CRS units")

    @classmethod
    def of(cls, grid: Grid) -> GridReport:
        """The report of a grid."""
        return cls(
            height=grid.height,
            width=grid.width,
            transform=list(grid.transform)[:6],
            crs=crs_text(grid),
            pixel_size=list(grid.pixel_size),
        )


class RunReport(BaseModel):
    """Everything about one run of `classify`."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    report_version: Literal[1] = REPORT_VERSION
    software_version: str
    torch_version: str
    scene: PairReport = Field(description="input files and their common grid")
    aoi: PathText | None
    model: ModelReport
    radiometry: RadiometryReport
    coregistration: CoregistrationReport = Field(
        description="shift of the contents of PAN against MS, and whether it is corrected"
    )
    engine: str
    device: str
    precision: str = Field(description="fp32, bf16 or fp16")
    scan: str = Field(description="selective-scan backend")
    turns: int = Field(default=1, description="flips and quarter turns that the logits are averaged over")
    settings: ClassifySettings
    draft: bool = Field(default=False, description="whether settings.every left pixels out")
    made_from: dict[str, str] = Field(
        default_factory=dict, description="a hash of each thing that the map depends on"
    )
    warnings: list[str] = Field(description="notices for users of the map, a sentence each")
    grid: GridReport
    classes: list[ClassReport]
    unsure: int | None = Field(description="id of the class of pixels under settings.reject; null without it")
    nodata_pixels: int
    merged_pixels: int = Field(
        default=0, description="with the class of a neighbour, by settings.min_area_m2"
    )
    seconds: dict[str, float] = Field(description="wall time per phase")
    created: str | None = Field(default=None, description="when the map was complete, UTC, ISO 8601")
    folder: PathText | None = Field(default=None, description="working folder, where relative paths start")
    request: dict[str, Any] | None = Field(
        default=None, description="arguments of classify as given, but for those of one machine"
    )
    inputs: list[InputReport] = Field(default=[], description="files that were read, but for the model")
    checksums: dict[str, str] = Field(default={}, description="kind of output → SHA-256 of its file")
    outputs: dict[str, str] = Field(description="kind of output → path")

    @property
    def images(self) -> list[str]:
        """The images as given: MS and PAN, or the product that they come from."""
        if self.scene.product is not None:
            return [self.scene.product.path]
        return [self.scene.ms.path, self.scene.pan.path]


def class_reports(
    legend: Legend, areas: Mapping[int, ClassArea], polygons: Mapping[int, ClassArea] | None
) -> list[ClassReport]:
    """A report for each class of a legend.

    Parameters
    ----------
    legend:
        Of the map.
    areas:
        Class id → its part of the raster.
    polygons:
        Class id → its part of the polygons, where there are any.
    """
    total = sum(a.area_m2 for a in areas.values()) or 1.0
    return [
        ClassReport(
            id=c.id,
            name=c.name,
            color=c.color,
            pixels=areas[c.id].pixels,
            area_m2=areas[c.id].area_m2,
            share=areas[c.id].area_m2 / total,
            mean_confidence=areas[c.id].mean_confidence,
            polygons=None if polygons is None else polygons[c.id].polygons,
            polygon_area_m2=None if polygons is None else polygons[c.id].drawn_m2,
        )
        for c in legend.each()
    ]
