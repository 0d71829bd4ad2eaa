"""`das2f-map align`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from das2f_map.cli.console import print_json, print_table, progress_for
from das2f_map.cli.options import (
    BandsOption,
    ForceOption,
    JsonOption,
    MaskBitsOption,
    MaskOption,
    MaskValuesOption,
    MaxShiftOption,
    MsArgument,
    NodataOption,
    OverwriteOption,
    PanArgument,
    ReflectanceOption,
    bands_of,
    mask_of,
)
from das2f_map.scene.shift_choice import DEFAULT_MAX_SHIFT

if TYPE_CHECKING:
    from das2f_map.workflows.align import AlignReport


def align_command(
    context: typer.Context,
    ms: MsArgument,
    pan: PanArgument = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder to write the aligned pair, report and picture to."
        ),
    ] = None,
    bands: BandsOption = None,
    max_shift: MaxShiftOption = DEFAULT_MAX_SHIFT,
    nodata: NodataOption = None,
    mask: MaskOption = None,
    mask_values: MaskValuesOption = None,
    mask_bits: MaskBitsOption = None,
    reflectance: ReflectanceOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the shift between MS and PAN; with -o, write the pair aligned.

    Example: das2f-map align ms.tif pan.tif -o aligned
    """
    from das2f_map.workflows.align import align

    found = align(
        ms,
        pan,
        output,
        bands=bands_of(bands),
        max_shift=max_shift,
        nodata=nodata,
        mask=mask_of(mask, mask_values, mask_bits),
        reflectance=reflectance,
        force=force,
        overwrite=overwrite,
        progress=progress_for(bool(context.obj)),
    )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print(found)


def _print(found: AlignReport) -> None:
    shift = found.shift
    if shift.rows is None or shift.cols is None or shift.east_m is None or shift.north_m is None:
        print(f"Shift cannot be measured: {shift.reason}")
        return
    down, right = "down" if shift.rows >= 0 else "up", "right" if shift.cols >= 0 else "left"
    east, north = "east" if shift.east_m >= 0 else "west", "north" if shift.north_m >= 0 else "south"
    rows = [
        ("PAN lies", f"{abs(shift.rows):.2f} PAN pixels {down}, {abs(shift.cols):.2f} {right} of MS"),
        ("", f"{abs(shift.north_m):.2f} m {north}, {abs(shift.east_m):.2f} m {east}"),
        ("Together", f"{shift.length:.2f} ± {shift.uncertainty:.2f} PAN pixels, {shift.length_m:.2f} m"),
        (
            "Windows",
            f"{shift.windows_agreeing} of {shift.windows_matched} agree "
            f"({100 * shift.agreeing_share:.0f} %), {shift.windows_tried} tried",
        ),
    ]
    if shift.left_out:
        rows.append(("Left out", ", ".join(f"{reason}: {n}" for reason, n in shift.left_out.items())))
    if shift.variation is not None:
        v = shift.variation
        corners = (
            f"{name} {r:+.1f} / {c:+.1f}"
            for name, (r, c) in (
                ("upper left", v.upper_left),
                ("upper right", v.upper_right),
                ("lower right", v.lower_right),
                ("lower left", v.lower_left),
            )
        )
        rows.append(("Changes", f"by {v.range:.1f} ± {v.sigma:.1f} PAN pixels over the scene"))
        rows.append(("", "rows / columns: " + ", ".join(corners)))
    else:
        varies = "no" if shift.varies is False else "too few windows to tell"
        rows.append(("Changes", varies))
    if shift.fit_before is not None and shift.fit_after is not None:
        rows.append(("Linear fit", f"R² {shift.fit_before:.4f} as it is, {shift.fit_after:.4f} corrected"))
    rows.append(("Verdict", "the windows agree" if shift.reason is None else f"not reliable: {shift.reason}"))
    rows.append(("classify", found.classify))
    print_table("Shift", {"": "left", " ": "left"}, rows)
    if found.outputs:
        print("Corrected" if found.corrected else f"Written on the common grid: {found.written}")
    for path in found.outputs.values():
        print(path)
