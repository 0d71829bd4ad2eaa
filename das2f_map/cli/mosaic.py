"""`das2f-map mosaic`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from das2f_map.cli.completion import complete_vectors
from das2f_map.cli.console import print_json, print_table, progress_for
from das2f_map.cli.options import JsonOption, OverwriteOption

if TYPE_CHECKING:
    from das2f_map.products.mosaic_report import MosaicReport


def mosaic_command(
    context: typer.Context,
    landcovers: Annotated[
        list[str],
        typer.Argument(metavar="LANDCOVER...", help="Class rasters of the same classes, two or more."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TIF", help="Class raster to write (a GeoTIFF).")
    ],
    confidence: Annotated[
        list[Path] | None,
        typer.Option(
            "--confidence",
            metavar="TIF",
            help="Confidence raster of a map; once for each, in their order. By default those that their run "
            "reports name.",
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            "--vectors",
            metavar="PATH",
            help="Polygons: .gpkg (a layer per class), .shp, .geojson, .fgb or .parquet. By default none.",
            autocompletion=complete_vectors,
        ),
    ] = None,
    confidence_output: Annotated[
        Path | None,
        typer.Option("--confidence-output", metavar="TIF", help="Also write the confidence of the mosaic."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Join maps into one, on the grid of the first. Where they overlap, the most confident one decides.

    Example: das2f-map mosaic north.tif south.tif -o mosaic.tif
    """
    from das2f_map.workflows.mosaic import mosaic_maps

    report = mosaic_maps(
        landcovers,
        output,
        confidence=confidence or (),
        vectors=vectors,
        confidence_output=confidence_output,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report, output)


def _print(report: MosaicReport, output: Path) -> None:
    """Tables of the maps, their overlaps and the classes, and the files."""
    print_table(
        f"{output}, of {len(report.maps)} maps; where they overlap, "
        + ("the most confident decides" if report.rule == "confidence" else "the first decides"),
        {"Map": "left", "Placed": "left", "Pixels": "right", "Taken": "right"},
        [(m.path, m.placement, f"{m.pixels:,}", f"{m.taken:,}") for m in report.maps],
    )
    if report.seams:
        print_table(
            "Overlaps",
            {"Map": "left", "And": "left", "Pixels": "right", "Differing": "right", "Share": "right"},
            [
                (s.first, s.second, f"{s.pixels:,}", f"{s.differing:,}", f"{100 * s.share:.1f} %")
                for s in report.seams
            ],
        )
    classes = [c for c in report.classes if c.pixels]
    print_table(
        "Classes",
        {"Class": "left", "Pixels": "right", "Area (ha)": "right", "Share": "right"},
        [(c.name, f"{c.pixels:,}", f"{c.area_m2 / 1e4:,.2f}", f"{100 * c.share:.1f} %") for c in classes],
        swatches=[c.color for c in classes],
    )
    for path in report.outputs.values():
        print(path)
