"""Read GeoParquet with pyarrow: GDAL's own reader for it is rarely there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from shapely.errors import ShapelyError

from das2f_map.errors import Das2fMapError, MissingDependencyError
from das2f_map.installation import install_extra
from das2f_map.scene.paths import is_file, is_local, vector_path
from das2f_map.scene.vector_layer import Layer


def is_parquet(file: str) -> bool:
    """Whether a local file is Parquet; GDAL's own reader is rarely there."""
    path = Path(file)
    if not is_local(file) or not is_file(path):
        return False
    with path.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "reading GeoParquet needs pyarrow, which is not installed", install_extra("parquet")
        ) from error
    return pyarrow.parquet


def parquet_layer(file: str, label: str, error: type[Das2fMapError]) -> Layer:
    """The one layer of a GeoParquet file.

    Raises
    ------
    Das2fMapError
        The file is damaged, or a table without geometries. Of the class ``error``.
    MissingDependencyError
        pyarrow is not installed.
    """
    try:
        reader = _parquet()
    except MissingDependencyError as missing:
        raise MissingDependencyError(f"{label}: {missing.message}", missing.hint) from missing
    try:
        opened = reader.ParquetFile(vector_path(file))
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
        described = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
        primary = str(described["primary_column"]) if described else ""
        column = described["columns"][primary] if described else {}
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise error(
            f"{label} cannot be read: {' '.join(str(reason).split())}",
            "the file seems to be damaged or cut short",
        ) from reason
    if not described:
        raise error(
            f"{label} has no geometries: it is a table (Parquet without GeoParquet's description)",
            "write it with geopandas' to_parquet or ogr2ogr",
        )
    # Without a word on it the CRS is OGC:CRS84; null means that it is not known.
    crs = column.get("crs", "OGC:CRS84")
    fields = tuple(f.name for f in schema if f.name != primary and f.name not in described["columns"])
    types = {f.name: str(f.type) for f in schema}
    dtypes = tuple("object" if "string" in types[f] or "dict" in types[f] else types[f] for f in fields)
    kinds = {str(k).removesuffix(" Z") for k in column.get("geometry_types", [])}
    return Layer(
        Path(file).stem,
        kinds.pop() if len(kinds) == 1 else "Unknown",
        None if crs is None else json.dumps(crs) if isinstance(crs, dict) else str(crs),
        fields,
        dtypes,
        frozenset(f for f in fields if types[f] == "bool"),
        int(rows),
    )


def read_parquet(
    file: str, column: str | None, label: str, error: type[Das2fMapError]
) -> tuple[npt.NDArray[np.object_], pd.Series[Any] | None]:
    """WKB (n,) and an attribute of all features; raises as :func:`parquet_layer` does."""
    reader = _parquet()
    file = vector_path(file)
    try:
        described = json.loads(reader.read_schema(file).metadata[b"geo"])
        primary = described["primary_column"]
        if described["columns"][primary].get("encoding", "WKB") != "WKB":
            frame = geopandas.read_parquet(file, columns=[primary, *([column] if column else [])])
            wkb = np.asarray(shapely.to_wkb(frame.geometry.to_numpy(), output_dimension=2), dtype=object)
            return wkb, frame[column] if column else None
        table = reader.read_table(file, columns=[primary, *([column] if column else [])])
        wkb = np.array(table.column(primary).to_pylist(), dtype=object)
        return wkb, table.column(column).to_pandas() if column else None
    except (OSError, ValueError, KeyError, ShapelyError) as reason:
        raise error(
            f"{label} cannot be read: {' '.join(str(reason).split())}",
            "the file seems to be damaged or cut short",
        ) from reason
