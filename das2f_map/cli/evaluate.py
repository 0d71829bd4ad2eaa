"""`das2f-map evaluate`"""

from __future__ import annotations

from typing import Annotated

import typer

from das2f_map.cli.console import print_json, progress_for
from das2f_map.cli.options import ClassFieldOption, JsonOption, LayerOption, MapArgument


def evaluate_command(
    context: typer.Context,
    landcover: MapArgument,
    reference: Annotated[
        str, typer.Option("--reference", metavar="FILE", help="Polygons, points or a raster with the truth.")
    ],
    class_field: ClassFieldOption = None,
    layer: LayerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a map against reference data: OA, AA, kappa, accuracies per class, confusion matrix.

    Example: das2f-map evaluate landcover.tif --reference labels.gpkg
    """
    from das2f_map.workflows.evaluate import evaluate_map

    result = evaluate_map(
        landcover, reference, class_field=class_field, layer=layer, progress=progress_for(bool(context.obj))
    )
    if as_json:
        print_json(result.to_dict())
        return
    from das2f_map.cli.accuracy_tables import print_accuracy

    print_accuracy(result.matrix, f"{landcover} against {reference}")
    for notice in result.notices():
        print(notice)
