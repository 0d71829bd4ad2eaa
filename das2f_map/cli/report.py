"""`das2f-map report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.console import progress_for
from das2f_map.cli.options import ClassFieldOption, MapArgument, OverwriteOption


def report_command(
    context: typer.Context,
    landcover: MapArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="HTML", help="Page to write.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--evaluation", metavar="JSON", help="Figures that `das2f-map evaluate --json` printed."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="FILE", help="Polygons, points or a raster: show where errors lie."
        ),
    ] = None,
    class_field: ClassFieldOption = None,
    confidence: Annotated[
        Path | None,
        typer.Option(
            "--confidence", metavar="TIF", help="Confidence raster, if not the one of the map's run."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Heading; by default the map's name.")] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Compute SHA-256 of the map and of its inputs.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write one HTML file about a map: map, areas, accuracy, confidence, the run, how to cite.

    Example: das2f-map report landcover.tif --evaluation evaluation.json -o report.html
    """
    from das2f_map.workflows.report import report_map

    report = report_map(
        landcover,
        output,
        evaluation=evaluation,
        reference=reference,
        class_field=class_field,
        confidence=confidence,
        title=title,
        checksums=checksums,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    for notice in report.facts.notices:
        print(notice)
    print(f"{output}: {output.stat().st_size / 1000:,.0f} kB")
