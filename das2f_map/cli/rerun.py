"""`das2f-map rerun`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from das2f_map.cli.console import print_json, progress_for
from das2f_map.cli.options import ClusterOption, JsonOption, MaxMemoryOption, OverwriteOption, setting_option
from das2f_map.running.resources import Resources


def rerun_command(
    context: typer.Context,
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help="The .json file that classify wrote beside the map.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="TIF", help="Class raster to write, with the other files beside it."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a rerun that was ended, with the same options.")
    ] = False,
    overwrite: OverwriteOption = False,
    max_memory: MaxMemoryOption = None,
    workers: Annotated[int | None, setting_option(Resources, "workers", metavar="N")] = Resources.workers,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a map again from the report of its run, if its inputs and model are the same.

    Example: das2f-map rerun landcover.json -o again/landcover.tif
    """
    from das2f_map.workflows.classify import rerun

    made = rerun(
        report,
        output,
        overwrite=overwrite,
        resume=resume,
        max_memory=max_memory,
        workers=workers,
        cluster=cluster,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        found = made.report.model_dump(mode="json")
        print_json({"report": found, "same": list(made.same), "differing": list(made.differing)})
        return
    told = dict.fromkeys(made.same, "  the same, byte for byte") | dict.fromkeys(made.differing, "  differs")
    for kind, path in made.report.outputs.items():
        print(f"{path}{told.get(kind, '')}")
