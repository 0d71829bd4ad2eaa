"""All outputs of a run appear together, complete, or not at all.

Outputs are written under their own names into a private folder beside their final place, and
renamed when the run is over. Side files that a driver or this package writes next to an output
(``.aux.xml``, ``.qml``, ``.shx``…) travel with it because they lie in the same private folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import rasterio.errors
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError
from rasterio._err import CPLE_BaseError

from das2f_map.errors import OutputError
from das2f_map.outputs.libtiff_messages import libtiff_kept_quiet

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEARLY_NOTHING = 64 * 1024 * 1024
"""Bytes left on a disk below which a failed write is put down to a full disk; as much as a batch of
polygons takes, which SQLite gives back when it fails."""

WRITE_ERRORS = (
    OSError,
    CPLE_BaseError,
    rasterio.errors.RasterioError,
    DataSourceError,
    DataLayerError,
    FeatureError,
    FieldError,
    sqlite3.Error,
)
"""What a failed write raises: GDAL's errors come in several wrappings, ``CPLE_BaseError`` is the bare one."""

# Files that belong to an output because readers pick them up by name. An old one beside a new
# output would lie: a colour table, a style or a spatial index of other data.
_BOUND_SUFFIXES = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")
_SIBLING_EXTENSIONS = {
    ".tif": (".qml",),
    ".tiff": (".qml",),
    ".shp": (".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx", ".idm", ".ind", ".qpj", ".qml"),
    ".geojson": (".qml",),
    ".json": (),
    ".fgb": (".qml",),
    ".parquet": (".qml",),
}


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether a failed write comes from a full disk, as the error says or as the disk shows."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            return True
        text = str(cause).lower()
        if "no space left" in text or "disk is full" in text or "disk quota" in text:
            return True
        cause = cause.__cause__ or cause.__context__
    # GDAL loses errno on its way up ("TIFFAppendToStrip:Write error at scanline 1024").
    try:
        return shutil.disk_usage(folder).free < _NEARLY_NOTHING
    except OSError:
        return False


def write_error(error: BaseException, path: Path) -> OutputError:
    """The error to show for a write to ``path`` that failed."""
    if disk_is_full(error, path.parent):
        return OutputError(
            f"cannot write {path.name}: the disk of {_shown(path)} is full",
            "free some space or choose an output on another disk",
        )
    return OutputError(f"cannot write {path.name} in {_shown(path)}: {_one_line(error)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what GDAL, GEOS and the system raise while ``path`` is written into an :class:`OutputError`."""
    try:
        with libtiff_kept_quiet():
            yield
    except WRITE_ERRORS as error:
        raise write_error(error, path) from error


def siblings(path: Path) -> list[Path]:
    """Every path that readers would take as belonging to ``path``, existing or not."""
    bound = [path.with_name(path.name + suffix) for suffix in _BOUND_SUFFIXES]
    return bound + [path.with_suffix(e) for e in _SIBLING_EXTENSIONS.get(path.suffix.lower(), ())]


class StagedOutputs:
    """Outputs of one run, put into place together when the ``with`` block ends without an exception.

    Parameters
    ----------
    inputs:
        Files the run reads; no output may be one of them.
    overwrite:
        Replace existing outputs. Until the end of the run the old ones stay untouched.

    Examples
    --------
    >>> with StagedOutputs(inputs=[ms, pan]) as out:      # doctest: +SKIP
    ...     raster = out.stage(Path("landcover.tif"))     # refuses here if it exists
    ...     write(raster)
    """

    def __init__(self, *, inputs: Iterable[str | Path] = (), overwrite: bool = False) -> None:
        self._inputs = {_identity(Path(p)) for p in inputs}
        self._overwrite = overwrite
        self._folders: dict[Path, Path] = {}
        self._finals: list[Path] = []

    def __enter__(self) -> StagedOutputs:
        return self

    @property
    def finals(self) -> tuple[Path, ...]:
        """Final paths of everything staged, in order."""
        return tuple(self._finals)

    def stage(self, final: Path) -> Path:
        """Where to write what shall end up at ``final``.

        Returns
        -------
        Path
            Same file name, in a hidden folder on the same file system.

        Raises
        ------
        OutputError
            ``final`` exists and must not be overwritten, is a folder, is an input or staged
            already, or its folder is missing or not writable.
        """
        final = Path(final)
        if final.is_dir():
            raise OutputError(f"output {final} is a folder", "give the path of a file")
        identity = _identity(final)
        if identity in self._inputs:
            raise OutputError(f"output {final} is also an input", "choose another output path")
        if identity in {_identity(p) for p in self._finals}:
            raise OutputError(f"two outputs have the same path {final}", "choose different output paths")
        if not self._overwrite:
            bound = {final.with_name(final.name + suffix) for suffix in _BOUND_SUFFIXES}
            for path in (final, *siblings(final)):
                if path not in bound and os.path.lexists(path) and not self._ours(path):
                    raise OutputError(f"output {path} exists already", "use --overwrite to replace it")
        folder = self._private_folder(final)
        self._finals.append(final)
        return folder / final.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
            elif isinstance(error, OSError) and error.errno in _DISK_FULL and self._finals:
                raise write_error(error, self._finals[0]) from error
        finally:
            for folder in self._folders.values():
                # The outputs are in place, or an error is on its way to the user: neither is to be hidden.
                shutil.rmtree(folder, ignore_errors=True)

    def _ours(self, path: Path) -> bool:
        """Whether ``path`` is one of the outputs of this run, which says more about it when staged itself."""
        return _identity(path) in {_identity(p) for p in self._finals}

    def _private_folder(self, final: Path) -> Path:
        parent = final.parent
        key = parent.resolve()
        if key not in self._folders:
            if not parent.is_dir():
                raise OutputError(
                    f"output folder {parent} does not exist", f"make it first: mkdir -p {parent}"
                )
            try:
                self._folders[key] = Path(tempfile.mkdtemp(prefix=".das2f-map-", dir=parent))
            except OSError as error:
                if error.errno in _DISK_FULL:
                    raise write_error(error, final) from error
                raise OutputError(
                    f"cannot write into {parent}: {error.strerror or error}", "choose another output folder"
                ) from error
        return self._folders[key]

    def _commit(self) -> None:
        for final in self._finals:
            staged = self._folders[final.parent.resolve()] / final.name
            if not staged.is_file():
                raise OutputError(f"output {final} was not written")
        done: list[tuple[Path, Path]] = []
        try:
            for final in self._finals:
                folder = self._folders[final.parent.resolve()]
                keep = folder / "replaced"
                keep.mkdir(exist_ok=True)
                for old in (final, *siblings(final)):
                    if os.path.lexists(old):
                        _move(old, keep / old.name, done)
            for parent, folder in self._folders.items():
                # Side files first: whoever sees the main file sees a complete one.
                mains = {f.name for f in self._finals if f.parent.resolve() == parent}
                produced = [p for p in folder.iterdir() if p.name != "replaced"]
                for path in sorted(produced, key=lambda p: (p.name in mains, p.name)):
                    _move(path, parent / path.name, done)
        except BaseException as error:  # an interrupt too: nothing half done stays
            self._undo(done, error)
            if isinstance(error, OSError):
                raise write_error(error, self._finals[0]) from error
            raise

    def _undo(self, done: list[tuple[Path, Path]], error: BaseException) -> None:
        """Move everything back; the private folder of an old file that cannot go back is kept."""
        stranded: set[Path] = set()
        for source, target in reversed(done):
            try:
                target.replace(source)
            except OSError:
                if target.parent.name == "replaced":
                    stranded.add(target.parent.parent)
        if stranded:
            self._folders = {p: f for p, f in self._folders.items() if f not in stranded}
            kept = ", ".join(str(f / "replaced") for f in sorted(stranded))
            raise OutputError(
                f"cannot put outputs into place ({_one_line(error)}) nor old ones back: they are in {kept}",
                "move them back yourself",
            ) from error


def _move(source: Path, target: Path, done: list[tuple[Path, Path]]) -> None:
    source.replace(target)
    done.append((source, target))


def _identity(path: Path) -> Path:
    """The file a path leads to, whatever way it is spelled."""
    return path.resolve()


def _shown(path: Path) -> Path:
    """The folder a user knows: a private folder's parent."""
    return path.parent.parent if path.parent.name.startswith(".das2f-map-") else path.parent


def _one_line(error: BaseException) -> str:
    text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    # "See previous exception for details" helps nobody; the details are the cause.
    if error.__cause__ is not None and ("previous" in text or not text):
        text = str(error.__cause__)
    return " ".join(text.split()) or type(error).__name__
