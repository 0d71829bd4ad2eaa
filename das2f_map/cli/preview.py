"""`das2f-map preview`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.options import MapArgument, OverwriteOption


def preview_command(
    landcover: MapArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PNG", help="Picture to write.")],
    title: Annotated[str | None, typer.Option("--title", help="Above the map.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw a class raster with legend and scale bar.

    Example: das2f-map preview landcover.tif -o map.png
    """
    from das2f_map.workflows.preview import preview

    preview(landcover, output, title=title, overwrite=overwrite)
    print(output)
