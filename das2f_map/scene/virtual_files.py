"""The files behind virtual datasets: those that a VRT takes its pixels or features from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from das2f_map.scene.paths import is_local

_LARGEST = 64 * 1024 * 1024
_BEGINNINGS = (b"<VRTDataset", b"<OGRVRTDataSource", b"<GDALTileIndexDataset")
_SOURCES = ("SourceFilename", "SourceDataset", "SrcDataSource", "IndexDataset")
_CONNECTION = re.compile(r"vrt://(.+?)(?:\?[^/]*)?", re.DOTALL)
"""A VRT given as a text: ``vrt://ms.tif?bands=3,2,1``."""


def with_sources(paths: Iterable[str | Path]) -> list[str]:
    """Some paths, and those of all files that the virtual datasets among them read, nested ones too.

    A file that cannot be read has no sources here; whoever opens it says why.
    """
    found: dict[str, None] = {}
    left = [str(path) for path in paths]
    while left:
        path = left.pop()
        if path not in found:
            found[path] = None
            left += _sources(path)
    return list(found)


def _sources(path: str) -> list[str]:
    if connection := _CONNECTION.fullmatch(path):
        return [connection[1]]
    if not is_local(path):
        return []
    file = Path(path)
    try:
        with file.open("rb") as stream:
            beginning = stream.read(2000)
            if not any(tag in beginning for tag in _BEGINNINGS):
                return []
            root = ElementTree.fromstring(beginning + stream.read(_LARGEST))
    except (OSError, ValueError, ElementTree.ParseError):
        return []
    named = [element for tag in _SOURCES for element in root.iter(tag)]
    return [
        str(file.parent / text) if element.get("relativeToVRT", element.get("relativetoVRT")) == "1" else text
        for element in named
        if (text := (element.text or "").strip())
    ]
