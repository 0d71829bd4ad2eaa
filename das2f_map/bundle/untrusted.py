"""Read the files of a bundle, which is a folder or a zip, within limits: a bundle may come from anyone.

The size that a file or a zip states is checked before anything is read, and the bytes are counted as they
come.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final

from das2f_map.errors import ModelError
from das2f_map.scene.paths import exists

_DIRECTORY_LIMIT: Final = 1 << 20
"""Most bytes that are read at once of a zip, and so of its list of members: enough for thousands of them."""

_RATIO_LIMIT: Final = 100
"""Most bytes that a byte of a zip may stand for. Weights are packed 1 to 1, cards about 10 to 1."""

_LIST_HINT: Final = "`das2f-map models list` shows the bundled models"
_IMPORT_HINT: Final = (
    "a checkpoint of the published network is turned into a bundle by `das2f-map models import`"
)


def read_member(path: Path, name: str, limit: int) -> bytes:
    """The content of the file ``name`` in a bundle.

    Raises :class:`~das2f_map.errors.ModelError` when the bundle or the file is missing, damaged, no plain
    file, or larger than ``limit`` bytes.
    """
    try:
        if not exists(path):
            raise ModelError(f"model not found: {path}", _LIST_HINT)
        if path.is_dir():
            return read_whole(path / name, limit)
        return _read_zipped(path, name, limit)
    except (FileNotFoundError, KeyError) as error:
        raise ModelError(f"{path} is not a model bundle: it has no {name}", _LIST_HINT) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        # A damaged stream, a password, a compression that Python does not know, a path with a null byte.
        raise ModelError(
            f"{path} is not a model bundle: neither a folder nor a sound zip file", _IMPORT_HINT
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def read_whole(path: Path, limit: int) -> bytes:
    """The content of a plain file.

    Raises :class:`~das2f_map.errors.ModelError` if it is no plain file or has more than ``limit`` bytes;
    ``OSError`` if it cannot be read.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        _require_size(size, limit, str(path))
        content = file.read(size + 1)
    _require_size(len(content), limit, str(path))
    return content


def open_plain(path: Path) -> BufferedReader:
    """A plain file, opened to read.

    Raises :class:`~das2f_map.errors.ModelError` for anything else: reading a pipe or a device may never end.
    ``OSError`` if it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelError(f"{path} is not a plain file", _LIST_HINT)
    return path.open("rb")


class _InParts(BufferedReader):
    """A file that refuses to read much at once, so that a zip's list of members stays small."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY_LIMIT:
            raise zipfile.BadZipFile(f"a part of {size} bytes")
        return super().read(size)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose list of members may have some thousand entries; read its members in parts of 1 MiB.

    Raises ``BadZipFile`` or ``OSError`` if it cannot be read or has more members.
    """
    with open_plain(path) as plain, _InParts(plain.raw) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _read_zipped(path: Path, name: str, limit: int) -> bytes:
    with open_zip(path) as archive:
        member = archive.getinfo(name)
        label = f"{name} in {path}"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python unpacks the others in steps of any size.
            raise ModelError(f"{label} is packed in a way that cannot be read safely", "pack it with deflate")
        _require_size(member.file_size, limit, label)
        if member.file_size > _DIRECTORY_LIMIT + _RATIO_LIMIT * member.compress_size:
            raise ModelError(
                f"{label} says that {member.compress_size:,} bytes unpack to {member.file_size:,}, "
                "which no model does",
                "ask for the bundle again where it comes from",
            )
        parts, size = [], 0
        with archive.open(member) as content:
            while part := content.read(_DIRECTORY_LIMIT):
                size += len(part)
                _require_size(size, limit, label)
                parts.append(part)
    return b"".join(parts)


def _require_size(size: int, limit: int, label: str) -> None:
    if size > limit:
        raise ModelError(
            f"{label} has {size:,} bytes, more than the {limit:,} that it may need",
            "ask for the bundle again where it comes from",
        )
