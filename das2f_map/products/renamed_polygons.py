"""Polygons of a map that exists, written again with other class names and colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.errors
import pyogrio.raw
from rasterio.crs import CRS

from das2f_map.errors import InputError
from das2f_map.legend import Legend
from das2f_map.outputs.work_files import work_folder
from das2f_map.outputs.write_errors import writing
from das2f_map.products.polygons import layer_descriptions, layer_names
from das2f_map.products.provenance import UNKNOWN, Provenance
from das2f_map.products.qgis import style_vectors
from das2f_map.products.vector_files import DRIVERS, FIELDS, FeatureBatch, LayerFile, convert
from das2f_map.scene.paths import vector_path

_BATCH = 50_000
_OWN_TABLE = "layer_styles"


def polygons_beside(raster: Path) -> list[Path]:
    """The vector files that have a map's name and lie in its folder."""
    return [path for extension in DRIVERS if (path := raster.with_suffix(extension)).is_file()]


def rename_polygons(
    source: Path, destination: Path, legend: Legend, provenance: Provenance = UNKNOWN
) -> None:
    """Write the polygons of a map with the names and colours of a legend; the shapes stay.

    Parameters
    ----------
    source:
        Polygons as `classify` or `vectorize` writes them.
    destination:
        New file of the same format.
    legend:
        With every class that the polygons have.
    provenance:
        Model, software and source of the map.

    Raises
    ------
    InputError
        The source cannot be read, has other layers or fields, or a class that the legend lacks.
    OutputError
        The new file cannot be written.
    """
    if destination.suffix.lower() == ".parquet":
        with writing(destination):
            _rename_parquet(source, destination, legend)
            style_vectors(destination, legend, {})
        return
    layers = _layers(source)
    by_layer = destination.suffix.lower() == ".gpkg"
    crs = _crs(source, layers)
    names = layer_names(legend) if by_layer else dict.fromkeys(legend.ids, destination.stem)
    about = layer_descriptions(legend, names, provenance)
    with work_folder(destination) as work:
        collected = destination if by_layer else work / "polygons.gpkg"
        with writing(destination):
            file = LayerFile(collected, about, crs, provenance.items())
        for batch in _batches(source, layers, legend):
            with writing(destination):
                for layer in about:
                    ids = [i for i, name in names.items() if name == layer]
                    part = batch.taken(np.isin(batch.class_ids, ids))
                    if len(part.class_ids):
                        file.append(layer, part, legend)
        with writing(destination):
            if not by_layer:
                convert(collected, destination.stem, destination, crs, about[destination.stem])
            style_vectors(destination, legend, names)


def _layers(source: Path) -> list[str]:
    """The layers with polygons. Raises :class:`InputError` for any that this package would not write."""
    try:
        found = [(str(n), kind) for n, kind in pyogrio.list_layers(vector_path(source)).tolist()]
        layers = [name for name, kind in found if name != _OWN_TABLE]
        for layer in layers:
            fields = {*pyogrio.read_info(vector_path(source), layer=layer)["fields"].tolist()}
            _require_fields(fields, source, layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InputError(f"polygons {source} cannot be read: {error}", "--no-vectors leaves them") from error
    return layers


def _crs(source: Path, layers: list[str]) -> CRS:
    text = pyogrio.read_info(vector_path(source), layer=layers[0])["crs"] if layers else None
    if text is None:
        raise InputError(
            f"polygons {source} have no coordinate reference system", "--no-vectors leaves them as they are"
        )
    return CRS.from_user_input(text)


def _batches(source: Path, layers: list[str], legend: Legend) -> Iterator[FeatureBatch]:
    """The features of all layers in their order, some at a time."""
    for layer in layers:
        skipped = 0
        while True:
            meta, _, wkb, cells = pyogrio.raw.read(
                vector_path(source), layer=layer, skip_features=skipped, max_features=_BATCH
            )
            if wkb is None or not len(wkb):
                break
            values: dict[str, Any] = dict(zip(meta["fields"].tolist(), cells, strict=True))
            ids = np.asarray(values["class_id"])
            _require_known({*np.unique(ids).tolist()}, source, legend)
            yield FeatureBatch(
                ids.astype(np.uint8),
                np.asarray(values["area_m2"], np.float64),
                np.asarray(values["confidence"], np.float64),
                np.asarray(wkb, dtype=object),
            )
            skipped += len(wkb)


def _rename_parquet(source: Path, destination: Path, legend: Legend) -> None:
    """Copy a GeoParquet file, batch by batch, with other names; GDAL's reader for it is rarely there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {c.id: c.name for c in legend.each()}
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"polygons {source} cannot be read: {error}", "--no-vectors leaves them") from error
    with file, pq.ParquetWriter(destination, file.schema_arrow) as writer:
        _require_fields({*file.schema_arrow.names} - {"geometry"}, source, source.stem)
        place = file.schema_arrow.get_field_index("class_name")
        for batch in file.iter_batches(_BATCH):
            ids = batch.column("class_id").to_pylist()
            _require_known({*ids}, source, legend)
            called = pa.array([names[i] for i in ids], pa.string())
            writer.write_batch(batch.set_column(place, file.schema_arrow.field(place), called))


def _require_fields(fields: set[str], source: Path, layer: str) -> None:
    """Raise :class:`InputError` unless a layer has the fields that this package writes."""
    if fields != {*FIELDS}:
        odd = ", ".join(sorted(fields ^ {*FIELDS}))
        raise InputError(
            f"polygons {source}: layer {layer!r} is not as das2f-map writes it ({odd})",
            "--no-vectors leaves the polygons as they are; vectorize makes new ones",
        )


def _require_known(ids: set[int], source: Path, legend: Legend) -> None:
    """Raise :class:`InputError` for a class that the legend lacks."""
    if unknown := sorted(ids - {*legend.ids}):
        raise InputError(
            f"polygons {source} have class {unknown[0]}, which the map lacks",
            "are they of this map? --no-vectors leaves them as they are",
        )
