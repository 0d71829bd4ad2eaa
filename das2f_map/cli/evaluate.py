"""`das2f-map evaluate`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from das2f_map.cli.console import print_json, progress_for
from das2f_map.cli.options import ClassFieldOption, JsonOption, LayerOption, MapArgument

if TYPE_CHECKING:
    from das2f_map.assess.evaluation import Evaluation


def evaluate_command(
    context: typer.Context,
    landcover: MapArgument,
    reference: Annotated[
        str, typer.Option("--reference", metavar="FILE", help="Polygons, points or a raster with the truth.")
    ],
    class_field: ClassFieldOption = None,
    layer: LayerOption = None,
    design: Annotated[
        Literal["auto", "simple", "stratified", "cluster", "none"],
        typer.Option(
            "--design",
            help="How the points were drawn: auto takes it from a file of `das2f-map sample`, else none.",
            show_default=True,
        ),
    ] = "auto",
    strata: Annotated[
        str | None,
        typer.Option(
            "--strata",
            metavar="FILE",
            help="For --design stratified: raster or polygons of the strata; by default the map's classes.",
        ),
    ] = None,
    cluster_field: Annotated[
        str | None,
        typer.Option(
            "--cluster-field", metavar="FIELD", help="For --design cluster: attribute with a point's cluster."
        ),
    ] = None,
    other_map: Annotated[
        Path | None,
        typer.Option(
            "--other-map", metavar="FILE", help="Another map, to compare the accuracies on this reference."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a map against reference data: accuracies, and from a probability sample also areas.

    Example: das2f-map evaluate landcover.tif --reference points.gpkg
    """
    from das2f_map.workflows.evaluate import evaluate_map

    result = evaluate_map(
        landcover,
        reference,
        class_field=class_field,
        layer=layer,
        design=design,
        strata=strata,
        cluster_field=cluster_field,
        other_map=other_map,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        print_json(result.to_dict())
        return
    _print(result, f"{landcover} against {reference}")
    for notice in result.notices():
        print(notice)


def _print(result: Evaluation, title: str) -> None:
    from das2f_map.cli.accuracy_tables import print_accuracy, print_estimates, print_text_table

    if result.estimates is not None:
        print_estimates(result.estimates, result.matrix, title)
        return
    print_accuracy(result.matrix, title)
    if table := result.interval_table():
        print_text_table("95 % intervals", table)
