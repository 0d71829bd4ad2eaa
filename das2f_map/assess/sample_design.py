"""How the points of a reference sample were drawn, kept in the GeoPackage that holds them.

The estimates of accuracy and area depend on the design: which strata there were, how large they are, and with
which probability each pixel could be drawn. A sample without its design is of little use. So the design lies
in the file of the points, in a table of its own.

The points themselves are the layer :data:`SAMPLE_LAYER`, with the fields that :data:`SAMPLE_FIELDS` lists.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from das2f_map.errors import LabelError
from das2f_map.scene.paths import PathText, is_file, is_local

SAMPLE_LAYER: Final = "sample"
"""Name of the layer with the points, or with the pixels as squares."""

DESIGN_STANDARD: Final = "https://pypi.org/project/das2f-map/sample"
"""Marks the design among the metadata of a GeoPackage."""

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

_CHUNK = 1 << 20

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
    map_path: PathText = Field(description="as it was given")
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

    @property
    def in_words(self) -> str:
        """The design in words."""
        if self.design == "uncertainty":
            return f"candidates by {self.measure}, no probability sample"
        if self.clusters is not None:
            return (
                f"two-stage cluster sample: {len(self.clusters.drawn):,} of {self.clusters.blocks:,} blocks"
            )
        if self.design == "stratified":
            return f"stratified by the map's classes, {self.allocation} allocation"
        return "simple random sample"

    def stratum(self, class_id: int) -> Stratum:
        """The stratum of a class id; ``KeyError`` if there is none."""
        for stratum in self.strata:
            if stratum.id == class_id:
                return stratum
        raise KeyError(class_id)


_METADATA_TABLES = """
CREATE TABLE IF NOT EXISTS gpkg_metadata (
    id INTEGER CONSTRAINT m_pk PRIMARY KEY ASC NOT NULL,
    md_scope TEXT NOT NULL DEFAULT 'dataset',
    md_standard_uri TEXT NOT NULL,
    mime_type TEXT NOT NULL DEFAULT 'text/xml',
    metadata TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS gpkg_metadata_reference (
    reference_scope TEXT NOT NULL,
    table_name TEXT,
    column_name TEXT,
    row_id_value INTEGER,
    timestamp DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    md_file_id INTEGER NOT NULL,
    md_parent_id INTEGER,
    CONSTRAINT crmr_mfi_fk FOREIGN KEY (md_file_id) REFERENCES gpkg_metadata(id),
    CONSTRAINT crmr_mpi_fk FOREIGN KEY (md_parent_id) REFERENCES gpkg_metadata(id)
);
CREATE TABLE IF NOT EXISTS gpkg_extensions (
    table_name TEXT,
    column_name TEXT,
    extension_name TEXT NOT NULL,
    definition TEXT NOT NULL,
    scope TEXT NOT NULL,
    CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name)
);
"""
"""Tables of the GeoPackage extension for metadata."""

_EXTENSION = "http://www.geopackage.org/spec120/#extension_metadata"


def write_design(gpkg: str | Path, design: SampleDesign) -> None:
    """Put a design into a GeoPackage, in place of one that it has.

    It lies in the standard table ``gpkg_metadata``, as JSON: QGIS would take a table of another name for a
    second layer, and ask which one to open.

    Raises ``sqlite3.Error`` when the file cannot be written or is no GeoPackage.
    """
    # sqlite3's own context manager ends the transaction but does not close.
    with closing(sqlite3.connect(gpkg)) as database, database:
        for statement in _METADATA_TABLES.split(";"):
            database.execute(statement)
        old = "SELECT id FROM gpkg_metadata WHERE md_standard_uri = ?"
        database.execute(
            f"DELETE FROM gpkg_metadata_reference WHERE md_file_id IN ({old})", (DESIGN_STANDARD,)
        )
        database.execute("DELETE FROM gpkg_metadata WHERE md_standard_uri = ?", (DESIGN_STANDARD,))
        row = database.execute(
            "INSERT INTO gpkg_metadata (md_scope, md_standard_uri, mime_type, metadata) "
            "VALUES ('dataset', ?, 'application/json', ?)",
            (DESIGN_STANDARD, design.model_dump_json(indent=1)),
        )
        database.execute(
            "INSERT INTO gpkg_metadata_reference (reference_scope, table_name, md_file_id) "
            "VALUES ('table', ?, ?)",
            (SAMPLE_LAYER, row.lastrowid),
        )
        known = {name for (name,) in database.execute("SELECT table_name FROM gpkg_extensions")}
        for table in {"gpkg_metadata", "gpkg_metadata_reference"} - known:
            database.execute(
                "INSERT INTO gpkg_extensions (table_name, extension_name, definition, scope) "
                "VALUES (?, 'gpkg_metadata', ?, 'read-write')",
                (table, _EXTENSION),
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
    if not is_file(path):
        return None
    try:
        # Read only, so that a missing or foreign file is not changed.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT metadata FROM gpkg_metadata WHERE md_standard_uri = ?", (DESIGN_STANDARD,)
            ).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):  # sqlite's message quotes a damaged file, byte for byte
        return None
    if not rows:
        return None
    try:
        return SampleDesign.model_validate_json(rows[0][0])
    except (ValidationError, ValueError, TypeError) as error:
        raise LabelError(
            f"the sample's design in {path} cannot be read: {_first_line(error)}",
            "if a newer das2f-map wrote the file, use that version; else draw the sample anew",
        ) from error


def checksum(path: str) -> str | None:
    """SHA-256 of a local file; ``None`` for others."""
    if not is_local(path):
        return None
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
