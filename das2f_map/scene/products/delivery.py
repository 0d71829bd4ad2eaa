"""The files of a delivery: a folder or an archive, listed but not unpacked."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from das2f_map.errors import InputError
from das2f_map.scene.paths import image_path

LARGEST_TEXT = 16 * 1024 * 1024
"""Bytes of a metadata file; larger ones are not read."""

_ALL_TEXTS = 4 * LARGEST_TEXT
"""Bytes of all metadata files that are kept of an archive."""

_MOST_FILES = 20_000
_DEEPEST = 4
"""Folders below each other that are searched."""

_TEXTS = (".txt", ".xml", ".json", ".geojson", ".imd")
"""Extensions of metadata files, small letters."""

_TAR = (".tar", ".tar.gz", ".tgz")
ARCHIVES = (".zip", *_TAR)
"""Extensions of archives."""


@dataclass(frozen=True)
class Delivery:
    """Files that were delivered together.

    Attributes
    ----------
    place:
        The folder or the archive, as the user names it.
    names:
        Files inside, relative, with ``/`` between folders, in order.
    archive:
        Whether ``place`` is an archive.
    """

    place: str
    names: tuple[str, ...]
    archive: bool
    _prefix: str
    _texts: dict[str, bytes] = field(repr=False, compare=False)

    @classmethod
    def of_folder(cls, folder: str) -> Delivery:
        """The files in a folder and in those below it.

        Raises ``InputError`` if the folder cannot be read or has too many files.
        """
        names = sorted(_limited(_walk(Path(folder)), folder))
        return cls(folder, tuple(names), False, "" if folder in ("", ".") else f"{folder.rstrip('/')}/", {})

    @classmethod
    def of_archive(cls, path: str) -> Delivery:
        """The files in a zip or tar archive, which is not unpacked.

        Raises ``InputError`` if the archive is damaged, cut short, or has too many files.
        """
        if path.count("{") != path.count("}"):
            raise InputError(
                f"archive {path} has a brace in its name, which GDAL takes for its own", "rename it"
            )
        read, system = (_read_zip, "vsizip") if path.lower().endswith(".zip") else (_read_tar, "vsitar")
        texts: dict[str, bytes] = {}
        try:
            names = sorted(_limited(read(path, _keeper(texts)), path))
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise InputError(
                f"archive {path} cannot be read: {reason}", "it seems to be damaged, cut short or encrypted"
            ) from error
        return cls(path, tuple(names), True, f"/{system}/{{{image_path(path)}}}/", texts)

    def path(self, name: str) -> str:
        """A file as GDAL opens it."""
        return f"{self._prefix}{name}"

    def files(self, names: Iterable[str]) -> tuple[str, ...]:
        """The files on disk that reading these needs: themselves, or the archive."""
        return (self.place,) if self.archive else tuple(dict.fromkeys(self.path(n) for n in names))

    def text(self, name: str) -> bytes:
        """The content of a metadata file. Raises ``InputError`` if it is too large or cannot be read."""
        label = self.path(name)
        if self.archive:
            if name not in self._texts:
                raise InputError(f"metadata file {label} is too large, or no metadata file")
            return self._texts[name]
        return read_text(label)

    def below(self, folder: str) -> str | None:
        """A name relative to this delivery's root, for a path of a folder inside; ``None`` if outside."""
        relative = os.path.relpath(folder, self.place)
        return None if relative.startswith("..") else relative


def read_text(path: str) -> bytes:
    """The content of a metadata file. Raises ``InputError`` if it is too large or cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return at_most(file, path)
    except OSError as error:
        raise InputError(f"metadata file {path} cannot be read: {error.strerror}") from error


def at_most(file: IO[bytes], label: str) -> bytes:
    """The rest of an open file. Raises ``InputError`` if it is larger than metadata are."""
    content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise InputError(f"{label} is larger than {LARGEST_TEXT:,} bytes: no metadata file of a product")
    return content


def is_archive(path: str) -> bool:
    """Whether a file has the extension of an archive."""
    return path.lower().endswith(ARCHIVES)


def _limited(names: Iterable[str], place: str) -> list[str]:
    found = []
    for name in names:
        found.append(name)
        if len(found) > _MOST_FILES:
            raise InputError(
                f"{place} has more than {_MOST_FILES:,} files: no product has that many",
                "name the product's own folder",
            )
    return found


def _walk(root: Path) -> Iterator[str]:
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"folder {root} cannot be read", "check its permissions")
    for folder, below, files in os.walk(root):
        inner = Path(folder).relative_to(root)
        below[:] = sorted(b for b in below if not b.startswith(".")) if len(inner.parts) < _DEEPEST else []
        yield from ((inner / f).as_posix() for f in files if not f.startswith("."))


_Keep = Callable[[str, int, Callable[[], IO[bytes] | None]], None]


def _keeper(texts: dict[str, bytes]) -> _Keep:
    """A function that keeps the text of a member: name, size, and how to open it."""

    def keep(name: str, size: int, open_member: Callable[[], IO[bytes] | None]) -> None:
        room = _ALL_TEXTS - sum(map(len, texts.values()))
        if not name.lower().endswith(_TEXTS) or size > min(LARGEST_TEXT, room):
            return
        member = open_member()
        if member is not None:
            with member:
                # The size that an archive states may be wrong.
                content = member.read(LARGEST_TEXT + 1)
            if len(content) <= min(LARGEST_TEXT, room):
                texts[name] = content

    return keep


def _read_zip(path: str, keep: _Keep) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir() or not _is_inside(member.filename):
                continue
            yield member.filename
            keep(member.filename, member.file_size, partial(archive.open, member))


def _read_tar(path: str, keep: _Keep) -> Iterator[str]:
    # One pass: to go back in a compressed archive means to read it from its start.
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not member.isfile() or not _is_inside(name):
                continue
            yield name
            keep(name, member.size, partial(archive.extractfile, member))


def _is_inside(name: str) -> bool:
    """Whether a member's name leads to a place inside its archive."""
    return not name.startswith("/") and ".." not in name.split("/")
