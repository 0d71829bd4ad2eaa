"""Texts of a vector file in another encoding than the file claims, or in one that it does not name."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from das2f_map.errors import Das2fMapError
from das2f_map.scene.paths import is_local

log = logging.getLogger(__name__)


def wrong_encoding(file: str, label: str, reason: Exception, error: type[Das2fMapError]) -> Das2fMapError:
    """The error for texts that do not have the encoding that the file claims."""
    side = Path(file).with_suffix(".cpg")
    claimed, hint = "UTF-8", f"bring it to UTF-8, e.g. iconv -f CP1252 -t UTF-8 {Path(file).name}"
    if is_local(file) and Path(file).suffix.lower() in (".shp", ".dbf") and side.exists():
        claimed = side.read_text(encoding="ascii", errors="replace").strip()[:40]
        hint = f"write the encoding that it has into {side.name}, such as ISO-8859-1"
        return error(f"{label} holds text that is not {claimed}, the encoding that {side.name} claims", hint)
    if isinstance(reason, UnicodeDecodeError):
        claimed = reason.encoding.upper()
    return error(f"{label} holds text that is not {claimed}, the encoding that it should have", hint)


def tell_assumed_encoding(file: str, label: str, texts: pd.Series[Any]) -> None:
    """Log if a Shapefile has texts beyond ASCII and does not say in which encoding.

    GDAL assumes ISO-8859-1 then.
    """
    path = Path(file)
    if path.suffix.lower() != ".shp" or not is_local(file):
        return
    if all(str(t).isascii() for t in texts if isinstance(t, str)):
        return
    sides = [s for s in (path.with_suffix(".cpg"), path.with_suffix(".CPG")) if s.exists()]
    if not sides:
        log.warning(
            "%s: without a .cpg file its texts are read as ISO-8859-1 unless it says otherwise", label
        )
        return
    claimed = sides[0].read_text(encoding="ascii", errors="replace").strip()
    # Also "1252", "ANSI 1252", "OEM 850" and the like, as ArcGIS writes them.
    number = claimed.split()[-1] if claimed else ""
    for name in (claimed, f"cp{number}"):
        try:
            codecs.lookup(name)
        except (LookupError, ValueError):
            continue
        return
    if not number.isdigit():
        log.warning(
            "%s: %s claims the encoding %r, which is not known; its texts are read as ISO-8859-1",
            label,
            sides[0].name,
            claimed[:40],
        )
