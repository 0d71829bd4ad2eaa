"""Many scenes at once: listed in a CSV file, or found by file names with fields such as ``{date}``."""

from __future__ import annotations

import csv
import difflib
import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from das2f_map.errors import InputError
from das2f_map.scene.bands import parse_bands
from das2f_map.scene.mask import MaskFile, parse_numbers
from das2f_map.scene.paths import is_local

log = logging.getLogger(__name__)

COLUMNS: Final = (
    "ms",
    "pan",
    "scene",
    "output",
    "vectors",
    "confidence",
    "probabilities",
    "entropy",
    "model",
    "aoi",
    "aoi_layer",
    "mask",
    "mask_values",
    "mask_bits",
    "bands",
    "nodata",
)
"""Columns that a list may have: files, and the options that may differ from scene to scene."""

_PATHS: Final = frozenset(COLUMNS[:8]) | {"aoi", "mask"}
_OUTPUTS: Final = COLUMNS[3:8]
_LARGEST: Final = 10_000_000
"""Bytes of a list; a larger file is some other CSV."""

_FIELD: Final = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class ListedScene:
    """A scene of many.

    Attributes
    ----------
    place:
        Words for it in messages: the line of a list, or the MS file.
    values:
        ``ms``, ``pan``, ``output`` and options of `classify`, by the names that they have in Python.
    """

    place: str
    values: Mapping[str, Any]


def is_pattern(value: object) -> bool:
    """Whether a value is the path of local files with a field such as ``{date}``, and no file's own name."""
    text = str(value) if isinstance(value, (str, os.PathLike)) else ""
    return bool(_FIELD.search(text)) and is_local(text) and not os.path.lexists(text)


def refuse_fields(ms: str, paths: Mapping[str, object]) -> None:
    """Refuse paths with fields where ``ms`` has none to fill them in: they would be files of such names.

    Parameters
    ----------
    ms:
        The MS image, or words for the place that could have fields.
    paths:
        Word for each path → the path, or anything else, which passes.

    Raises
    ------
    InputError
        A path has a field, and no file has that very name.
    """
    for name, value in paths.items():
        if is_pattern(_text(value)):
            raise InputError(
                f"{name} {_text(value)} has the field {{{_fields_of(value)[0]}}}, which {ms} does not have",
                "fields of many scenes stand in the MS path, too: '{date}_ms.tif' '{date}_pan.tif' "
                "-o 'maps/{date}.tif'",
            )


def listed_scenes(pairs: object) -> list[ListedScene]:
    """The scenes that a caller names.

    Parameters
    ----------
    pairs:
        The path of a CSV file; a mapping of patterns, see :func:`matched_scenes`; or a sequence of mappings,
        one for each scene.

    Raises
    ------
    InputError
        It is nothing of that, or names no scene.
    """
    if isinstance(pairs, (str, os.PathLike)):
        return read_pair_list(Path(pairs))
    if isinstance(pairs, Mapping):
        return matched_scenes(pairs)
    rows = list(pairs) if isinstance(pairs, Iterable) else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(
            f"pairs cannot be {pairs!r}: it must be a CSV file, a mapping of patterns or a list of mappings",
            'give each scene as {"ms": …, "pan": …, "output": …}',
        )
    return [_scene(f"scene {n}", dict(row)) for n, row in enumerate(rows, start=1)]


def read_pair_list(path: Path) -> list[ListedScene]:
    """The scenes of a CSV file with the columns ``ms``, ``pan`` and ``output``, or ``scene`` and ``output``.

    ``scene`` is a product as delivered; so is ``ms`` where ``pan`` is empty. Other columns of :data:`COLUMNS`
    are options of the scene. An empty cell leaves the option as it is for all. Relative paths start at the
    file's folder. URLs stay as they are. Semicolons may stand between the cells.

    Raises
    ------
    InputError
        The file is missing, too large or no such list, or a cell cannot be used; the message names the line.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is too large for a list of scenes", _columns_hint())
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            semicolons = ";" in header and "," not in header
            reader = csv.DictReader(file, delimiter=";" if semicolons else ",", restkey="", strict=True)
            names = _column_names(path, reader.fieldnames or ())
            found = []
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if row.get(""):
                    raise InputError(
                        f"{place}: there are more cells than columns", "put quotes around commas in a path"
                    )
                cells = {names[key]: (value or "").strip() for key, value in row.items() if key}
                values = _values(place, path.parent, cells)
                refuse_fields(f"a list such as {path}", {k: values.get(k) for k in _OUTPUTS})
                found.append(_scene(place, values))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not found:
        raise InputError(f"{path} lists no scene", _columns_hint())
    return found


def matched_scenes(patterns: Mapping[str, Any]) -> list[ListedScene]:
    """The scenes whose MS files match a pattern; the fields fill in the other paths.

    A field such as ``{date}`` stands for one or more characters of a name, none of them ``/``. Where it comes
    again it has the same value.

    Parameters
    ----------
    patterns:
        ``ms``, ``pan`` unless ``ms`` is the pattern of products, ``output``, and options of `classify`. All
        texts and paths among them may have the fields of ``ms``.

    Raises
    ------
    InputError
        ``ms`` has no field, another path has a field that ``ms`` lacks, or no file matches.
    """
    ms = str(patterns.get("ms", ""))
    if not is_pattern(ms):
        raise InputError(f"{ms or 'ms'} has no field such as {{date}}", "scenes/{date}_ms.tif")
    known = _FIELD.findall(ms)
    for name, value in patterns.items():
        if strange := [field for field in _fields_of(value) if field not in known]:
            raise InputError(
                f"{name} {_text(value)} has the field {{{strange[0]}}}, which {ms} does not have",
                f"fields: {', '.join(f'{{{k}}}' for k in dict.fromkeys(known))}",
            )
    found = []
    for path, fields in sorted(_matching(ms)):
        values = {name: _filled(value, fields) for name, value in patterns.items()}
        found.append(_scene(path, {**values, "ms": path}))
    if not found:
        raise InputError(f"no file matches {ms}", "check the folder and the names, e.g. with ls")
    _tell_lonely(patterns.get("pan"), found)
    return found


def _matching(pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Paths that match a pattern, and the values of its fields."""
    parts = _FIELD.split(pattern)
    wild, expression, seen = "", "", set[str]()
    for n, part in enumerate(parts):
        if n % 2 == 0:
            wild, expression = wild + glob.escape(part), expression + re.escape(part)
        else:
            wild += "*"
            expression += f"(?P={part})" if part in seen else f"(?P<{part}>[^/]+?)"
            seen.add(part)
    for path in glob.glob(wild):  # noqa: PTH207 - it keeps the spelling of the pattern
        if match := re.fullmatch(expression, path):
            yield path, match.groupdict()


def _tell_lonely(pan: object, found: Sequence[ListedScene]) -> None:
    """Warn of PAN files without an MS file; an MS file without a PAN file is an error later on."""
    if not is_pattern(pan):
        return
    taken = {scene.values["pan"] for scene in found}
    lonely = sorted(path for path, _ in _matching(str(pan)) if path not in taken)
    if lonely:
        more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
        log.warning("No MS file belongs to PAN %s%s: left out", lonely[0], more)


def _fields_of(value: object) -> list[str]:
    return _FIELD.findall(_text(value))


def _text(value: object) -> str:
    value = value.path if isinstance(value, MaskFile) else value
    return str(value) if isinstance(value, (str, os.PathLike)) else ""


def _filled(value: Any, fields: Mapping[str, str]) -> Any:
    """A path or a mask with the values of the fields; anything else as it is."""
    if not _fields_of(value):
        return value
    filled = _FIELD.sub(lambda match: fields[match[1]], _text(value))
    return replace(value, path=filled) if isinstance(value, MaskFile) else filled


def _scene(place: str, values: dict[str, Any]) -> ListedScene:
    """A scene from its values; ``scene`` becomes ``ms``."""
    product = values.pop("scene", None)
    if product is not None and (values.get("ms") is not None or values.get("pan") is not None):
        raise InputError(
            f"{place}: a scene and ms or pan are given", "a product takes the place of both images"
        )
    ms = product if product is not None else values.get("ms")
    if ms is None or values.get("output") is None:
        missing = "output" if ms is not None else "ms"
        raise InputError(
            f"{place}: {missing} is missing", "each scene needs ms and pan, or scene, and output"
        )
    return ListedScene(place, {**values, "ms": ms, "pan": values.get("pan")})


def _column_names(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Column as written → name in :data:`COLUMNS`."""
    names = {column: column.strip().lower().replace("-", "_") for column in header}
    for column, name in names.items():
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            raise InputError(
                f"{path} has the column {column!r}, which is not known",
                f"did you mean {near[0]}?" if near else f"columns: {', '.join(COLUMNS)}",
            )
    if len(set(names.values())) < len(header):
        raise InputError(f"{path} has a column twice", "each column has a name of its own")
    if "output" not in names.values() or not {"ms", "scene"} & set(names.values()):
        raise InputError(f"{path} lacks the columns that a scene needs", _columns_hint())
    return names


def _values(place: str, folder: Path, cells: Mapping[str, str]) -> dict[str, Any]:
    """Values of a line by their names in Python, without those of empty cells."""
    texts = {name: _from(folder, name, text) for name, text in cells.items() if text}
    found: dict[str, Any] = {k: v for k, v in texts.items() if not k.startswith("mask")}
    readers: dict[str, Callable[[str], Any]] = {"bands": parse_bands, "nodata": _number}
    try:
        for name, reader in readers.items():
            if name in texts:
                found[name] = reader(texts[name])
        chosen, bits = (parse_numbers(texts[k]) if k in texts else () for k in ("mask_values", "mask_bits"))
    except ValueError as error:
        raise InputError(f"{place}: {error}", "the options of these names explain what they take") from error
    if "mask" in texts:
        clouds = texts["mask"] == "clouds" and not (chosen or bits)
        found["mask"] = "clouds" if clouds else MaskFile(texts["mask"], chosen, bits)
    elif chosen or bits:
        raise InputError(f"{place}: mask_values and mask_bits need a mask", "fill in the column mask")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"nodata {text!r} is no number") from None


def _from(folder: Path, name: str, text: str) -> str:
    """A cell with a path, seen from where the command runs; any other cell as it is."""
    near = folder / text
    if name == "model":
        return str(near) if near.exists() else text  # else the name of a bundled model
    if name not in _PATHS or not is_local(text) or (name == "mask" and text == "clouds"):
        return text
    return str(near)


def _columns_hint() -> str:
    return "the first line is ms,pan,output, or scene,output for products; options may follow"
