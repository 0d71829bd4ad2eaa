"""Maps with all their rasters, read back: for tests that compare maps pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rasterio

import das2f_map
from das2f_map.bundle.model import ModelBundle

KINDS = ("confidence", "probabilities", "entropy")
OPTIONS: dict[str, Any] = {"coregistration": "off", "device": "cpu", "engine": "patch"}


def made(pair: tuple[Path, Path], folder: Path, bundle: ModelBundle, **more: Any) -> dict[str, Any]:
    """A map: its values by kind, its transform, tags and report."""
    folder.mkdir()
    files = {kind: folder / f"{kind}.tif" for kind in KINDS}
    report = das2f_map.classify(*pair, folder / "m.tif", model=bundle, **files, **(OPTIONS | more))
    values: dict[str, Any] = {"report": report}
    for kind, path in {"classes": folder / "m.tif", **files}.items():
        with rasterio.open(path) as src:
            values[kind] = src.read()
            values["transform"], values["tags"] = src.transform, src.tags()
    return values
