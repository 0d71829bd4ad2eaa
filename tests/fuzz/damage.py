"""Ways to damage a file, each a function of its content and a source of random numbers."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import struct
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64, 10**30, 0.5, -0.0)
TEXTS = (
    *(
        "",
        " ",
        "nan",
        "inf",
        "-1",
        "1e308",
        "0x10",
        "None",
        "null",
        "a" * 5000,
        "é",
        "日本",
        "\x00",
        "\x1b[31m",
        "\n",
    ),
    *("../..", "/", "/dev/null", "%s%n", "{}", "<a>", "&amp;", "]]>", "'; drop table x; --", "EPSG:4326"),
    *("EPSG:0", "EPSG:999999", 'LOCAL_CS["x"]', "/vsimem/x", "http://127.0.0.1:9/x.tif", "|layername=x"),
    *("!", ";", "*"),
)
Damage = Callable[[bytes, random.Random], bytes]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bytes are others."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if found:
            found[rng.randrange(len(found))] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    return bytes(found)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data) + 1)]


def moved(data: bytes, rng: random.Random) -> bytes:
    """A part is missing, doubled, zero or noise."""
    if not data:
        return data
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.choice((1, 4, 16, 100, 1000)))
    part = data[begin:end]
    new = rng.choice((b"", part * 2, bytes(len(part)), rng.randbytes(len(part))))
    return data[:begin] + new + data[end:]


def foreign(data: bytes, rng: random.Random) -> bytes:
    """Another file under this name."""
    starts = (
        b"",
        b"II*\x00\x08\x00\x00\x00",
        b"PK\x03\x04",
        b"SQLite format 3\x00",
        b"PAR1",
        b"\x89PNG\r\n",
        b"{}",
    )
    return rng.choice(starts) + rng.randbytes(rng.choice((0, 10, 1000)))


BYTES: tuple[Damage, ...] = (flipped, flipped, flipped, cut, moved, moved, foreign)


def tiff_tag(data: bytes, rng: random.Random) -> bytes:
    """An entry of the first directory of a TIFF has another tag, type, count or value."""
    if len(data) < 16 or data[:2] not in (b"II", b"MM"):
        return flipped(data, rng)
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    found = bytearray(data)
    with suppress(struct.error, IndexError, ValueError):
        start = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
        count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)[0]
        size, first = (20, start + 8) if big else (12, start + 2)
        for _ in range(rng.choice((1, 1, 2))):
            entry = first + size * rng.randrange(count)
            kind = struct.unpack_from(f"{order}H", data, entry + 2)[0]
            place = rng.choice(("tag", "type", "count", "value", "value", "value"))
            value = int(rng.choice(NUMBERS[:13]))
            if place == "tag":
                struct.pack_into(
                    f"{order}H", found, entry, rng.choice((256, 257, 258, 259, 277, 339, 33550, 0))
                )
            elif place == "type":
                struct.pack_into(f"{order}H", found, entry + 2, rng.randrange(20))
            elif place == "count":
                struct.pack_into(f"{order}I", found, entry + 4, value % 2**32)
            elif kind == 3 and not big:
                struct.pack_into(f"{order}H", found, entry + 8, value % 2**16)
            else:
                struct.pack_into(f"{order}I", found, entry + size - (8 if big else 4), value % 2**32)
    return bytes(found)


def tiff_pixels(data: bytes, rng: random.Random) -> bytes:
    """Bytes behind the header are others."""
    middle = len(data) // 2
    return data[:middle] + rng.choice((flipped, moved, cut))(data[middle:], rng)


TIFF: tuple[Damage, ...] = (tiff_tag, tiff_tag, tiff_tag, tiff_tag, tiff_pixels, tiff_pixels, *BYTES)


def text_changed(data: bytes, rng: random.Random) -> bytes:
    """A word or a number of a text is another."""
    text = data.decode("utf-8", "replace")
    words = list(re.finditer(r"-?\d+(\.\d+)?|\w+", text))
    for _ in range(rng.choice((1, 1, 3))):
        if not words:
            break
        word = rng.choice(words)
        new = str(rng.choice(NUMBERS if rng.random() < 0.5 else TEXTS))
        text = text[: word.start()] + new + text[word.end() :]
        words = [w for w in words if w.end() < word.start()]
    return text.encode("utf-8", "surrogatepass")


def lines_changed(data: bytes, rng: random.Random) -> bytes:
    """A line is missing, doubled or long."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at : at + 1] = rng.choice(([], [lines[at]] * 3, [lines[at] * 1000], [rng.randbytes(20)]))
    return b"\n".join(lines)


TEXT: tuple[Damage, ...] = (text_changed, text_changed, text_changed, lines_changed, *BYTES)


def json_changed(data: bytes, rng: random.Random) -> bytes:
    """A value of a JSON document is another, missing, or deep."""
    try:
        document = json.loads(data)
    except ValueError:
        return flipped(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_json(document, rng)
    return json.dumps(document).encode()


def _change_json(document: Any, rng: random.Random) -> None:
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        deep: Any = 1
        for _ in range(200):
            deep = [deep]
        others = (*NUMBERS, *TEXTS, None, True, [], {}, [1, 2], {"a": 1}, float("nan"), float("inf"), deep)
        if rng.random() < 0.15:
            del node[key]
        elif isinstance(node, dict) and rng.random() < 0.1:
            node[str(rng.choice(TEXTS))] = rng.choice(others)
        else:
            node[key] = rng.choice(others)
        return


JSON: tuple[Damage, ...] = (json_changed, json_changed, json_changed, json_changed, text_changed, *BYTES)


def safetensors_changed(data: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file is another."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json_changed(data[8 : 8 + size], rng)
    length = len(header) if rng.random() < 0.8 else int(rng.choice(NUMBERS[:12])) % 2**64
    return struct.pack("<Q", length) + header + data[8 + size :]


WEIGHTS: tuple[Damage, ...] = (safetensors_changed, safetensors_changed, *BYTES)


def sqlite_changed(data: bytes, rng: random.Random) -> bytes:
    """A cell of a table of a GeoPackage is another, or a table is missing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gpkg"
        path.write_bytes(data)
        with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as database, database:
            names = [r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            table = rng.choice(names)
            for (trigger,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                database.execute(f'DROP TRIGGER "{trigger}"')
            if rng.random() < 0.15:
                database.execute(f'DROP TABLE "{table}"')
            else:
                columns = [r[1] for r in database.execute(f'PRAGMA table_info("{table}")')]
                value: Any = rng.choice((*TEXTS, None, 0, -1, 1.5, 2**62, 999999, rng.randbytes(40)))
                database.execute(f'UPDATE "{table}" SET "{rng.choice(columns)}" = ?', (value,))
        return path.read_bytes()


GPKG: tuple[Damage, ...] = (sqlite_changed, sqlite_changed, sqlite_changed, *BYTES)
