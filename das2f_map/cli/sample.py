"""`das2f-map sample`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from das2f_map.assess.sample_settings import SampleSettings, parse_expected
from das2f_map.cli.console import print_json, print_table, progress_for
from das2f_map.cli.options import JsonOption, MapArgument, OverwriteOption, setting_option


def sample_command(
    context: typer.Context,
    landcover: MapArgument,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="GPKG", help="GeoPackage to write, with a form for QGIS."),
    ],
    design: Annotated[
        str, setting_option(SampleSettings, "design", metavar="DESIGN")
    ] = SampleSettings.design,
    points: Annotated[
        int | None,
        typer.Option("-n", "--points", metavar="N", min=2, help="Number of points; 500 by default."),
    ] = SampleSettings.points,
    precision: Annotated[
        float | None, setting_option(SampleSettings, "precision", metavar="HALF-WIDTH")
    ] = SampleSettings.precision,
    expected: Annotated[
        str | None,
        typer.Option(
            "--expected",
            metavar="SHARE|NAME=SHARE,…",
            help="Expected user's accuracies, for the size and the optimal allocation: water=0.95,0.85.",
        ),
    ] = None,
    allocation: Annotated[
        str, setting_option(SampleSettings, "allocation", metavar="RULE")
    ] = SampleSettings.allocation,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="CLASS",
            help="Class whose area the optimal allocation is for, not the overall accuracy; may be repeated.",
        ),
    ] = None,
    min_per_stratum: Annotated[
        int | None, setting_option(SampleSettings, "min_per_stratum", metavar="N")
    ] = SampleSettings.min_per_stratum,
    block_size: Annotated[
        int, setting_option(SampleSettings, "block_size", metavar="PX")
    ] = SampleSettings.block_size,
    per_block: Annotated[
        int, setting_option(SampleSettings, "per_block", metavar="N")
    ] = SampleSettings.per_block,
    block_selection: Annotated[
        str, setting_option(SampleSettings, "block_selection", metavar="CHANCE")
    ] = SampleSettings.block_selection,
    min_distance: Annotated[
        float | None, setting_option(SampleSettings, "min_distance", metavar="M")
    ] = SampleSettings.min_distance,
    shape: Annotated[
        Literal["point", "square"],
        typer.Option("--shape", help="Write points, or each pixel as a square.", show_default=True),
    ] = "point",
    second_interpreter: Annotated[
        bool, typer.Option("--second-interpreter", help="Add a field for the class by a second interpreter.")
    ] = False,
    by: Annotated[
        Literal["design", "uncertainty"],
        typer.Option(
            "--by",
            help="design, or uncertainty: the pixels that the map is least sure of, to label for training.",
            show_default=True,
        ),
    ] = "design",
    uncertainty: Annotated[
        str | None,
        typer.Option(
            "--uncertainty",
            metavar="FILE",
            help="For --by uncertainty: the map's raster of probabilities, entropy or confidence.",
        ),
    ] = None,
    seed: Annotated[int, setting_option(SampleSettings, "seed", metavar="N")] = SampleSettings.seed,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw a reference sample from a map, as points to label in QGIS; `evaluate` knows its design.

    Example: das2f-map sample landcover.tif -o points.gpkg --precision 0.03
    """
    from das2f_map.workflows.sample import sample_map

    if by == "uncertainty" and uncertainty is None:
        raise typer.BadParameter(
            "it needs --uncertainty FILE: a raster of classify --probabilities, --entropy or --confidence",
            param_hint="--by",
        )
    if by == "design" and uncertainty is not None:
        raise typer.BadParameter("it needs --by uncertainty", param_hint="--uncertainty")
    try:
        accuracies = {} if expected is None else parse_expected(expected)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expected") from error
    found = sample_map(
        landcover,
        output,
        design=design,
        points=points,
        precision=precision,
        expected=accuracies,
        allocation=allocation,
        target=target or (),
        min_per_stratum=min_per_stratum,
        block_size=block_size,
        per_block=per_block,
        block_selection=block_selection,
        min_distance=min_distance,
        seed=seed,
        squares=shape == "square",
        second_interpreter=second_interpreter,
        uncertainty=uncertainty,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        print_json(found.to_dict())
        return
    for step in found.steps:
        print(step)
    table = found.table()
    title = f"{output}: {len(found.points):,} points, {found.design.in_words}"
    print_table(title, {n: "left" if i == 0 else "right" for i, n in enumerate(table[0])}, table[1:])
    for notice in found.notices:
        print(notice)
    if found.design.is_probability_sample:
        print(
            f"Open {output} in QGIS, give every point its class, then: "
            f"das2f-map evaluate {landcover} --reference {output}"
        )
