"""`das2f-map vectorize`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.completion import complete_vectors
from das2f_map.cli.console import print_json, print_table, progress_for
from das2f_map.cli.options import JsonOption, MapArgument, OverwriteOption


def vectorize_command(
    context: typer.Context,
    landcover: MapArgument,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Polygons to write: .gpkg (a layer per class), .shp, .geojson, .fgb or .parquet.",
            autocompletion=complete_vectors,
        ),
    ],
    min_area: Annotated[
        float | None,
        typer.Option(
            "--min-area",
            metavar="M2",
            min=0.0,
            help="Merge smaller regions into their neighbours; the map keeps them.",
        ),
    ] = None,
    simplify: Annotated[
        float | None,
        typer.Option(
            "--simplify", metavar="M", min=0.0, help="Simplify polygons by so many metres; edges stay shared."
        ),
    ] = None,
    confidence: Annotated[
        Path | None,
        typer.Option("--confidence", metavar="TIF", help="Confidence raster, for each polygon's mean."),
    ] = None,
    raster: Annotated[
        Path | None,
        typer.Option(
            "--raster", metavar="TIF", help="Also write a class raster that has the regions of the polygons."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the polygons of an existing class raster, with styles.

    Example: das2f-map vectorize landcover.tif -o landcover.gpkg
    """
    from das2f_map.workflows.vectorize import vectorize

    made = vectorize(
        landcover,
        output,
        min_area_m2=min_area,
        simplify_m=simplify,
        confidence=confidence,
        raster=raster,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    classes = [(c, made.classes[c.id]) for c in made.legend.each()]
    if as_json:
        print_json(
            {
                "output": str(made.path),
                "raster": None if made.raster is None else str(made.raster),
                "classes": [
                    {
                        "id": c.id,
                        "name": c.name,
                        "polygons": found.polygons,
                        "area_m2": found.area_m2,
                        "polygon_area_m2": found.drawn_m2,
                        "mean_confidence": found.mean_confidence,
                    }
                    for c, found in classes
                ],
            }
        )
        return
    print_table(
        str(made.path),
        {"Class": "left", "Polygons": "right", "Area (ha)": "right"},
        [(c.name, f"{found.polygons:,}", f"{found.area_m2 / 1e4:,.2f}") for c, found in classes],
        swatches=[c.color for c, _ in classes],
    )
    if made.raster is not None:
        print(made.raster)
