"""Remove the files that runs have left in a folder because they were killed or ended by an error."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.errors import InputError, OutputError
from das2f_map.outputs.names import private_path
from das2f_map.outputs.recovery import discard, look_at_work, unfinished_in
from das2f_map.outputs.write_errors import one_line
from das2f_map.running.block_journal import finished_blocks


class UnfinishedRun(BaseModel):
    """A run that has left files, or still writes."""

    model_config = ConfigDict(extra="forbid")

    output: str
    blocks: int = Field(description="finished blocks that --resume could have gone on with")
    bytes: int = Field(description="of the files that were left")
    removed: bool
    reason: str = Field(description="why the files are still there; empty if they are gone")


def clean(folder: str | Path, *, dry_run: bool = False) -> list[UnfinishedRun]:
    """Remove the hidden folders of ended runs from a folder; those of runs that still write stay.

    Parameters
    ----------
    folder:
        Folder with outputs. Folders inside it are not looked into.
    dry_run:
        Only list them.

    Raises
    ------
    InputError
        The folder cannot be read.
    """
    try:
        outputs = unfinished_in(Path(folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {one_line(error)}", "give an existing folder") from error
    return [_cleaned(output, dry_run) for output in outputs]


def _cleaned(output: Path, dry_run: bool) -> UnfinishedRun:
    size, blocks, removed, reason = _size(private_path(output)), 0, False, "only listed"
    try:
        blocks = look_at_work(output, finished_blocks) or 0
        if not dry_run:
            removed = discard(output)
            reason = "" if removed else "not made by das2f-map"
    except OutputError as error:
        reason = error.message
    except OSError as error:
        reason = one_line(error)
    return UnfinishedRun(output=str(output), blocks=blocks, bytes=size, removed=removed, reason=reason)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:  # its run has just removed it
            continue
    return total
