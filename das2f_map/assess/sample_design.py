"""How the points of a reference sample were drawn, kept in the GeoPackage that holds them.

The estimates of accuracy and area depend on the design: which strata there were, how large they are, and with
which probability each pixel could be drawn. A sample without its design is of little use. So the design lies
in the file of the points, in a table of its own.

The points themselves are the layer :data:`SAMPLE_LAYER`, with the fields that :data:`SAMPLE_FIELDS` lists.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from das2f_map.errors import LabelError

SAMPLE_LAYER: Final = "sample"
"""Name of the layer with the points, or with the pixels as squares."""

DESIGN_TABLE: Final = "das2f_map_sample"
"""Table with a row for each field of :class:`SampleDesign`: its name, and its value as JSON."""

SAMPLE_FIELDS: Final = {
    "sample_id": "number from 1, in random order; in the order of their use for candidates by uncertainty",
    "stratum": "class id in the map, in every design",
    "stratum_pixels": "pixels of that class in the map",
    "inclusion": "probability 0..1 that the design draws this pixel; null for candidates by uncertainty",
    "cluster": "id of the block in a cluster design, else null",
    "class": "name of the class that the interpreter sees; null at first",
    "class_2": "the same by a second interpreter; only where that was asked for",
}
"""Fields of the layer."""

CLASS_FIELD: Final = "class"
SECOND_CLASS_FIELD: Final = "class_2"

FORMAT_VERSION: Final = 1

DesignName = Literal["simple", "stratified", "cluster", "uncertainty"]
DESIGNS: Final[tuple[DesignName, ...]] = ("simple", "stratified", "cluster", "uncertainty")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stratum(_Value):
    """The pixels that the map gives one class, in every design; the class ``unsure`` is one of them."""

    id: int = Field(ge=1, description="class id in the map")
    name: str
    pixels: int = Field(ge=1, description="in the map, without nodata")
    sampled: int = Field(ge=0, description="points that were drawn in it")
    area_m2: float = Field(ge=0, description="sum of the areas of its pixels on the ellipsoid")


class DrawnBlock(_Value):
    """A block of a cluster design that was drawn."""

    id: int = Field(ge=0, description="row of blocks times the blocks in a row, plus the column")
    row: int = Field(ge=0, description="first row of pixels in the map")
    col: int = Field(ge=0, description="first column of pixels in the map")
    pixels: int = Field(ge=1, description="pixels in it, without nodata")
    sampled: int = Field(ge=1, description="points that were drawn in it")
    inclusion: float = Field(gt=0, le=1, description="probability that the design draws this block")


class ClusterDesign(_Value):
    """Blocks drawn first, then pixels at random within each."""

    selection: Literal["equal", "proportional"] = Field(
        description="equal: simple random without replacement; "
        "proportional: to the pixels of a block without nodata, systematic in random order"
    )
    blocks: int = Field(ge=1, description="blocks with a pixel that is not nodata")
    size: int = Field(ge=1, description="rows and columns of a block, in pixels; fewer at the map's edges")
    drawn: tuple[DrawnBlock, ...] = Field(description="in ascending order of id")


class SampleDesign(_Value):
    """A sample's design and all its sizes."""

    format_version: Literal[1] = FORMAT_VERSION
    design: DesignName
    allocation: Literal["equal", "proportional", "optimal"] | None = Field(
        default=None, description="of a stratified design"
    )
    seed: int
    map_path: str = Field(description="as it was given")
    map_sha256: str | None = Field(description="of the map's file; null where it is not a local file")
    strata: tuple[Stratum, ...] = Field(description="in ascending order of id; in every design")
    population_pixels: int = Field(ge=1, description="pixels of the map, without nodata")
    pixel_area_m2: float | None = Field(
        description="mean ground area of a pixel; null where areas differ by over 1 % within the map"
    )
    clusters: ClusterDesign | None = Field(default=None, description="of a cluster design")
    min_distance: float | None = Field(
        default=None, description="metres between points; where it is set, inclusions are approximate"
    )
    measure: Literal["confidence", "margin", "entropy"] | None = Field(
        default=None, description="of candidates by uncertainty: the value they were ranked by"
    )
    software_version: str

    @property
    def sampled(self) -> int:
        """Points of the sample."""
        return sum(s.sampled for s in self.strata)

    @property
    def is_probability_sample(self) -> bool:
        """Whether accuracies and areas of the map can be estimated from the points."""
        return self.design != "uncertainty"

    @property
    def inclusion_is_exact(self) -> bool:
        """Whether each pixel's probability is known exactly: a minimum distance changes it a little."""
        return self.is_probability_sample and self.min_distance is None

    def stratum(self, class_id: int) -> Stratum:
        """The stratum of a class id; ``KeyError`` if there is none."""
        for stratum in self.strata:
            if stratum.id == class_id:
                return stratum
        raise KeyError(class_id)


def write_design(gpkg: str | Path, design: SampleDesign) -> None:
    """Put a design into a GeoPackage, in place of one that it has.

    Raises ``sqlite3.Error`` when the file cannot be written or is no GeoPackage.
    """
    rows = [(key, json.dumps(value)) for key, value in design.model_dump(mode="json").items()]
    # sqlite3's own context manager ends the transaction but does not close.
    with closing(sqlite3.connect(gpkg)) as database, database:
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {DESIGN_TABLE} (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)"
        )
        database.execute(f"DELETE FROM {DESIGN_TABLE}")
        database.executemany(f"INSERT INTO {DESIGN_TABLE} (key, value) VALUES (?, ?)", rows)
        database.execute(
            "INSERT OR REPLACE INTO gpkg_contents "
            "(table_name, data_type, identifier, description, last_change) "
            "VALUES (?, 'attributes', ?, 'How the sample was drawn', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
            (DESIGN_TABLE, DESIGN_TABLE),
        )


def read_design(gpkg: str | Path) -> SampleDesign | None:
    """The design in a GeoPackage of :func:`write_design`.

    Returns
    -------
    SampleDesign or None
        ``None`` for any other file: no GeoPackage, or one without a design.

    Raises
    ------
    LabelError
        The file has a design that is damaged, or of a newer version of the software.
    """
    path = Path(gpkg)
    if not path.is_file():
        return None
    try:
        # Read only, so that a missing or foreign file is not changed.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(f"SELECT key, value FROM {DESIGN_TABLE}").fetchall()
    except sqlite3.Error:
        return None
    try:
        return SampleDesign.model_validate({key: json.loads(value) for key, value in rows})
    except (ValidationError, ValueError, TypeError) as error:
        raise LabelError(
            f"the sample's design in {path} cannot be read: {_first_line(error)}",
            "if a newer das2f-map wrote the file, use that version; else draw the sample anew",
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
