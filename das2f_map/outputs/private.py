"""The private folder of an output: where a run keeps its files until they are complete."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from das2f_map.errors import OutputError
from das2f_map.outputs.locks import RunLock
from das2f_map.outputs.names import WORK_NAME, final_path, has_private_name, is_folder, private_path
from das2f_map.outputs.whole_files import partial_path

_LOCK, _MARKER = "lock", "das2f-map.txt"
_SIGNATURE = (
    b"das2f-map keeps the files of an unfinished run here. Its next run on this output removes them.\n"
)
_LOOKS, _BETWEEN_LOOKS = 5, 0.002
"""So often, and this many seconds apart, a folder has to look like somebody else's to be taken for it."""
_TRIES = 100
"""More often than this in a row no folder is removed just when it is looked at."""

_begun = False


def has_begun() -> bool:
    """Whether this process has held a private folder, so that files of it may be half written."""
    return _begun


class PrivateFolder:
    """The private folder of one output. A run holds it by its lock.

    Parameters
    ----------
    final:
        The output, as errors name it.

    Attributes
    ----------
    final:
        As given.
    path:
        The folder.
    target:
        The output, without links in its folder's path.
    staged:
        The output and its side files, until they are put into place.
    replaced:
        What they replace, while they are put into place.
    work:
        Files that only the run needs.
    note:
        Says what is moved while outputs are put into place, see :mod:`das2f_map.outputs.commit`.
    settled:
        Whether ``replaced`` holds nothing that is still needed.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = private_path(final)
        self.target = final_path(self.path)
        self.staged, self.replaced = self.path / "staged", self.path / "replaced"
        self.work, self.note = self.path / WORK_NAME, self.path / "commit.json"
        self._members = self.path / "members.json"
        self.settled = True
        self._lock = RunLock(self.path / _LOCK)

    def hold(self) -> None:
        """Make the folder if need be, and lock it. What lies in it stays.

        Raises
        ------
        OutputError
            Another run writes the output, or something else has the folder's name.
        OSError
            The folder cannot be made or locked; ``FileNotFoundError`` where the output's folder is missing.
        """
        global _begun
        _begun = True
        for _ in range(_TRIES):
            try:
                with suppress(FileExistsError):
                    self.path.mkdir()
                if not _is_ours(self.path):
                    raise OutputError(
                        f"{self.path} is in the way: the unfinished files of {self.final.name} have to go "
                        "there, and it holds something else",
                        "move it, or choose another output path",
                    )
                free = self._lock.acquire()
                break
            except (FileNotFoundError, FileExistsError):
                # Its owner removed it between two of these steps. The other error comes from code that makes
                # the folder of a lock file and finds it gone when it looks again.
                if not self.path.parent.is_dir():
                    raise
            except OSError:
                with suppress(OSError):
                    self.path.rmdir()  # unless there is something in it
                raise
        else:
            free = False
        if not free:
            raise OutputError(
                f"output {self.final} is being written by another run",
                "wait until that run has ended, or choose another output path",
            )
        try:
            marker = self.path / _MARKER
            if not marker.is_file() or marker.stat().st_size != len(_SIGNATURE):
                marker.write_bytes(_SIGNATURE)
        except BaseException:  # an interrupt too
            self.release()
            raise

    def name_members(self, paths: Sequence[Path]) -> None:
        """Note the private folders of the run's other outputs: the next run empties them after a kill."""
        if paths:
            text = json.dumps([os.path.relpath(path, self.path) for path in paths])
            self._members.write_text(text, encoding="utf-8")

    def members(self) -> list[Path]:
        """The private folders that were noted; none if there is no note, or a damaged one."""
        try:
            named = json.loads(self._members.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        if not isinstance(named, list):
            return []
        return [Path(os.path.normpath(self.path / name)) for name in named if isinstance(name, str)]

    def leftovers(self) -> list[Path]:
        """The paths in the folder that runs have left there; other files are not listed."""
        known = (self.staged, self.replaced, self.work, self.note, partial_path(self.note))
        return [path for path in known if os.path.lexists(path)]

    def clear(self, *, keep_work: bool = False) -> None:
        """Remove the files that runs have left in the folder; the folder stays. Raises ``OSError``."""
        for folder in (self.staged, self.replaced, *([] if keep_work else [self.work])):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
        # The note comes last: it says that what was replaced is of no use any more.
        for file in (self._members, partial_path(self.note), self.note):
            file.unlink(missing_ok=True)

    def release(self, *, keep_work: bool = False) -> None:
        """Remove the folder and give up its lock.

        Parameters
        ----------
        keep_work:
            Leave the folder if there are work files in it.
        """
        try:
            # The outputs are in place, or an error is on its way to the user: neither is to be hidden. The
            # next run on the output tries again.
            with suppress(OSError):
                if self.settled:
                    self._remove(keep_work)
        finally:
            self._lock.release()

    def unlock(self) -> None:
        """Give up the lock, and leave everything as it is."""
        self._lock.release()

    def _remove(self, keep_work: bool) -> None:
        keep_work = keep_work and self.work.is_dir() and any(self.work.iterdir())
        self.clear(keep_work=keep_work)
        if not keep_work:
            # In this order: at any moment it can be told whose folder this is.
            (self.path / _MARKER).unlink(missing_ok=True)
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()


def existing_private(path: Path) -> PrivateFolder | None:
    """The private folder at a path, held; ``None`` if there is none of this package.

    Raises
    ------
    OutputError
        Another run holds it.
    """
    try:
        if not has_private_name(path) or not is_folder(path) or not _is_ours(path):
            return None
    except FileNotFoundError:  # its owner removes it right now
        return None
    folder = PrivateFolder(final_path(path))
    folder.hold()
    return folder


def _is_ours(path: Path) -> bool:
    """Whether this package made a folder. Raises ``FileNotFoundError`` if it is gone."""
    # Between two steps of one look a folder may go and come again, and then the look mixes two folders. A
    # folder of somebody else looks the same every time.
    for _ in range(_LOOKS):
        if _looks_ours(path):
            return True
        time.sleep(_BETWEEN_LOOKS)
    return False


def _looks_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        return False
    for _ in range(_TRIES):
        names = {p.name for p in path.iterdir()}
        try:
            if _MARKER in names:
                begun = (path / _MARKER).read_bytes()
                # It may be being written right now.
                return begun == _SIGNATURE or (names <= {_LOCK, _MARKER} and _SIGNATURE.startswith(begun))
            # A run that makes or removes the folder right now, or was killed then.
            return not names or (names == {_LOCK} and (path / _LOCK).stat().st_size == 0)
        except FileNotFoundError:
            continue  # its owner removed it meanwhile
    return False
