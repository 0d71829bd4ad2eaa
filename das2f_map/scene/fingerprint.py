"""A file's size and checksum, by which a later run knows it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from das2f_map.scene.paths import is_file, is_local
from das2f_map.scene.vector_path import local_file

WHOLE_BYTES: Final = 256 << 20
"""Size up to which a file is read as a whole."""
_PIECE: Final = 1 << 20
_CHUNK: Final = 4 << 20


@dataclass(frozen=True)
class Fingerprint:
    """Size and checksum of a file.

    Attributes
    ----------
    bytes:
        Its size; ``None`` for an address, and for a file that cannot be read.
    sha256:
        SHA-256, hexadecimal: of the whole file up to 256 MiB. Of a larger one of its size and 256 pieces of
        1 MiB at even distances, the first and the last among them: reading all would take minutes.
    """

    bytes: int | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, path: str | Path) -> Fingerprint:
        """The file as it is now; empty for an address, a folder and a file that cannot be read."""
        file = Path(local_file(str(path)))
        if not is_local(file) or not is_file(file):
            return cls()
        try:
            size = file.stat().st_size
            return cls(size, sha256_of(file) if size <= WHOLE_BYTES else _sampled(file, size))
        except OSError:
            return cls()


def sha256_of(file: Path) -> str:
    """SHA-256 of a whole file, hexadecimal. Raises ``OSError`` if it cannot be read."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sampled(file: Path, size: int) -> str:
    pieces = WHOLE_BYTES // _PIECE
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for i in range(pieces):
            opened.seek((size - _PIECE) * i // (pieces - 1))
            digest.update(opened.read(_PIECE))
    return digest.hexdigest()
