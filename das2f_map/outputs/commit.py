"""Put the outputs of a run into place: all of them or none, even if the process is killed meanwhile.

Old files are moved into private folders, and new files out of them, by renaming. Before the first move a note
of the moves is written into every private folder. The first folder is the lead: its note is written last and
says how far the commit has come.

- No lead's note: no file was moved, or all moves were undone. Notes in other folders do not count.
- A lead's note that is not done: some files may have been moved. The notes say how to move them back.
- A lead's note that is done: the outputs are in place. The old files may be removed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from das2f_map.errors import OutputError
from das2f_map.outputs.names import final_path, has_private_name, siblings
from das2f_map.outputs.private import PrivateFolder
from das2f_map.outputs.whole_files import flush, flush_folder, written_whole
from das2f_map.outputs.write_errors import one_line, write_error

_CLOCK_NS = 2_000_000_000
"""Some file systems keep times to two seconds."""


class NewFile(BaseModel):
    """A staged file or folder: name, size and time, to recognise it after it was moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    """Bytes, of all files in a folder."""
    mtime_ns: int
    """Of the file, or the newest one in the folder."""

    @classmethod
    def of(cls, path: Path) -> NewFile:
        """The file or folder at a path."""
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        found = [file.lstat() for file in files]
        return cls(
            name=path.name,
            size=sum(f.st_size for f in found),
            mtime_ns=max((f.st_mtime_ns for f in found), default=0),
        )

    def is_at(self, path: Path) -> bool:
        """Whether the file or folder at a path is this one, by size and time."""
        if not os.path.lexists(path):
            return False
        there = NewFile.of(path)
        return there.size == self.size and abs(there.mtime_ns - self.mtime_ns) <= _CLOCK_NS


class Note(BaseModel):
    """The moves into and out of one private folder, as a file on the disk.

    Attributes
    ----------
    run:
        Identifier of the commit; all its notes have the same.
    lead:
        The lead's private folder, as a path from this one.
    members:
        All private folders of the commit, as paths from this one. Only the lead's note has them.
    old:
        Names of the old files. They are moved from the output's folder into the private folder.
    new:
        The new files. They are moved from the private folder into the output's folder.
    done:
        Whether all moves are done. Only the lead's note says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    lead: str
    members: tuple[str, ...] = ()
    old: tuple[str, ...]
    new: tuple[NewFile, ...]
    done: bool = False

    def write(self, folder: PrivateFolder) -> None:
        """Write the note into a private folder, through to the disk. Raises ``OSError``."""
        with written_whole(folder.note) as partial:
            partial.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def at(cls, private: Path) -> Note | None:
        """The note in a private folder; ``None`` if there is none or it is damaged."""
        if not has_private_name(private):
            return None
        try:
            note = cls.model_validate_json(PrivateFolder(final_path(private)).note.read_bytes())
        except (OSError, ValidationError):
            return None
        names = [*note.old, *(new.name for new in note.new)]
        return note if all(name == Path(name).name for name in names) else None


@dataclass
class Part:
    """The moves of one private folder: ``old`` files go into it, ``new`` files out of it."""

    folder: PrivateFolder
    old: list[str] = field(default_factory=list)
    new: list[NewFile] = field(default_factory=list)

    def in_place(self, name: str) -> Path:
        """The final path of a file of this part."""
        return self.folder.target.with_name(name)


def planned(folders: Iterable[PrivateFolder], *, whole: Collection[PrivateFolder] = ()) -> list[Part]:
    """The moves that put all staged files of some private folders into place.

    Parameters
    ----------
    folders:
        In the order in which they were staged. If two side files have the same final path, the later one
        is taken.
    whole:
        The folders whose output has no side files. For all others, the old output's side files are moved
        away with it.
    """
    parts = [Part(folder) for folder in folders]
    mains = {part.folder.target for part in parts}
    owners: dict[Path, Part] = {}
    for part in parts:
        for name in sorted(p.name for p in part.folder.staged.iterdir()):
            place = part.in_place(name)
            if place == part.folder.target or place not in mains:
                owners[place] = part
    for place, part in owners.items():
        part.new.append(NewFile.of(part.folder.staged / place.name))
    seen: set[Path] = set()
    for part in parts:
        main = part.folder.target
        places = [
            main,
            *([] if part.folder in whole else siblings(main)),
            *(part.in_place(n.name) for n in part.new),
        ]
        for place in places:
            if place not in seen and os.path.lexists(place):
                part.old.append(place.name)
            seen.add(place)
    return parts


def commit(parts: Sequence[Part]) -> None:
    """Make all moves; if one fails, undo those that were made. The first part's folder is the lead.

    Raises
    ------
    OutputError
        A file cannot be moved; the moves before it were undone. If an old file cannot be moved back, the
        error names the folder that holds it, and the next run on the output tries again.
    """
    lead = parts[0].folder
    try:
        for part in parts:
            for new in part.new:
                flush(part.folder.staged / new.name)
        notes = _write_notes(parts)
    except OSError as error:
        raise write_error(error, lead.final) from error
    try:
        for part in parts:
            part.folder.settled = False
        _move(parts)
        notes[0].model_copy(update={"done": True}).write(lead)
        _settle(parts)
    except BaseException as error:  # an interrupt too: nothing half done stays
        note = Note.at(lead.path)
        if note is not None and note.done:
            _settle(parts)
            raise
        kept = roll_back(parts)
        if kept:
            raise OutputError(
                f"cannot put outputs into place ({one_line(error)}) nor old ones back: "
                f"they are in {', '.join(map(str, kept))}",
                "move them back yourself",
            ) from error
        lead.note.unlink(missing_ok=True)
        _settle(parts)
        if isinstance(error, OSError):
            raise write_error(error, lead.final) from error
        raise


def roll_back(parts: Sequence[Part]) -> list[Path]:
    """Undo the moves that were made. Returns the folders with old files that could not be moved back.

    A file that the run did not write stays where it is.
    """
    kept: dict[Path, None] = {}
    for part in parts:
        for new in reversed(part.new):
            staged, place = part.folder.staged / new.name, part.in_place(new.name)
            if not os.path.lexists(staged) and new.is_at(place):
                try:
                    staged.parent.mkdir(exist_ok=True)
                    place.replace(staged)
                except OSError:
                    continue  # if it blocks an old file's path, the loop below reports that
    for part in parts:
        for name in reversed(part.old):
            old, place = part.folder.replaced / name, part.in_place(name)
            if not os.path.lexists(old):
                continue
            try:
                if os.path.lexists(place):
                    raise FileExistsError(place)
                old.replace(place)
            except OSError:
                kept[part.folder.replaced] = None
    return list(kept)


def _write_notes(parts: Sequence[Part]) -> list[Note]:
    lead, run = parts[0].folder, uuid.uuid4().hex
    notes = [
        Note(
            run=run,
            lead=os.path.relpath(lead.path, part.folder.path),
            members=tuple(os.path.relpath(p.folder.path, lead.path) for p in parts) if i == 0 else (),
            old=tuple(part.old),
            new=tuple(part.new),
        )
        for i, part in enumerate(parts)
    ]
    for part, note in reversed(list(zip(parts, notes, strict=True))):
        note.write(part.folder)
    return notes


def _move(parts: Sequence[Part]) -> None:
    for part in parts:
        for name in part.old:
            part.folder.replaced.mkdir(exist_ok=True)
            part.in_place(name).replace(part.folder.replaced / name)
    # Side files first: whoever sees the main file sees a complete one.
    for main in (False, True):
        for part in parts:
            for new in part.new:
                if (part.in_place(new.name) == part.folder.target) == main:
                    (part.folder.staged / new.name).replace(part.in_place(new.name))
    for folder in dict.fromkeys(part.folder.target.parent for part in parts):
        flush_folder(folder)


def _settle(parts: Sequence[Part]) -> None:
    for part in parts:
        part.folder.settled = True
