"""`das2f-map clean`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.console import print_json
from das2f_map.cli.options import JsonOption
from das2f_map.running.resources import in_words


def clean_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with outputs.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs. Remove nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what ended runs have left in a folder; runs that still write keep their files.

    Example: das2f-map clean maps
    """
    from das2f_map.workflows.clean import clean

    runs = clean(folder, dry_run=dry_run)
    if as_json:
        print_json([run.model_dump(mode="json") for run in runs])
        return
    for run in runs:
        state = "removed" if run.removed else f"left: {run.reason}"
        print(f"{run.output}: {run.blocks:,} finished blocks, {in_words(run.bytes)}, {state}")
    if not runs:
        print(f"no unfinished run in {folder}")
