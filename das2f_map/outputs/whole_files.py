"""Files that are whole or as they were, after a crash and a power cut too."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CANNOT_FLUSH = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM)
"""Error numbers of files that the system has no way, or no right, to flush; they say nothing of the data."""


def partial_path(path: Path) -> Path:
    """Where a file is written until it is complete."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def written_whole(path: Path, *, by_me: bool = True) -> Iterator[Path]:
    """The path to write a file under; it takes the place of ``path`` when the ``with`` block ends.

    Parameters
    ----------
    path:
        The file: as it was before, until then, and if the block raises.
    by_me:
        False in those of several processes that take part but write nothing.

    Raises
    ------
    OSError
        The file cannot be flushed to the disk or put into place.
    """
    partial = partial_path(path)
    try:
        yield partial
        if by_me:
            flush(partial)
            partial.replace(path)
            flush_folder(path.parent)
    except BaseException:  # an interrupt too
        if by_me:
            with suppress(OSError):  # the error on its way to the user counts
                partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Have a file, or all files of a folder, on the disk. Raises ``OSError`` when data cannot get there."""
    if path.is_symlink() or not path.exists():
        return
    if path.is_dir():
        for inner in path.iterdir():
            flush(inner)
        flush_folder(path)
    else:
        _flush(path, os.O_RDONLY)


def flush_folder(path: Path) -> None:
    """Have the names of a folder's files on the disk."""
    _flush(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))


def _flush(path: Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
