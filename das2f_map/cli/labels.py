"""`das2f-map labels check`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from das2f_map.cli.console import print_json, print_table, progress_for
from das2f_map.cli.options import (
    BandsOption,
    ClassFieldOption,
    ForceOption,
    JsonOption,
    LayerOption,
    MaskBitsOption,
    MaskOption,
    MaskValuesOption,
    MsArgument,
    NodataOption,
    OverwriteOption,
    PanArgument,
    ReflectanceOption,
    bands_of,
    mask_of,
)

if TYPE_CHECKING:
    from das2f_map.training.label_check import LabelCheck

app = typer.Typer(help="Labels before a training.", no_args_is_help=True)


@app.callback()
def _labels() -> None:
    """Keep `labels` a group while it has one command."""


@app.command("check")
def check_command(
    context: typer.Context,
    ms: MsArgument,
    labels: Annotated[
        str, typer.Option("--labels", metavar="FILE", help="Polygons, points or a raster of classes.")
    ],
    pan: PanArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="GPKG", help="Write doubtful features and pixels for QGIS."),
    ] = None,
    class_field: ClassFieldOption = None,
    layer: LayerOption = None,
    bands: BandsOption = None,
    nodata: NodataOption = None,
    mask: MaskOption = None,
    mask_values: MaskValuesOption = None,
    mask_bits: MaskBitsOption = None,
    reflectance: ReflectanceOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look for faults in labels before a training: overlaps, tiny classes, odd pixels, what can be tested.

    Example: das2f-map labels check ms.tif pan.tif --labels labels.gpkg -o doubtful.gpkg
    """
    from das2f_map.workflows.check_labels import check_labels

    found = check_labels(
        ms,
        pan,
        labels,
        output,
        class_field=class_field,
        layer=layer,
        bands=bands_of(bands),
        nodata=nodata,
        mask=mask_of(mask, mask_values, mask_bits),
        reflectance=reflectance,
        force=force,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        print_json(found.to_dict())
        return
    _print(found)
    if output is not None:
        print(f"{output}: {len(found.doubtful):,} features, {len(found.doubtful_pixels):,} pixels to look at")


def _print(found: LabelCheck) -> None:
    if found.classes:
        head, *rows = found.class_table()
        columns = {name: "left" if i == 0 else "right" for i, name in enumerate(head)}
        print_table(f"Classes of {found.labels}", columns, rows, swatches=[c.color for c in found.classes])
    if found.findings:
        head, *rows = found.finding_table()
        # Two headings are blank or short: the table keeps them apart.
        print_table("Findings; ! is to be mended", dict.fromkeys(head, "left"), rows)
    print(f"Hold-out: {found.hold_out_text()}")
    print(f"Verdict: {found.verdict}")
