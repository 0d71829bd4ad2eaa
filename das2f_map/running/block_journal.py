"""The journal of a map's finished blocks, and what an unfinished run has left by it.

A journal begins with a line on the plan. Each further line has the number of a block, the place of its values
in the other file, and a checksum of number and values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from das2f_map.errors import InputError
from das2f_map.running.plan import ClassifyPlan

log = logging.getLogger(__name__)

JOURNAL_NAME: Final = "blocks.journal"
VALUES_NAME: Final = "blocks.values"
FORMAT: Final = 2
_LONGEST_LINE: Final = 10_000


@dataclass(frozen=True)
class JournalEntry:
    """Place and checksum of a block's values; no bytes where it has no class."""

    start: int
    length: int
    checksum: int


def read_journal(journal: Path, plan: ClassifyPlan) -> tuple[dict[int, JournalEntry], int]:
    """The entries of a journal, and the bytes of it that are sound: 0 if it is to be begun anew.

    Raises
    ------
    InputError
        It is of another plan, or of another version.
    """
    entries: dict[int, JournalEntry] = {}
    kept = end = 0
    most = stored_bytes(journal.parent)
    with journal.open("rb") as file:
        for k, line in enumerate(_whole_lines(file)):
            end += len(line)
            try:
                found = json.loads(line)
                if k == 0:
                    _require_same(found, plan)
                else:
                    number, entry = _read_entry(found)
                    if entry.start + entry.length <= most:
                        entries[number] = entry
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if k == 0:
                    break
                continue  # damaged, or torn by the end of the run: the block is computed again
            kept = end
    if not kept and most:
        log.warning("The journal of the unfinished run is damaged at its beginning; the run begins anew")
    return entries, kept


def _require_same(header: Mapping[str, Any], plan: ClassifyPlan) -> None:
    if header["das2f-map"] != FORMAT:
        raise InputError(
            "the unfinished run was made by another version of das2f-map", "begin anew with --overwrite"
        )
    if differing := plan.differing(header["plan"]):
        raise InputError(
            f"the unfinished run cannot go on, it differs in {'; '.join(differing)}",
            "repeat its options and inputs, or begin anew with --overwrite",
        )


def _read_entry(line: Mapping[str, Any]) -> tuple[int, JournalEntry]:
    """A block's number and place in a line of the journal. Raises ``ValueError`` for what is none."""
    number, start, length, checksum = (int(line[key]) for key in ("block", "start", "length", "crc32"))
    if min(number, start, length) < 0:
        raise ValueError(line)
    return number, JournalEntry(start, length, checksum)


def _lines_in(folder: Path) -> Iterator[bytes]:
    """Whole lines of the journal in a folder; none where there is no journal."""
    try:
        with (folder / JOURNAL_NAME).open("rb") as file:
            yield from _whole_lines(file)
    except FileNotFoundError:
        return


def block_size_of(folder: Path, every: int = 1) -> int | None:
    """Pixels of the map a side of the blocks that an unfinished run has left in a folder.

    ``None`` if there are none, or those of a run with another ``every``, which cannot go on anyhow.

    Raises
    ------
    OSError
        The journal cannot be read.
    """
    try:
        found = json.loads(next(_lines_in(folder), b"{}"))
        size, known = found.get("block_size"), found.get("every", every) == every
    except (ValueError, AttributeError):
        return None
    return size if isinstance(size, int) and size > 0 and known else None


@dataclass(frozen=True)
class DoneBefore:
    """Blocks of a map that are finished when a run on it begins.

    Attributes
    ----------
    blocks:
        Their numbers.
    stored_bytes:
        Bytes on the disk that they take.
    """

    blocks: frozenset[int] = frozenset()
    stored_bytes: int = 0

    @classmethod
    def left_in(cls, folder: Path, plan: ClassifyPlan, *, or_none: bool = False) -> DoneBefore:
        """The blocks that an unfinished run of a plan has left in a folder; nothing is changed there.

        With ``or_none`` there are none where they are those of another plan.

        Raises
        ------
        InputError
            They are those of another plan, or of another version's journal.
        OSError
            The journal cannot be read.
        """
        journal = folder / JOURNAL_NAME
        try:
            found = read_journal(journal, plan)[0] if journal.is_file() else {}
        except InputError:
            if not or_none:
                raise
            return cls()
        return cls(frozenset(found), stored_bytes(folder) if found else 0)


NOTHING_DONE: Final = DoneBefore()


def finished_blocks(folder: Path) -> int:
    """Blocks that an unfinished run has left in a folder; 0 where there is no journal.

    Raises
    ------
    OSError
        The journal cannot be read.
    """
    return max(0, sum(1 for _ in _lines_in(folder)) - 1)


def stored_bytes(folder: Path) -> int:
    """Bytes of the blocks that an unfinished run has left in a folder; 0 where there are none."""
    try:
        return (folder / VALUES_NAME).stat().st_size
    except OSError:
        return 0


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines that end, up to the first that does not or that is longer than any of ours."""
    while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
        yield line
