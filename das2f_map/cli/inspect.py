"""`das2f-map inspect`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from das2f_map.cli.completion import complete_model
from das2f_map.cli.console import print_json, print_table
from das2f_map.cli.options import (
    BandsOption,
    DeviceOption,
    ForceOption,
    JsonOption,
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
from das2f_map.engines.choice import DEFAULT_DEVICE

if TYPE_CHECKING:
    from das2f_map.products.inspection import BandReport, Estimate, Inspection
    from das2f_map.scene.report import ProductBandReport, ProductReport


def inspect_command(
    ms: MsArgument,
    pan: PanArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PNG", help="Picture of MS and PAN, with nodata and mask."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|PATH",
            help="Model to compare with the scene, besides the bundled ones.",
            autocompletion=complete_model,
        ),
    ] = None,
    bands: BandsOption = None,
    nodata: NodataOption = None,
    mask: MaskOption = None,
    mask_values: MaskValuesOption = None,
    mask_bits: MaskBitsOption = None,
    reflectance: ReflectanceOption = False,
    device: DeviceOption = DEFAULT_DEVICE,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a pair of images will work, with which model, and in what time.

    Large scenes are sampled. The time is an estimate from a short trial on this machine.

    Example: das2f-map inspect ms.tif pan.tif -o look.png
    """
    from das2f_map.workflows.inspect import inspect_pair

    found = inspect_pair(
        ms,
        pan,
        output,
        model=model,
        bands=bands_of(bands),
        nodata=nodata,
        mask=mask_of(mask, mask_values, mask_bits),
        reflectance=reflectance,
        device=device,
        force=force,
        overwrite=overwrite,
    )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_inspection(found)


def print_inspection(found: Inspection) -> None:
    """Print the findings as tables, then the verdict and the next command."""
    scene = found.scene
    if scene.product is not None:
        _print_product(scene.product)
    files = (scene.ms, scene.pan)
    print_table(
        "Images",
        {"": "left", "MS": "left", "PAN": "left"},
        [
            ("File", *(_last(f.path) for f in files)),
            ("Size", *(f"{f.width:,} × {f.height:,}" for f in files)),
            ("Pixel", *(f"{f.gsd_m:.4g} m" for f in files)),
            ("CRS", *(_crs(f.crs) for f in files)),
            ("Type", *(f.dtype for f in files)),
            (
                "In the common part",
                *(_overlap(share) for share in (found.overlap.ms_share, found.overlap.pan_share)),
            ),
        ],
    )
    grid = scene.common_grid
    pair = [
        ("Ratio", f"{scene.ratio:.4g}"),
        ("Common grid", f"{grid.width:,} × {grid.height:,} MS pixels, {found.overlap.km2:,.4g} km²"),
        ("Alignment", found.alignment),
    ]
    shift = found.shift
    if shift is not None:
        pair.append(("Shift", shift.sentence))
        pair.append(("", shift.because))
        if shift.varies and shift.variation is not None:
            pair.append(("", f"changes by {shift.variation.range:.1f} PAN pixels over the scene"))
        elif shift.varies is None and shift.action == "correct":
            pair.append(("", "too few windows to tell whether it changes over the scene"))
    pair.append(("No data", f"{_share(found.invalid_share)} of {found.sampled_pixels:,} pixels looked at"))
    pair.extend(("", notice) for notice in scene.nodata_notices)
    if scene.mask is not None:
        pair.append(("Masked", f"{_share(found.masked_share)}, by {_last(scene.mask.path)}"))
        pair.extend(("", notice) for notice in scene.mask.notices)
    print_table("Pair", {"": "left", " ": "left"}, pair)
    print_table(
        "Bands",
        {
            **{
                "Band": "left",
                "Says": "left",
                "Used as": "left",
                "Type": "left",
                "Min": "right",
                "1 %": "right",
            },
            **{"Mean": "right", "99 %": "right", "Max": "right"},
        },
        [
            (
                f"{b.file} {b.number}",
                b.name,
                b.used_as or "–",
                b.dtype,
                *_values(b),
            )
            for b in found.bands
        ],
    )
    print_table(
        "Models",
        {"Model": "left", "Fits": "left", "Why not, or what to know": "left"},
        [(m.name, "yes" if m.fits else "no", "\n".join(m.reasons + m.cautions) or "–") for m in found.models],
    )
    print(found.verdict)
    if found.estimate is not None:
        print(_estimate(found.estimate))
    print(f"Next: {found.next_command}")
    if found.quicklook is not None:
        print(found.quicklook)


def _print_product(product: ProductReport) -> None:
    """A table of what was recognised."""
    rows = [
        ("Kind", product.kind),
        ("Name", product.name),
        *((label, text) for label, text in (("Sensor", product.sensor), ("Date", product.date)) if text),
        *((b.name, f"{b.label}: {_files(b)}") for b in product.bands),
        ("No data", "not stated" if product.nodata is None else f"{product.nodata:g}"),
        ("Clouds", product.clouds_excluded if product.clouds is None else _clouds(product)),
        ("Reflectance", _reflectance(product)),
        *(("", note) for note in product.notes),
    ]
    print_table("Product", {"": "left", " ": "left"}, rows)


def _files(band: ProductBandReport) -> str:
    number = f", band {band.band}" if band.band > 1 else ""
    more = f" and {len(band.files) - 1} more tiles" if len(band.files) > 1 else ""
    return f"{_last(band.files[0])}{number}{more}"


def _clouds(product: ProductReport) -> str:
    return f"{_last(product.clouds or '')}: {product.clouds_excluded}; left out with --mask clouds"


def _reflectance(product: ProductReport) -> str:
    if product.reflectance is None:
        return "not stated"
    return f"{product.reflectance}; {'applied' if product.reflectance_applied else 'with --reflectance'}"


def _values(band: BandReport) -> tuple[str, ...]:
    v = band.values
    return ("–",) * 5 if v is None else tuple(f"{x:.5g}" for x in (v.min, v.p01, v.mean, v.p99, v.max))


def _estimate(e: Estimate) -> str:
    memory = "" if e.memory_mb is None else f" and about {e.memory_mb / 1000:.1f} GB of memory"
    return (
        f"Estimate: {_duration(e.seconds)} for {e.pixels:,} pixels with {e.model}{memory} "
        f"(engine {e.engine} on {e.device} in {e.precision}, by a trial on {e.trial_pixels:,} pixels)"
        f"{_with_bf16(e)}"
    )


def _with_bf16(e: Estimate) -> str:
    """The gain of bfloat16 where it is worth a line, and its cost."""
    rate = e.bf16_pixels_per_second
    if rate is None or rate < 1.1 * e.pixels_per_second:
        return ""
    return (
        f"\nWith --precision bf16 it takes {_duration(e.pixels / rate)}, "
        f"{rate / e.pixels_per_second:.1f} times as fast; "
        "a few pixels in 10,000 change their class, next to boundaries"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"


def _overlap(share: float) -> str:
    """A share as a percentage, never 0 %: images without common ground are refused earlier."""
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent == 0 or percent >= 10 else f"{percent:.2g} %"


def _crs(text: str) -> str:
    """A CRS code as it is, or the name in a WKT text."""
    return text if len(text) < 40 else text.split('"')[1]


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
