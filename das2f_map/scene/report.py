"""The report of a pair: the one source for the screen, JSON, a bundle and STAC."""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from das2f_map.scene.common_grid.plan import Strategy
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import PathText


class UsedBand(BaseModel):
    """A band of the MS file that is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    role: str = Field(
        validation_alias=AliasChoices("role", "as"),
        serialization_alias="as",
        description="name of the model's band that it serves as",
    )
    band: int = Field(description="number in the file, from 1")
    name: str = Field(description="name in the file")
    how: str = Field(description="`given` by the user, found by `name`, or taken by its `place`")


class FileReport(BaseModel):
    """An image file as the user delivers it."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    path: PathText
    height: int
    width: int
    gsd_m: float = Field(description="ground sample distance, metres")
    crs: str
    dtype: str
    bands: list[str]


class MsFileReport(FileReport):
    """The MS image, and the bands of it that are read."""

    used: list[UsedBand]


class ShiftCorrection(BaseModel):
    """A shift of PAN's content that is corrected, see :mod:`das2f_map.scene.common_grid.shift`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_pan_px: float
    cols_pan_px: float


class CommonGridReport(BaseModel):
    """The common grid's MS pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int
    width: int
    transform: list[float] = Field(description="pixel to map: a, b, c, d, e, f")
    crs: str
    corners: list[list[float]] = Field(description="x, y of the outer corners, clockwise from pixel (0, 0)")

    @classmethod
    def of(cls, grid: Grid) -> CommonGridReport:
        """The report of a grid."""
        return cls(
            height=grid.height,
            width=grid.width,
            transform=list(grid.transform)[:6],
            crs=crs_text(grid),
            corners=[list(c) for c in grid.corners()],
        )


class MaskReport(BaseModel):
    """A mask file and the pixels that it excludes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathText
    values: list[int] | None
    bits: list[int] | None
    notices: list[str]


class ProductBandReport(BaseModel):
    """A band that a product delivers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="plain name of the light that it measures")
    label: str = Field(description="the product's name of it")
    band: int = Field(description="number in each of the files, from 1")
    files: list[PathText] = Field(description="the file that has it, or its tiles")


class ProductReport(BaseModel):
    """A product that a pair comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathText = Field(description="folder, archive, metadata file or address, as given")
    kind: str
    name: PathText
    sensor: str | None
    date: str | None = Field(description="date or time of acquisition, ISO 8601")
    bands: list[ProductBandReport] = Field(description="the MS bands, then PAN")
    nodata: float | None = Field(description="value of pixels without a measurement")
    reflectance: str | None = Field(description="how the product gives reflectance; null if it does not")
    reflectance_applied: bool = Field(description="whether the values are reflectance")
    clouds: PathText | None = Field(description="file of the cloud mask; null if there is none")
    clouds_excluded: str = Field(description="what the mask leaves out, or why there is none")
    notes: list[str]


class PairReport(BaseModel):
    """A pair of images as it was found and is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    product: ProductReport | None = Field(
        default=None, description="the product that both images come from; null for two files"
    )

    ms: MsFileReport
    pan: FileReport
    ratio: float = Field(description="MS over PAN pixel size")
    strategy: Strategy
    shift_corrected: ShiftCorrection | None
    common_grid: CommonGridReport
    nodata: float | None = Field(description="undeclared nodata value, from the user or the product")
    nodata_notices: list[str]
    mask: MaskReport | None
    notices: list[str] = Field(description="sentences that a user should read")


def crs_text(grid: Grid) -> str:
    """EPSG code of a grid's CRS, else its WKT."""
    epsg = grid.crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(grid.crs.to_wkt())
