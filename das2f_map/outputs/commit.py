"""Putting the outputs of a run into place: all of them or none, even if the process is killed meanwhile.

Old files are moved away and new ones into their places, by renaming. Before the first move every private
folder gets a note of its moves on the disk, that of the first folder (the lead) last. While the lead's note
is there, the moves are under way and can be undone; once it says that they are done, the outputs are in
place, and what they replaced may go. A note without the lead's is one whose moves have not begun, or have
been undone.
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
    """A staged file or folder, as it can be recognised in its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    """Bytes; -1 for a folder."""
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> NewFile:
        """The file or folder at a path."""
        found = path.lstat()
        folder = path.is_dir() and not path.is_symlink()
        return cls(name=path.name, size=-1 if folder else found.st_size, mtime_ns=found.st_mtime_ns)

    def is_at(self, path: Path) -> bool:
        """Whether this is what lies at a path."""
        if not os.path.lexists(path):
            return False
        there = NewFile.of(path)
        return there.size == self.size and abs(there.mtime_ns - self.mtime_ns) <= _CLOCK_NS


class Note(BaseModel):
    """What is moved through one private folder.

    Attributes
    ----------
    run:
        The same in all notes of a commit, and in no other.
    lead:
        Private folder with the lead's note, as a path from this one.
    members:
        All private folders of the commit, as paths from this one; the lead's note only.
    old:
        Names of the files that are moved away, from beside the private folder into it.
    new:
        Files that are moved the other way.
    done:
        Whether all moves are done; the lead's note only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    lead: str
    members: tuple[str, ...] = ()
    old: tuple[str, ...]
    new: tuple[NewFile, ...]
    done: bool = False

    def write(self, folder: PrivateFolder) -> None:
        """Have the note on the disk. Raises ``OSError``."""
        with written_whole(folder.note) as partial:
            partial.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def at(cls, private: Path) -> Note | None:
        """The note in a private folder; ``None`` if there is none that can be read."""
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
    """The moves through one private folder: what goes from beside it into it, and the other way."""

    folder: PrivateFolder
    old: list[str] = field(default_factory=list)
    new: list[NewFile] = field(default_factory=list)

    def in_place(self, name: str) -> Path:
        """Where an output lies in the end."""
        return self.folder.target.with_name(name)


def planned(folders: Iterable[PrivateFolder], *, whole: Collection[PrivateFolder] = ()) -> list[Part]:
    """The moves that put into place all that is staged in some private folders.

    Parameters
    ----------
    folders:
        In the order in which they were staged. Of two side files with one place the later one counts.
    whole:
        Those whose output has no side files. Of the others, old side files go away with the old output.
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
    """Make the moves, or undo those that were made when one fails. The first part's folder leads.

    Raises
    ------
    OutputError
        A file cannot be moved; all is as before then. If something cannot be moved back, the error names
        the folder that holds it, and the next run on the output tries again.
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
    """Undo moves as far as they were made; folders with old files that cannot go back.

    A file that is not the run's own stays where it is.
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
                    continue  # told below if it is in the way of an old one
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
