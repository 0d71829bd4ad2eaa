"""The lock of an output: one run holds it, nobody waits for it, and a killed process leaves it free."""

from __future__ import annotations

import errno
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Error numbers of file systems without locks."""

_TRIES = 100
"""More often than this in a row no lock file is removed just when it is opened."""

# Files of this process are its own affair: some file systems have no locks, or none between the files of
# one process.
_held: set[Path] = set()
_guard = threading.Lock()


class RunLock:
    """The lock that a run holds on a file.

    The file may be removed, but only by the run that holds the lock.

    Parameters
    ----------
    path:
        The lock file, in a folder that exists; without links, so that one file has one path.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: FileLock | None = None
        self._holds = False

    def acquire(self) -> bool:
        """Take the lock if it is free; whether it was. A warning says so where the file system has no locks.

        Raises
        ------
        OSError
            The file cannot be made or opened; ``FileNotFoundError`` where its folder is gone.
        """
        with _guard:
            if self._path in _held:
                return False
            _held.add(self._path)
        try:
            self._holds = self._take()
        finally:
            if not self._holds:
                with _guard:
                    _held.discard(self._path)
        return self._holds

    def release(self) -> None:
        """Give the lock back. A lock that is not held stays as it is."""
        if not self._holds:
            return
        lock, self._lock, self._holds = self._lock, None, False
        if lock is not None:
            with suppress(OSError):  # the system takes it back when the process ends
                lock.release()
        with _guard:
            _held.discard(self._path)

    def _take(self) -> bool:
        for _ in range(_TRIES):
            # Opened before the lock is taken and still at this path afterwards: then it is the file that was
            # locked. Otherwise its owner has removed it meanwhile, and a lock on it keeps nobody out.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self._path, flags, 0o666)
            try:
                # Soft locks stay when a process is killed.
                lock = FileLock(self._path, thread_local=False, fallback_to_soft=False)
                try:
                    lock.acquire(blocking=False)
                    got = True
                except Timeout:
                    got = False
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    log.warning(
                        "The file system of %s has no locks: make sure that no other run writes there",
                        self._path.parent.parent,
                    )
                    return True
                if self._is_file(descriptor):
                    self._lock = lock if got else None
                    return got
                if got:
                    lock.release()
            finally:
                os.close(descriptor)
        return False

    def _is_file(self, descriptor: int) -> bool:
        """Whether an open file is the one at the path."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False
