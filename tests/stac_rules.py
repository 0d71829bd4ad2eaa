"""Checks of STAC Items without a network: STAC's own schemas, and rules of extensions from their texts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import jsonschema
import pystac
import referencing
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation.local_validator import get_local_schema_cache

CLASS_NAME = re.compile(r"[0-9A-Za-z_-]+")
COLOUR = re.compile(r"[0-9A-F]{6}")


def check_core(document: dict[str, Any]) -> pystac.Item:
    """The Item, if STAC's schemas of its version allow the document."""
    schemas = get_local_schema_cache()
    known = [(uri, referencing.Resource.from_contents(schema)) for uri, schema in schemas.items()]
    (item,) = [schema for uri, schema in schemas.items() if uri.endswith("/item.json")]
    assert document["stac_version"] in str(item["$id"])
    validator = jsonschema.Draft7Validator(item, registry=referencing.Registry().with_resources(known))
    errors = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(document)]
    assert not errors
    return pystac.Item.from_dict(document)


def check_files(item: pystac.Item, folder: Path) -> None:
    """Each asset is there, with its size and a multihash of its content."""
    for asset in item.assets.values():
        found = FileExtension.ext(asset)
        content = (folder / asset.href).read_bytes()
        assert found.size == len(content)
        # Multihash: code of the function and length of the digest, a byte each, then the digest.
        code, length, digest = found.checksum[:2], found.checksum[2:4], found.checksum[4:]
        assert (code, int(length, 16)) == ("12", len(digest) // 2)
        assert digest == hashlib.sha256(content).hexdigest()


def check_classes(classes: list[dict[str, Any]]) -> None:
    """The classes, as the classification extension 2.0 asks for them."""
    assert len({c["value"] for c in classes}) == len({c["name"] for c in classes}) == len(classes) > 0
    for c in classes:
        assert {*c} <= {
            "value",
            "name",
            "title",
            "description",
            "color_hint",
            "nodata",
            "percentage",
            "count",
        }
        assert isinstance(c["value"], int)
        assert CLASS_NAME.fullmatch(c["name"])
        assert COLOUR.fullmatch(c.get("color_hint", "000000"))


def check_processing(document: dict[str, Any]) -> None:
    """The fields of the processing extension 1.2 have its types; at least one is there."""
    (uri,) = [u for u in document["stac_extensions"] if "/processing/" in u]
    assert uri == "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
    fields = {k: v for k, v in document["properties"].items() if k.startswith("processing:")}
    assert fields
    assert {*fields} <= {
        f"processing:{n}" for n in ("expression", "lineage", "level", "facility", "software")
    }
    assert isinstance(fields["processing:lineage"], str)
    assert re.fullmatch(r"RAW|L[0-9][A-Z]?", fields["processing:level"])
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in fields["processing:software"].items())


def check_map_item(document: dict[str, Any], folder: Path) -> pystac.Item:
    """An Item of a map, with all its extensions."""
    item = check_core(document)
    check_files(item, folder)
    check_processing(document)
    projection = ProjectionExtension.ext(item)
    assert (projection.code is None) != (projection.wkt2 is None)
    assert len(projection.shape or []) == 2
    assert len(projection.transform or []) in (6, 9)
    classes = ClassificationExtension.ext(item.assets["raster"]).classes
    check_classes([c.to_dict() for c in classes or []])
    for key, asset in item.assets.items():
        if key in ("raster", "confidence", "probabilities", "entropy"):
            bands = RasterExtension.ext(asset).bands
            assert bands
            assert all(b.data_type is not None and b.nodata is not None for b in bands)
    return item
