"""The STAC Item of a map: place, time, classes and files, for catalogues and programs that read STAC.

Extensions: projection, raster, classification, file and processing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from das2f_map.bundle.stac_parts import (
    CLASSIFICATION,
    FILE,
    class_objects,
    file_fields,
    footprint,
)
from das2f_map.legend import Legend, LegendClass
from das2f_map.products.provenance import Provenance
from das2f_map.products.report import GridReport, RunReport

PROJECTION: Final = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER: Final = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"
PROCESSING: Final = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"

_COG: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_TITLES: Final = {
    "raster": "Classes",
    "vectors": "Polygons of the classes",
    "confidence": "Probability of each pixel's class",
    "probabilities": "Probability of every class",
    "entropy": "Entropy of the probabilities, 0 to 1",
    "report": "Report of the run",
}
_VECTOR_TYPES: Final = {
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".shp": "application/vnd.shp",
}
_EDGE: Final = 20
"""Points on each edge of the map's outline, which may be bent in degrees."""


def write_item(report: RunReport, item: Path, files: Mapping[str, Path], destination: Path) -> None:
    """Write the STAC Item of a map.

    Parameters
    ----------
    report:
        Of the map's run.
    item:
        Where the Item will lie at last: the paths in it start from there.
    files:
        Kind of output → where its file lies now.
    destination:
        Where to write.
    """
    text = json.dumps(map_item(report, item, files), indent=2, ensure_ascii=False)
    destination.write_text(text + "\n", encoding="utf-8")


def map_item(report: RunReport, item: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The STAC Item of a map as JSON has it; parameters as for :func:`write_item`."""
    import pystac

    geometry, box = footprint(_outline(report.grid))
    moment, properties = _time(report)
    properties |= _described(report)
    made = pystac.Item(
        id=Path(report.outputs["raster"]).stem,
        geometry=geometry,
        bbox=box,
        datetime=moment,
        properties=properties,
        stac_extensions=[PROJECTION, RASTER, CLASSIFICATION, FILE, PROCESSING],
    )
    for kind, file in files.items():
        made.add_asset(kind, _asset(kind, file, report, item))
    found: dict[str, Any] = made.to_dict(include_self_link=False, transform_hrefs=False)
    return found


def _time(report: RunReport) -> tuple[datetime | None, dict[str, Any]]:
    """When the images were taken, as far as that is known, else when the map was made."""
    created = _moment(report.created or "") or datetime.now(timezone.utc)
    product = report.scene.product
    given = "" if product is None else product.date or ""
    taken = _moment(given)
    properties: dict[str, Any] = {"created": _text(created)}
    if taken is not None and len(given) == len("2026-01-31"):
        last = taken + timedelta(days=1) - timedelta(seconds=1)
        return None, {**properties, "start_datetime": _text(taken), "end_datetime": _text(last)}
    return taken or created, properties


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(_in_microseconds(text.replace("Z", "+00:00")))
    except ValueError:
        return None
    return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found.astimezone(timezone.utc)


def _in_microseconds(text: str) -> str:
    """A time whose fraction of a second has six digits, the only ones that Python 3.10 reads."""
    head, point, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return head if not point else f"{head}.{digits[:6]:0<6}{rest[len(digits) :]}"


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _described(report: RunReport) -> dict[str, Any]:
    product, grid = report.scene.product, report.grid
    sources = [report.scene.ms.path, report.scene.pan.path] if product is None else [product.path]
    provenance = Provenance.of_run(report.model.name, sources)
    known = product is not None and _moment(product.date or "") is not None
    time = "" if known else " The time of the images is not known: datetime is when the map was made."
    subject = "Draft of a land-cover map" if report.draft else "Land-cover map"
    code = {"proj:code": grid.crs} if grid.crs.startswith("EPSG:") else {"proj:wkt2": _wkt2(grid.crs)}
    return {
        "title": f"Land cover {Path(report.outputs['raster']).stem}",
        "description": provenance.sentence(subject) + "." + time,
        "gsd": _gsd(report),
        **code,
        "proj:shape": [grid.height, grid.width],
        "proj:transform": grid.transform,
        "processing:level": "L4",
        "processing:lineage": provenance.sentence(subject),
        "processing:software": {"das2f-map": report.software_version, "torch": report.torch_version},
    }


def _gsd(report: RunReport) -> float:
    """Ground sample distance of the map, metres."""
    return report.scene.ms.gsd_m * report.settings.every


def _wkt2(wkt: str) -> str:
    return str(CRS.from_wkt(wkt).to_wkt("WKT2_2019"))


def _outline(grid: GridReport) -> list[list[tuple[float, float]]]:
    """The map's outer edge in degrees; empty where no way leads from its CRS to degrees."""
    steps = np.linspace(0, 1, _EDGE, endpoint=False)
    cols = np.concatenate([steps, np.ones(_EDGE), 1 - steps, np.zeros(_EDGE)]) * grid.width
    rows = np.concatenate([np.zeros(_EDGE), steps, np.ones(_EDGE), 1 - steps]) * grid.height
    a, b, c, d, e, f = grid.transform
    try:
        way = Transformer.from_crs(CRS.from_user_input(grid.crs), "EPSG:4326", always_xy=True)
        lon, lat = way.transform(a * cols + b * rows + c, d * cols + e * rows + f, errcheck=True)
    except ProjError:
        return []
    # A step of half a turn is one over the meridian.
    lon = np.unwrap(lon, period=360)
    return [list(zip(lon.tolist(), lat.tolist(), strict=True))]


def _asset(kind: str, file: Path, report: RunReport, item: Path) -> Any:
    import pystac

    final = Path(report.outputs[kind])
    fields = file_fields(file, report.checksums.get(kind))
    media = _COG
    if kind == "report":
        media = "application/json"
    elif kind == "vectors":
        media = _VECTOR_TYPES.get(final.suffix.lower(), "application/octet-stream")
    elif kind == "raster":
        classes = tuple(LegendClass(id=c.id, name=c.name, color=c.color) for c in report.classes)
        fields["classification:classes"] = class_objects(Legend(classes=classes), nodata=True)
        fields["raster:bands"] = [
            {
                "data_type": "uint8",
                "nodata": 0,
                "sampling": "area",
                "spatial_resolution": _gsd(report),
            }
        ]
    else:
        fields |= _value_bands(file)
    return pystac.Asset(
        href=_href(final, item),
        title=_TITLES.get(kind, kind),
        media_type=media,
        roles=["metadata"] if kind == "report" else ["data"],
        extra_fields=fields,
    )


def _value_bands(file: Path) -> dict[str, Any]:
    """The bands of a raster of values, with the statistics that it holds."""
    names = ("minimum", "maximum", "mean", "stddev", "valid_percent")
    with rasterio.open(file) as opened:
        tags = [opened.tags(i) for i in opened.indexes]
        described = [text or "" for text in opened.descriptions]
    bands = [
        {
            "data_type": "float32",
            "nodata": "nan",
            "sampling": "area",
            "statistics": {
                name: float(own[f"STATISTICS_{name.upper()}"])
                for name in names
                if f"STATISTICS_{name.upper()}" in own
            },
        }
        for own in tags
    ]
    return {"raster:bands": bands, "bands": [{"name": text} for text in described]}


def _href(final: Path, item: Path) -> str:
    """The way from the Item to a file, with slashes."""
    return Path(os.path.relpath(final.absolute(), item.absolute().parent)).as_posix()
