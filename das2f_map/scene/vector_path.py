"""The path of a vector file, with the name of a layer after it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from das2f_map.errors import InputError
from das2f_map.scene.paths import exists, is_local

_OPTION = re.compile(r"\s*(layername|layerid|subset|geometrytype|option:\w+|uniqueGeometryType)\s*=", re.I)


@dataclass(frozen=True)
class VectorPath:
    """A vector file and a layer of it.

    Attributes
    ----------
    file:
        Local path, or anything else that GDAL opens.
    layer:
        Name of a layer; ``None`` if the user names none.
    """

    file: str
    layer: str | None = None

    @classmethod
    def parse(cls, text: str | Path, layer: str | None = None) -> VectorPath:
        """A path such as ``labels.gpkg`` or ``labels.gpkg|layername=roads``, as QGIS writes it.

        A file that has this very name is taken as it is. A ``layer`` takes precedence.

        Raises
        ------
        InputError
            After the path comes something else than a layer's name.
        """
        text = str(text)
        file, option = _split(text)
        if option is None:
            return cls(text, layer)
        key, _, value = option.partition("=")
        if key.strip().lower() != "layername" or _split(file)[1] is not None or not value:
            raise InputError(
                f"{text}: {option!r} after the file name cannot be used",
                "name a layer and nothing else: file.gpkg|layername=roads",
            )
        return cls(file, layer or value)


def _split(text: str) -> tuple[str, str | None]:
    """The file and the option after it, as QGIS writes them; no option if a file has this very name."""
    file, _, option = text.rpartition("|")
    if not file or _OPTION.match(option) is None or (is_local(text) and exists(text)):
        return text, None
    return file, option


def local_file(path: str | Path) -> str:
    """The path of the file itself, without the name of a layer after it."""
    return _split(str(path))[0]
