"""Labelled scenes from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from das2f_map.errors import InputError
from das2f_map.scene.paths import is_local

COLUMNS = ("ms", "pan", "labels")
_LARGEST = 10_000_000
"""Bytes of a list; a larger file is some other CSV."""


def read_scene_list(path: Path) -> list[tuple[str, str | None, str]]:
    """MS, PAN and labels of every line of a CSV file with the columns ``ms``, ``pan`` and ``labels``.

    PAN is ``None`` where its column is empty: MS is then a product as delivered. Relative paths start at the
    file's folder. URLs stay as they are.

    Raises
    ------
    InputError
        The file is missing, too large or no such list; the message names the line.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is too large for a list of scenes", f"columns: {', '.join(COLUMNS)}")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
            if absent:
                raise InputError(
                    f"{path} has no column {', '.join(absent)}", f"the first line is {','.join(COLUMNS)}"
                )
            found = []
            for row in reader:
                ms, pan, labels = ((row[c] or "").strip() for c in COLUMNS)
                if not (ms and labels):
                    raise InputError(
                        f"{path}, line {reader.line_num}: ms, pan and labels are needed",
                        "pan is empty only where ms is a product",
                    )
                ms, labels = _from(path.parent, ms), _from(path.parent, labels)
                found.append((ms, _from(path.parent, pan) if pan else None, labels))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not found:
        raise InputError(f"{path} lists no scene")
    return found


def _from(folder: Path, value: str) -> str:
    """A path of the list, seen from where the command runs."""
    return str(folder / value) if is_local(value) else value
