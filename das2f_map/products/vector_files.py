"""Writing batches of features with GDAL, and copying a layer to another format batch by batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import pyproj
from rasterio.crs import CRS

from das2f_map.legend import Legend
from das2f_map.types import Bool, Float64, UInt8

DRIVERS = {
    ".gpkg": "GPKG",
    ".shp": "ESRI Shapefile",
    ".geojson": "GeoJSON",
    ".fgb": "FlatGeobuf",
    ".parquet": "GeoParquet",
}
"""File extension → format name."""

FIELDS = ("class_id", "class_name", "area_m2", "confidence")
"""Fields of the polygons, in this order."""

GEOMETRY_COLUMN = "geom"
_CONVERT_BATCH = 20_000

_DATASET_OPTIONS: dict[str, dict[str, str]] = {
    # The newest version that QGIS 3.22 with GDAL 3.4 knows without a warning.
    ".gpkg": {"VERSION": "1.2"},
}
_LAYER_OPTIONS: dict[str, dict[str, str]] = {
    ".gpkg": {"GEOMETRY_NAME": GEOMETRY_COLUMN, "SPATIAL_INDEX": "YES"},
    # RFC 7946 would convert all coordinates to WGS 84.
    ".geojson": {"RFC7946": "NO", "COORDINATE_PRECISION": "15"},
    ".shp": {"ENCODING": "UTF-8"},
    ".fgb": {"SPATIAL_INDEX": "YES"},
}


_DESCRIBED = (".geojson", ".fgb")


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Features of any class: ids uint8, areas and confidence float64, WKB bytes; all (features,)."""

    class_ids: UInt8
    areas_m2: Float64
    confidence: Float64
    wkb: npt.NDArray[np.object_]

    @classmethod
    def joined(cls, parts: Sequence[FeatureBatch]) -> FeatureBatch:
        """All features of several batches."""
        return cls(
            np.concatenate([p.class_ids for p in parts]),
            np.concatenate([p.areas_m2 for p in parts]),
            np.concatenate([p.confidence for p in parts]),
            np.concatenate([p.wkb for p in parts]),
        )

    def taken(self, chosen: Bool) -> FeatureBatch:
        """Some features."""
        return FeatureBatch(
            self.class_ids[chosen], self.areas_m2[chosen], self.confidence[chosen], self.wkb[chosen]
        )


class LayerFile:
    """A new GeoPackage with empty layers, in the order given.

    Parameters
    ----------
    path, crs:
        Of the file.
    layers:
        Name of each layer → its description.
    metadata:
        Metadata items of each layer. Items of the whole file would make GDAL leave a side file next to it
        whenever a program opens it for reading.
    """

    def __init__(
        self, path: Path, layers: Mapping[str, str], crs: CRS, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._path, self._crs = path, crs_text(crs)
        none = FeatureBatch(np.zeros(0, np.uint8), np.zeros(0), np.zeros(0), np.zeros(0, dtype=object))
        for i, (layer, description) in enumerate(layers.items()):
            items = dict(metadata or {}) or None
            self._write(layer, none, {}, i > 0, {"DESCRIPTION": description}, layer_metadata=items)

    def append(self, layer: str, batch: FeatureBatch, legend: Legend) -> None:
        """Add features to a layer. Raises pyogrio's errors when the file cannot be written."""
        self._write(layer, batch, {c.id: c.name for c in legend.each()}, True, {})

    def _write(
        self,
        layer: str,
        batch: FeatureBatch,
        names: dict[int, str],
        append: bool,
        options: dict[str, str],
        **more: Any,
    ) -> None:
        ids = batch.class_ids.tolist()
        pyogrio.raw.write(
            str(self._path),
            batch.wkb,
            [
                batch.class_ids.astype(np.int32),
                np.array([names[i] for i in ids], dtype=object),
                batch.areas_m2,
                batch.confidence,
            ],
            np.array(FIELDS, dtype=object),
            layer=layer,
            driver="GPKG",
            geometry_type="Polygon",
            crs=self._crs,
            promote_to_multi=False,
            append=append,
            dataset_options={} if append else _DATASET_OPTIONS[".gpkg"],
            layer_options={**_LAYER_OPTIONS[".gpkg"], **options},
            **more,
        )


def crs_text(crs: CRS) -> str:
    """A CRS as pyogrio takes it: its authority's code if that describes it fully, else WKT."""
    authority = crs.to_authority(confidence_threshold=100)
    return ":".join(authority) if authority else str(crs.to_wkt())


def convert(source: Path, layer: str, destination: Path, crs: CRS, description: str = "") -> None:
    """Stream one layer of a GeoPackage into a file of another format, chosen by its extension.

    GeoJSON and FlatGeobuf get the description; the others have no place for one.
    """
    extension = destination.suffix.lower()
    if extension == ".parquet":
        _convert_to_parquet(source, layer, destination, crs)
        return
    with pyogrio.raw.open_arrow(str(source), layer=layer, batch_size=_CONVERT_BATCH, use_pyarrow=False) as (
        meta,
        stream,
    ):
        pyogrio.raw.write_arrow(
            stream,
            str(destination),
            layer=destination.stem,
            driver=DRIVERS[extension],
            geometry_name=meta["geometry_name"] or "wkb_geometry",
            geometry_type="Polygon",
            crs=crs_text(crs),
            layer_options={
                **_LAYER_OPTIONS[extension],
                **({"DESCRIPTION": description} if extension in _DESCRIBED and description else {}),
            },
        )


def _convert_to_parquet(source: Path, layer: str, destination: Path, crs: CRS) -> None:
    """GeoParquet 1.1: WKB in a binary column, described under ``geo`` in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Polygon"],
                "crs": pyproj.CRS.from_wkt(crs.to_wkt()).to_json_dict(),
                "orientation": "counterclockwise",
                "edges": "planar",
            }
        },
    }
    schema = pa.schema(
        [
            ("class_id", pa.int32()),
            ("class_name", pa.string()),
            ("area_m2", pa.float64()),
            ("confidence", pa.float64()),
            ("geometry", pa.binary()),
        ],
        metadata={"geo": json.dumps(geo)},
    )
    with (
        pyogrio.raw.open_arrow(str(source), layer=layer, batch_size=_CONVERT_BATCH, use_pyarrow=True) as (
            meta,
            reader,
        ),
        pq.ParquetWriter(destination, schema) as writer,
    ):
        name: Any = meta["geometry_name"] or "wkb_geometry"
        for batch in reader:
            columns = [batch.column(f.name if f.name != "geometry" else name) for f in schema]
            arrays = [getattr(c, "storage", c).cast(f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
