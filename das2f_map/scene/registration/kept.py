"""Measured shifts, kept in the user's cache folder: one pair is measured once.

A kept shift counts only for the same files (path, size, time of change), bands, nodata value and versions of
the software. Files that are not plain GeoTIFFs on a disk, and pairs with a mask, are always measured. The
variable ``DAS2F_MAP_CACHE`` names another folder, or switches the cache ``off``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from pydantic import ValidationError

from das2f_map._version import __version__
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.registration.report import ShiftReport

log = logging.getLogger(__name__)

VARIABLE: Final = "DAS2F_MAP_CACHE"
_FORMAT: Final = 1
_MOST: Final = 256
"""Shifts that are kept; each takes up to 25 kB."""

_LIMIT: Final = 1 << 20
"""Most bytes of a file that is read."""

_SETTLED_NS: Final = 2_000_000_000
"""Age from which a file's time of change tells it from later versions: clocks of file systems are coarse."""


def cache_folder() -> Path | None:
    """Folder of kept shifts, which may not exist; ``None`` if nothing is kept."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() in ("off", "0", "no", "false"):
        return None
    if chosen:
        return Path(chosen) / "shifts"
    try:
        home = Path.home()
    except RuntimeError:  # the user has none
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "das2f-map" / "shifts"


def kept_shift(pair: ScenePair, measure: Callable[[ScenePair], ShiftReport]) -> ShiftReport:
    """The shift of a pair as it was measured before, or else measured now and kept.

    A cache that cannot be read or written counts as empty.

    Parameters
    ----------
    pair:
        An open pair.
    measure:
        Measures a pair.
    """
    folder = cache_folder()
    key = None if folder is None else _key(pair)
    if folder is None or key is None:
        return measure(pair)
    place = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"
    kept = _read(place, key)
    if kept is not None:
        log.info("the shift between MS and PAN was measured before: %s", place)
        return kept
    report = measure(pair)
    if _key(pair) == key:  # no file has changed meanwhile
        _write(place, key, report)
    return report


def _key(pair: ScenePair) -> dict[str, Any] | None:
    """Everything that the measured shift depends on; ``None`` if that cannot be told."""
    if pair.mask_file is not None or pair.shift is not None:
        return None
    files = []
    for source in pair.sources:
        plain = source.plain_files
        if plain is None:
            return None
        try:
            found = [(str(path.resolve()), path.stat()) for path in plain]
        except OSError:
            return None
        if any(abs(time.time_ns() - state.st_mtime_ns) < _SETTLED_NS for _, state in found):
            return None
        files.append([[path, state.st_size, state.st_mtime_ns] for path, state in found])
    return {
        "format": _FORMAT,
        "versions": [__version__, np.__version__, rasterio.__version__, rasterio.__gdal_version__],
        "machine": [platform.system(), platform.machine(), platform.node()],
        "files": files,
        "bands": [list(source.read_bands) for source in pair.sources],
        "nodata": pair.nodata if pair.nodata is None else repr(pair.nodata),
    }


def _read(place: Path, key: dict[str, Any]) -> ShiftReport | None:
    try:
        if place.stat().st_size > _LIMIT:
            return None
        document = json.loads(place.read_text(encoding="utf-8"))
        if document["key"] != key:
            return None
        return ShiftReport.model_validate(document["shift"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None


def _write(place: Path, key: dict[str, Any], report: ShiftReport) -> None:
    # Not pydantic's JSON, which writes null for infinity.
    text = json.dumps({"key": key, "shift": report.model_dump()})
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(place)
        kept = sorted(place.parent.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for old in kept[:-_MOST]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.debug("the measured shift cannot be kept: %s", error)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
