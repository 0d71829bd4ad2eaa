"""Take over a private folder: finish or undo the moves of a killed run, and remove its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from das2f_map.errors import OutputError
from das2f_map.outputs.commit import Note, Part, roll_back
from das2f_map.outputs.names import final_path, has_private_name, private_path
from das2f_map.outputs.private import PrivateFolder, existing_private

log = logging.getLogger(__name__)

T = TypeVar("T")


def claim(final: Path, *, keep_work: bool = False) -> PrivateFolder:
    """The private folder of an output, held by this run and empty.

    Parameters
    ----------
    final:
        The output.
    keep_work:
        Leave the work files of an earlier run.

    Raises
    ------
    OutputError
        Another run writes the output, or something else has the folder's name, or a run was killed while it
        replaced files, and they cannot be put back.
    OSError
        The folder cannot be made or emptied; ``FileNotFoundError`` where the output's folder is missing.
    """
    folder = PrivateFolder(final)
    folder.hold()
    try:
        if os.path.lexists(folder.note) or os.path.lexists(folder.replaced):
            _put_right(folder)
        if not keep_work:
            _clear_members(folder)
        left = [p for p in folder.leftovers() if not (keep_work and p == folder.work)]
        if left:
            log.warning(
                "Removed the files of an unfinished run from %s: %s",
                folder.path,
                ", ".join(p.name for p in left),
            )
        folder.clear(keep_work=keep_work)
    except BaseException:  # an interrupt too
        folder.unlock()
        raise
    return folder


def unfinished_in(folder: Path) -> list[Path]:
    """Outputs in a folder whose runs have left files behind, or are still writing; by name.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    return sorted(final_path(path) for path in folder.iterdir() if has_private_name(path) and path.is_dir())


def discard(final: Path) -> bool:
    """Remove the files that ended runs on an output have left; moves of a killed run are put right first.

    Returns
    -------
    bool
        Whether there were files of this package.

    Raises
    ------
    OutputError
        Another run writes the output, or its old files cannot be put back.
    OSError
        The files cannot be removed.
    """
    found = existing_private(private_path(final))
    if found is None:
        return False
    found.unlock()
    claim(final).release()
    return True


def settle(final: Path) -> None:
    """Finish or undo the moves of a run that was killed while it put its outputs into place.

    Its work files stay unless all moves were made. Without such a run nothing is changed.

    Raises
    ------
    OutputError
        Another run writes the output, or its old files cannot be put back.
    OSError
        Files cannot be moved or removed.
    """
    folder = existing_private(private_path(final))
    if folder is None:
        return
    moving = os.path.lexists(folder.note) or os.path.lexists(folder.replaced)
    folder.unlock()
    if moving:
        claim(final, keep_work=True).release(keep_work=True)


def look_at_work(final: Path, look: Callable[[Path], T]) -> T | None:
    """The finding of ``look`` in the folder with the work files that a killed run on an output has left.

    ``None`` where there is no such folder. No other run writes the output meanwhile.

    Raises
    ------
    OutputError
        Another run writes the output.
    """
    folder = existing_private(private_path(final))
    if folder is None:
        return None
    try:
        return look(folder.work) if folder.work.is_dir() else None
    finally:
        folder.unlock()


def _put_right(folder: PrivateFolder) -> None:
    """Undo the moves of a run that was killed while it made them, or see them through if all were made."""
    note = Note.at(folder.path)
    lead = folder.path if note is None else _place(folder.path, note.lead)
    # Nobody writes or removes the lead's note of this commit while this folder is held.
    told = Note.at(lead)
    if note is None or told is None or told.run != note.run:
        # No move was made, or all were undone. Then no old file is left here.
        _require_none_kept(folder)
        return
    with ExitStack() as stack:
        parts, bare = [], []
        for place in dict.fromkeys((folder.path, *(_place(lead, path) for path in told.members))):
            found = Note.at(place)
            if found is None or found.run != note.run:
                bare.append(place)
                continue
            member = folder if place == folder.path else existing_private(place)
            if member is not None:
                if member is not folder:
                    stack.callback(member.unlock)
                parts.append(Part(member, list(found.old), list(found.new)))
        names = ", ".join(str(part.folder.target) for part in parts)
        if told.done:
            log.warning("A run was killed just after it had put %s into place: complete", names)
        else:
            if kept := roll_back(parts):
                raise OutputError(
                    f"a run was killed while it replaced {names}, and old files cannot go back: "
                    f"they are in {', '.join(map(str, kept))}",
                    "move them back yourself",
                )
            log.warning("A run was killed while it put %s into place: undone, all is as before it", names)
        # While the lead's note is there, moves that are not done can be undone, and what was replaced by
        # moves that are done may go. So it is the first thing to go, or the last.
        parts.sort(key=lambda part: (part.folder.path == lead) == told.done)
        for part in parts:
            if not told.done:
                part.folder.note.unlink()
            # Work files of outputs that are complete are of no use to anybody.
            part.folder.clear(keep_work=not told.done)
        for part in parts:
            if part.folder is not folder:
                part.folder.release(keep_work=not told.done)
        for place in bare if told.done else ():
            _remove_bare(place)


def _remove_bare(path: Path) -> None:
    """Remove a private folder that a run was killed in removing, unless another run holds it by now."""
    with suppress(OutputError):
        member = existing_private(path)
        if member is not None:
            if member.leftovers():
                member.unlock()
            else:
                member.release()


def _clear_members(folder: PrivateFolder) -> None:
    """Empty the folders of the killed run's other outputs, unless another run holds them by now."""
    for path in folder.members():
        try:
            member = existing_private(path)
        except OutputError:
            continue
        if member is None:
            continue
        if os.path.lexists(member.note) or os.path.lexists(member.replaced):
            member.unlock()  # the next run on that output puts it right
            continue
        if member.leftovers():
            log.warning("Removed the files of an unfinished run from %s", member.path)
        member.release()


def _place(start: Path, path: str) -> Path:
    return Path(os.path.normpath(start / path))


def _require_none_kept(folder: PrivateFolder) -> None:
    if folder.replaced.is_dir() and any(folder.replaced.iterdir()):
        raise OutputError(
            f"{folder.replaced} holds old files that an unfinished run has replaced",
            f"move them to {folder.path.parent} or elsewhere",
        )
