"""`das2f-map style`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.completion import complete_vectors
from das2f_map.cli.console import print_json, print_table, progress_for
from das2f_map.cli.options import JsonOption, MapArgument, OverwriteOption


def style_command(
    context: typer.Context,
    landcover: MapArgument,
    legend: Annotated[
        str,
        typer.Option(
            "--legend",
            metavar="SOURCE",
            help="Names and colours: a JSON file, a model's name or path, or another map.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="TIF", help="Write a copy; by default the map is replaced."),
    ] = None,
    vectors: Annotated[
        list[Path] | None,
        typer.Option(
            "--vectors",
            metavar="PATH",
            help="Polygons of the map that change too; by default those of its name beside it.",
            autocompletion=complete_vectors,
        ),
    ] = None,
    no_vectors: Annotated[bool, typer.Option("--no-vectors", help="Leave polygons as they are.")] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change names and colours of the classes of an existing map, without classifying again.

    Example: das2f-map style landcover.tif --legend legend.json
    """
    if no_vectors and vectors:
        raise typer.BadParameter("--vectors and --no-vectors contradict each other")
    if output is not None and vectors:
        raise typer.BadParameter("--vectors is for a map that is replaced; with -o polygons stay as they are")
    from das2f_map.workflows.style import style

    made = style(
        landcover,
        legend,
        output,
        vectors=False if no_vectors else vectors or None,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    old = {c.id: c for c in made.before.each()}
    if as_json:
        print_json(
            {
                "files": [str(path) for path in made.files],
                "classes": [
                    {"id": c.id, "name": c.name, "color": c.color, "name_before": old[c.id].name}
                    for c in made.legend.each()
                ],
            }
        )
        return
    print_table(
        str(made.path),
        {"Class": "left", "Id": "right", "Before": "left"},
        [(c.name, str(c.id), old[c.id].name) for c in made.legend.each()],
        swatches=[c.color for c in made.legend.each()],
    )
    for path in made.files:
        print(path)
