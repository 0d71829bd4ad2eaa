"""All outputs of a run appear together, complete, or not at all.

A run writes each output under its own name into the output's private folder, and all are renamed when the
run is over. Side files that a driver or this package writes next to an output (``.aux.xml``, ``.qml``,
``.shx``…) go with it because they lie in the same folder. A lock in the folder keeps other runs out. If the
run is killed, the next one on the output finds the folder and puts things right.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from das2f_map.errors import OutputError
from das2f_map.outputs.commit import commit, planned
from das2f_map.outputs.names import (
    BOUND_SUFFIXES,
    is_folder,
    private_path,
    require_local,
    require_utf8,
    siblings,
)
from das2f_map.outputs.private import PrivateFolder
from das2f_map.outputs.recovery import claim
from das2f_map.outputs.write_errors import DISK_FULL, one_line, write_error


class StagedOutputs:
    """Outputs of one run, put into place together when the ``with`` block ends without an exception.

    Parameters
    ----------
    inputs:
        Files the run reads; no output may be one of them.
    overwrite:
        Replace existing outputs. Until the end of the run the old ones stay untouched.
    resume:
        Take over the work files that an earlier run on the same outputs left, instead of removing them.

    Examples
    --------
    >>> with StagedOutputs(inputs=[ms, pan]) as out:      # doctest: +SKIP
    ...     raster = out.stage(Path("landcover.tif"))     # refuses here if it exists
    ...     write(raster)
    """

    def __init__(
        self, *, inputs: Iterable[str | Path] = (), overwrite: bool = False, resume: bool = False
    ) -> None:
        self._inputs = {_identity(Path(p)) for p in inputs}
        self._overwrite, self._resume = overwrite, resume
        self._keep_work = resume
        self._folders: dict[Path, PrivateFolder] = {}
        self._whole: list[PrivateFolder] = []
        self._made: list[Path] = []
        self._worked: list[PrivateFolder] = []
        self._replacing: set[Path] = set()

    def __enter__(self) -> StagedOutputs:
        return self

    @property
    def finals(self) -> tuple[Path, ...]:
        """Final paths of everything staged, in order."""
        return tuple(folder.final for folder in self._folders.values())

    def stage(self, final: Path, *, replace: bool = False) -> Path:
        """Where to write the file that shall end up at ``final``; ``replace`` lets it replace one there.

        Returns
        -------
        Path
            Same file name, in a hidden folder on the same file system.

        Raises
        ------
        OutputError
            ``final`` exists and must not be overwritten, is a folder, is an input or staged already; its
            folder is missing or not writable, or a name is not UTF-8; or another run writes it.
        """
        final = Path(final)
        require_utf8(final)
        if is_folder(final):
            raise OutputError(f"output {final} is a folder", "give the path of a file")
        identity = _identity(final)
        if replace:
            self._replacing.add(identity)
        if identity in self._inputs:
            raise OutputError(f"output {final} is also an input", "choose another output path")
        if identity in self._folders:
            raise OutputError(f"two outputs have the same path {final}", "choose different output paths")
        parent = final.parent
        require_local(final)
        if not is_folder(parent):
            raise OutputError(f"output folder {parent} does not exist", f"make it first: mkdir -p {parent}")
        if not os.path.lexists(private_path(final)):
            # What is to be refused is refused even where no private folder can be made.
            self._require_new(final)
        try:
            return self._place(claim(final, keep_work=self._resume), lambda: self._require_new(final))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise write_error(error, final) from error
            hint = (
                "choose a shorter name"
                if error.errno == errno.ENAMETOOLONG
                else "choose another output folder"
            )
            raise OutputError(f"cannot write into {parent}: {one_line(error)}", hint) from error

    def stage_whole(self, final: Path, check: Callable[[], None]) -> Path:
        """Where to write a file or folder that replaces the one at ``final`` as a whole.

        Parameters
        ----------
        final:
            Missing folders above it are made, and removed if the run fails.
        check:
            Raises an error if what lies at ``final`` must not be replaced. It is called when a killed
            run's files have been put right.

        Returns
        -------
        Path
            Same name, in a hidden folder on the same file system.

        Raises
        ------
        OutputError
            Another run writes ``final``, or its name is not UTF-8.
        OSError
            Its folder cannot be made or written to.
        """
        require_utf8(final)
        for parent in reversed((final.parent, *final.parent.parents)):
            if not os.path.lexists(parent):
                parent.mkdir()
                self._made.append(parent)
        folder = claim(final, keep_work=self._resume)
        self._whole.append(folder)
        return self._place(folder, check)

    def work_folder(self, final: Path) -> Path:
        """The folder of the run's own files in the private folder of an output that is staged.

        The files go away with the run. With ``resume`` the folder holds those that an earlier run left,
        because it was killed or had called :meth:`keep_work`.
        """
        folder = self._folders[_identity(final)]
        folder.work.mkdir(exist_ok=True)
        self._worked.append(folder)
        return folder.work

    def keep_work(self, keep: bool = True) -> None:
        """From now on work files stay if the run fails, so that another run can go on; or they go."""
        self._keep_work = keep

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = False
        try:
            if error is None:
                self._commit()
                complete = True
            elif isinstance(error, OSError) and error.errno in DISK_FULL and self._folders:
                raise write_error(error, self.finals[0]) from error
        finally:
            # The first folder's note decides over what the others hold, so it goes last.
            # Other folders have work files only where an interrupt came while they were removed.
            kept = [] if complete or not self._keep_work else [*self._worked, *[*self._folders.values()][:1]]
            for folder in reversed(self._folders.values()):
                _release(folder, keep_work=folder in kept)
            if not complete:
                with suppress(OSError):
                    for made in reversed(self._made):
                        made.rmdir()

    def _place(self, folder: PrivateFolder, check: Callable[[], None]) -> Path:
        try:
            check()
            folder.staged.mkdir()
        except BaseException:  # an interrupt too
            folder.release(keep_work=self._resume)
            raise
        self._folders[_identity(folder.final)] = folder
        lead, *others = self._folders.values()
        lead.name_members([other.path for other in others])
        return folder.staged / folder.final.name

    def _require_new(self, final: Path, *, though_staged: bool = False) -> None:
        if self._overwrite or _identity(final) in self._replacing:
            return
        bound = {final.with_name(final.name + suffix) for suffix in BOUND_SUFFIXES}
        for path in (final, *siblings(final)):
            # An output of this run says more about itself when it is staged.
            known = _identity(path) in self._folders and not (though_staged and path == final)
            if path not in bound and os.path.lexists(path) and not known:
                raise OutputError(f"output {path} exists already", "use --overwrite to replace it")

    def _commit(self) -> None:
        for folder in self._folders.values():
            # Files that others made during the run are theirs.
            if folder not in self._whole:
                self._require_new(folder.final, though_staged=True)
            staged = folder.staged / folder.final.name
            if not (staged.exists() if folder in self._whole else staged.is_file()):
                raise OutputError(f"output {folder.final} was not written")
        if self._folders:
            commit(planned(self._folders.values(), whole=self._whole))


def _release(folder: PrivateFolder, *, keep_work: bool) -> None:
    """Remove a private folder even if another interrupt comes meanwhile; the first one is on its way."""
    try:
        folder.release(keep_work=keep_work)
    except (KeyboardInterrupt, SystemExit):
        folder.release(keep_work=keep_work)


def _identity(path: Path) -> Path:
    """The file a path leads to, whatever way it is spelled."""
    return path.resolve()
