"""Files that only a run needs: those that go away with it, and a state that it can be resumed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from das2f_map.outputs.names import WORK_NAME, enclosing_private
from das2f_map.outputs.recovery import claim
from das2f_map.outputs.whole_files import partial_path, written_whole
from das2f_map.outputs.write_errors import write_error

MOST_HELD: Final = 8 << 20
"""Bytes that wait in memory before they go to a file."""


def waiting_values(folder: Path | None) -> IO[bytes]:
    """A file without a name, for values that wait until they are needed; it goes away when it is closed.

    Up to :data:`MOST_HELD` bytes stay in memory.

    Parameters
    ----------
    folder:
        Where the file lies; ``None`` for the system's folder of temporary files.
    """
    return SpooledTemporaryFile(max_size=MOST_HELD, dir=None if folder is None else str(folder))


@contextmanager
def work_folder(destination: Path, given: Path | None = None) -> Iterator[Path]:
    """A folder for work files, on the file system of the file that they are made for.

    Parameters
    ----------
    destination:
        The file. One that a run has staged has its work files in the same private folder, where
        :meth:`StagedOutputs.work_folder` finds them; they go away with the run. Any other file gets a
        private folder until the ``with`` block ends.
    given:
        The folder to take instead.

    Raises
    ------
    OutputError
        The folder cannot be made, or another run writes the destination.
    """
    if given is not None:
        yield given
        return
    private, claimed = enclosing_private(destination), None
    try:
        try:
            if private is None:
                claimed = claim(destination)
                private = claimed.path
            work = private / WORK_NAME
            work.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(error, destination) from error
        yield work
    finally:
        if claimed is not None:
            claimed.release()


class StateFolder:
    """A visible folder with the state that a run can be resumed from.

    Parameters
    ----------
    path:
        The folder; it need not exist.
    names:
        Names of the state's files, that which is written first ahead. Nothing else in the folder is ever
        touched.
    recognised:
        Whether the files in the folder are such a state; others may have the same names.
    """

    def __init__(self, path: Path, names: Sequence[str], recognised: Callable[[], bool]) -> None:
        self.path = path
        self._names, self._recognised = names, recognised

    def is_free(self) -> bool:
        """Whether a state can go there: nothing lies there, or a state that may be discarded."""
        if not self.path.exists() and not self.path.is_symlink():
            return True
        if not self.path.is_dir():
            return False
        # A run that ended before its first file was complete leaves nothing, or a part of it.
        begun = partial_path(self.path / self._names[0])
        return all(path == begun for path in self.path.iterdir()) or self._recognised()

    def written(self, name: str) -> AbstractContextManager[Path]:
        """The path to write one of the state's files under; see :func:`whole_files.written_whole`."""
        return written_whole(self.path / name)

    def discard(self) -> None:
        """Remove the state, and the folder if there is nothing else in it. Raises ``OSError``."""
        for name in self._names:
            partial_path(self.path / name).unlink(missing_ok=True)
            (self.path / name).unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()
