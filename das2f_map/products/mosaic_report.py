"""The report of a mosaic, as JSON: the maps that it joins, their overlaps, and its classes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.products.mosaic_place import Kind
from das2f_map.products.report import ClassReport, GridReport
from das2f_map.scene.paths import PathText


class JoinedMap(BaseModel):
    """A map of a mosaic."""

    model_config = ConfigDict(extra="forbid")

    path: PathText
    confidence: PathText | None
    placement: Kind = Field(
        description="copied: pixels fall on pixels; moved: by half a pixel at most; warped: each pixel takes "
        "the nearest one of another CRS or pixel size"
    )
    moved_px: tuple[float, float] = Field(description="rows and columns by which the contents move")
    moved: float = Field(description="length of the move, in units of the CRS")
    pixels: int = Field(description="pixels of the mosaic where it has a class")
    taken: int = Field(description="pixels of the mosaic that have their class from it")


class Seam(BaseModel):
    """The overlap of two maps."""

    model_config = ConfigDict(extra="forbid")

    first: PathText
    second: PathText
    pixels: int = Field(description="pixels where both have a class")
    differing: int = Field(description="those with another class")
    share: float = Field(description="differing over pixels, 0..1")


class MosaicReport(BaseModel):
    """Everything about one run of `mosaic`."""

    model_config = ConfigDict(extra="forbid")

    report_version: Literal[1] = 1
    kind: Literal["mosaic"] = "mosaic"
    software_version: str
    draft: bool = Field(default=False, description="whether a map of it is a draft")
    rule: Literal["confidence", "order"] = Field(
        description="of an overlap: the most confident map wins, or the first one"
    )
    maps: list[JoinedMap]
    seams: list[Seam] = Field(description="every two maps that overlap")
    overlap_pixels: int = Field(description="pixels with a class in two maps or more")
    grid: GridReport
    classes: list[ClassReport]
    unsure: int | None
    nodata_pixels: int
    warnings: list[str]
    checksums: dict[str, str] = Field(default={}, description="kind of output → SHA-256 of its file")
    outputs: dict[str, str] = Field(description="kind of output → path")

    @property
    def images(self) -> list[str]:
        """Words for the source of the map, as its metadata have them."""
        return [f"{len(self.maps)} maps"]
