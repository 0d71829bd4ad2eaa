"""The data files in an archive that GDAL does not look into, for hints."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pyogrio

from das2f_map.scene.paths import is_local

_SYSTEMS = {".zip": "/vsizip/", ".tar": "/vsitar/", ".tgz": "/vsitar/", ".gz": "/vsitar/"}
_DATA = frozenset(
    {".shp", ".gpkg", ".geojson", ".json", ".fgb", ".gml", ".kml", ".tab", ".mif", ".sqlite"}
    | {".tif", ".tiff", ".img", ".vrt", ".nc", ".asc", ".jp2", ".png"}
)
_MOST = 3


def archive_hint(path: str | Path) -> str | None:
    """A hint that spells the data files in a local archive for GDAL; ``None`` if there are none."""
    text = str(path)
    system = _SYSTEMS.get(Path(text).suffix.lower())
    if system is None or not is_local(text) or not Path(text).is_file():
        return None
    try:
        listed = pyogrio.vsi_listtree(system + text)
    except (OSError, ValueError):  # no archive after all; UnicodeError among them
        return None
    found = sorted(str(p) for p in listed if PurePosixPath(str(p)).suffix.lower() in _DATA)
    if not found:
        return None
    more = f" (and {len(found) - _MOST} more)" if len(found) > _MOST else ""
    return f"it is an archive; name the file in it: {' or '.join(found[:_MOST])}{more}"
