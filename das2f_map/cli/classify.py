"""`das2f-map classify`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from das2f_map.cli.completion import complete_model, complete_vectors
from das2f_map.cli.console import in_hours, print_json, print_table, progress_for
from das2f_map.cli.many_scenes import many_scenes, run_many
from das2f_map.cli.options import (
    AoiLayerOption,
    BandsOption,
    ClusterOption,
    CoregisterOption,
    DeviceOption,
    EngineOption,
    ForceOption,
    JsonOption,
    MaskBitsOption,
    MaskOption,
    MaskValuesOption,
    MaxMemoryOption,
    MaxShiftOption,
    NodataOption,
    OptionalMsArgument,
    OverwriteOption,
    PanArgument,
    PrecisionOption,
    ReflectanceOption,
    bands_of,
    mask_of,
    setting_option,
)
from das2f_map.engines.choice import DEFAULT_DEVICE, EngineChoice
from das2f_map.running.certainty import Certainty
from das2f_map.running.resources import Resources, in_words
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT, DEFAULT_MODE

if TYPE_CHECKING:
    from das2f_map.products.report import RunReport
    from das2f_map.running.forecast import RunForecast


def classify_command(
    context: typer.Context,
    ms: OptionalMsArgument = None,
    pan: PanArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="TIF", help="Class raster to write (a GeoTIFF)."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            metavar="FILE.csv",
            help="Many scenes, one a line: columns ms, pan (or scene) and output; relative paths from the "
            "file on.",
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary", metavar="FILE.json", help="Of many scenes, write the outcome of each as JSON."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|PATH",
            help="Bundled model or bundle; chosen to fit if not given.",
            autocompletion=complete_model,
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            "--vectors",
            metavar="PATH",
            help="Polygons: .gpkg (a layer per class), .shp, .geojson, .fgb or .parquet. "
            "By default a GeoPackage beside the raster.",
            autocompletion=complete_vectors,
        ),
    ] = None,
    no_vectors: Annotated[bool, typer.Option("--no-vectors", help="Write no polygons.")] = False,
    confidence: Annotated[
        Path | None,
        typer.Option("--confidence", metavar="TIF", help="Also write the probability of each pixel's class."),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(
            "--probabilities", metavar="TIF", help="Also write the probability of every class, a band each."
        ),
    ] = None,
    entropy: Annotated[
        Path | None,
        typer.Option(
            "--entropy",
            metavar="TIF",
            help="Also write each pixel's entropy: 0 if one class is certain, 1 if all are as probable.",
        ),
    ] = None,
    stac: Annotated[
        bool, typer.Option("--stac", help="Also write a STAC Item beside the raster, for catalogues.")
    ] = False,
    reject: Annotated[float | None, setting_option(Certainty, "reject", metavar="P")] = Certainty.reject,
    smooth: Annotated[int | None, setting_option(Certainty, "smooth", metavar="R")] = Certainty.smooth,
    # A path would lose the second slash of /vsizip//…
    aoi: Annotated[
        str | None,
        typer.Option("--aoi", metavar="FILE", help="Only inside the polygons of this vector file."),
    ] = None,
    aoi_layer: AoiLayerOption = None,
    min_area: Annotated[
        float | None,
        typer.Option(
            "--min-area",
            metavar="M2",
            min=0.0,
            help="Merge smaller regions into their neighbours, in the raster and the polygons.",
        ),
    ] = None,
    simplify: Annotated[
        float | None,
        typer.Option(
            "--simplify", metavar="M", min=0.0, help="Simplify polygons by so many metres; edges stay shared."
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            "--every",
            metavar="K",
            min=1,
            help="A draft: classify every K-th pixel in both directions; "
            "the map has pixels of K times the size.",
            show_default=True,
        ),
    ] = 1,
    bands: BandsOption = None,
    nodata: NodataOption = None,
    mask: MaskOption = None,
    mask_values: MaskValuesOption = None,
    mask_bits: MaskBitsOption = None,
    reflectance: ReflectanceOption = False,
    radiometry: Annotated[
        Literal["model", "scene"],
        typer.Option(
            "--radiometry",
            metavar="MODEL|SCENE",
            help="Normalise with the statistics of the model's card, or of a sample of the whole scene.",
        ),
    ] = "model",
    engine: EngineOption = EngineChoice.engine,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = EngineChoice.precision,
    batch_size: Annotated[int | None, setting_option(EngineChoice, "batch_size")] = EngineChoice.batch_size,
    turns: Annotated[int | None, setting_option(EngineChoice, "turns", metavar="N")] = EngineChoice.turns,
    coregister: CoregisterOption = DEFAULT_MODE,
    max_shift: MaxShiftOption = DEFAULT_MAX_SHIFT,
    force: ForceOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was ended, with the same options.")
    ] = False,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan: blocks, memory, time, files and disk. Write nothing."
        ),
    ] = False,
    max_memory: MaxMemoryOption = None,
    workers: Annotated[int | None, setting_option(Resources, "workers", metavar="N")] = Resources.workers,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify every MS pixel of a scene: a styled class raster and polygons per class.

    Fields such as {date} in the paths stand for many scenes.

    Example: das2f-map classify ms.tif pan.tif -o landcover.tif
    Example: das2f-map classify '{date}_ms.tif' '{date}_pan.tif' -o 'maps/{date}.tif'
    """
    if no_vectors and vectors is not None:
        raise typer.BadParameter("--vectors and --no-vectors contradict each other")
    if aoi_layer is not None and aoi is None:
        raise typer.BadParameter("it needs --aoi FILE, too", param_hint="--aoi-layer")
    if no_vectors and simplify is not None:
        raise typer.BadParameter("--simplify is about polygons, which --no-vectors leaves out")
    options: dict[str, Any] = {
        "model": model,
        "vectors": False if no_vectors else vectors,
        "confidence": confidence,
        "probabilities": probabilities,
        "entropy": entropy,
        "stac": stac,
        "reject": reject,
        "smooth": smooth,
        "aoi": aoi,
        "aoi_layer": aoi_layer,
        "min_area_m2": min_area,
        "simplify_m": simplify,
        "every": every,
        "bands": bands_of(bands),
        "nodata": nodata,
        "mask": mask_of(mask, mask_values, mask_bits),
        "reflectance": reflectance,
        "radiometry": radiometry,
        "engine": engine,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "turns": turns,
        "coregistration": coregister,
        "max_shift": max_shift,
        "force": force,
        "overwrite": overwrite,
        "resume": resume,
        "max_memory": max_memory,
        "workers": workers,
        "cluster": cluster,
    }
    many = many_scenes(ms, pan, output, pairs, options)
    if many is not None:
        run_many(*many, summary, dry_run=dry_run, as_json=as_json, quiet=bool(context.obj))
        return
    if summary is not None:
        raise typer.BadParameter("it is about many scenes", param_hint="--summary")
    if ms is None or output is None:
        raise typer.BadParameter(
            "name a scene and a map: MS PAN -o landcover.tif; or many scenes: --pairs FILE.csv"
        )
    from das2f_map.workflows.classify import classify, forecast_map

    if dry_run:
        plan = forecast_map(ms, pan, output, **options)
        if as_json:
            print_json(plan.model_dump(mode="json"))
        else:
            _print_plan(plan)
        return
    report = classify(ms, pan, output, **options, progress=progress_for(bool(context.obj)))
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report, output)


def _print_plan(plan: RunForecast) -> None:
    """The plan as a table of facts, and one of files."""
    where = f"{plan.workers} processes" if plan.workers else plan.cluster or "this process"
    blocks = f"{plan.blocks:,} of {plan.block_size} × {plan.block_size} pixels"
    if plan.finished_blocks and not plan.finished:
        blocks += f", {plan.finished_blocks:,} of them done"
    facts = {
        "Model": plan.model,
        "Engine": f"{plan.engine} on {plan.device} in {plan.precision} (scan: {plan.scan})"
        + (f", {plan.turns} turns" if plan.turns > 1 else ""),
        "Map": (f"draft of 1 in {plan.every} × {plan.every} pixels, " if plan.every > 1 else "")
        + f"{plan.rows * plan.columns:,} pixels ({plan.columns} × {plan.rows}), "
        f"{100 * plan.valid_share:.0f} % can be classified",
        "Blocks": "nothing is left to do: the map is finished"
        if plan.finished
        else f"{blocks}, computed by {where}",
        "Time": _time(plan),
        "Memory": f"{in_words(plan.memory_bytes)} of at most {in_words(plan.memory_limit_bytes)}",
        "Disk": f"{in_words(plan.disk_bytes)}, {in_words(plan.work_bytes)} of it until the run is over"
        + ("" if plan.disk_free_bytes is None else f"; {in_words(plan.disk_free_bytes)} are free"),
    }
    print_table("Plan; nothing is written", {"": "left", " ": "left"}, list(facts.items()))
    there = "exists" if plan.finished else "exists: needs --overwrite"
    print_table(
        "Files",
        {"File": "left", "About": "right", "": "left"},
        [(o.path, in_words(o.bytes), there if o.exists else "") for o in plan.outputs],
    )
    for warning in plan.warnings:
        print(f"warning: {warning}")


def _time(plan: RunForecast) -> str:
    if plan.finished:
        return "none"
    if plan.seconds is None:
        return "not known: no pixel of the sample can be classified"
    rest = " for the rest" if plan.finished_blocks else ""
    rate = "" if plan.pixels_per_second is None else f" ({plan.pixels_per_second:,.0f} pixels a second)"
    return f"about {in_hours(plan.seconds)}{rest} on this machine{rate}"


def _print(report: RunReport, output: Path) -> None:
    """A table of the classes, and the files."""
    classes = [c for c in report.classes if c.pixels]
    print_table(
        f"{output}, by {report.model.name}"
        + (
            f": a draft of 1 in {report.settings.every} × {report.settings.every} pixels"
            if report.draft
            else ""
        ),
        {"Class": "left", "Pixels": "right", "Area (ha)": "right", "Share": "right", "Confidence": "right"},
        [
            (
                c.name,
                f"{c.pixels:,}",
                f"{c.area_m2 / 1e4:,.2f}",
                f"{100 * c.share:.1f} %",
                "–" if c.mean_confidence is None else f"{c.mean_confidence:.2f}",
            )
            for c in classes
        ],
        swatches=[c.color for c in classes],
    )
    for path in report.outputs.values():
        print(path)
