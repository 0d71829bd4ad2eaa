"""Options and arguments that several commands share, each defined once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from das2f_map.cli.completion import (
    DEVICE_NAMES,
    complete_model,
    from_list,
    require_choice,
    require_device,
)
from das2f_map.engines.choice import EngineChoice
from das2f_map.scene.shift_choice import CoregisterMode
from das2f_map.settings import Setting, settings_of

if TYPE_CHECKING:
    from das2f_map.scene.mask import MaskFile


def setting_option(owner: type, name: str, metavar: str | None = None) -> Any:
    """The command-line option of a setting, with its flag, range and help text.

    The setting is the field ``name`` of the dataclass ``owner``. Commands use ``owner.name`` as the default.
    """
    known = settings_of(owner)[name]
    # Typer's ranges include their ends, and let nan pass; the check knows the whole range.
    low = known.gt if known.ge is None else known.ge
    high = known.lt if known.le is None else known.le
    words = [choice for choice in known.choices if isinstance(choice, str)]
    check: Callable[[Any], Any] | None = None
    complete: Callable[[str], list[str]] | None = None
    if words:
        check, complete = require_choice(words, name), from_list(words)
    elif name == "device":
        check, complete = require_device, from_list(DEVICE_NAMES)
    elif known.kind in (int, float):
        check = _in_range(known)
    return typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=metavar,
        min=low,
        max=high,
        help=known.help,
        show_default=True,
        callback=check,
        autocompletion=complete,
    )


def _in_range(known: Setting) -> Callable[[Any], Any]:
    """A function that gives a value back if the setting can have it, or raises ``BadParameter``."""

    def check(value: Any) -> Any:
        if reason := known.refusal(value):
            raise typer.BadParameter(reason)
        return value

    return check


def _finite(value: float) -> float:
    """The value, if it is finite; Typer's range check lets nan pass."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number of pixels")
    return value


_MS_HELP = "Multispectral image: a file, or a URL that GDAL reads. Without PAN: a product as delivered."
_PAN_HELP = "Panchromatic image of the same place, about four times finer."
MsArgument = Annotated[str, typer.Argument(metavar="MS", help=_MS_HELP)]
OptionalMsArgument = Annotated[str | None, typer.Argument(metavar="MS", help=_MS_HELP)]
PanArgument = Annotated[str | None, typer.Argument(metavar="PAN", help=_PAN_HELP)]
MapArgument = Annotated[
    str, typer.Argument(metavar="LANDCOVER", help="Class raster, as `das2f-map classify` writes it.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH", help="Bundled model, or a bundle's path.", autocompletion=complete_model
    ),
]
EngineOption = Annotated[str, setting_option(EngineChoice, "engine", metavar="ENGINE")]
DeviceOption = Annotated[str, setting_option(EngineChoice, "device", metavar="DEVICE")]
PrecisionOption = Annotated[str, setting_option(EngineChoice, "precision", metavar="PRECISION")]
BandsOption = Annotated[
    str | None,
    typer.Option(
        "--bands",
        metavar="NAME=BAND,…",
        help="Which MS band is which, by number from 1 or by name: blue=3,green=2,red=1,nir=B8.",
    ),
]
NodataOption = Annotated[
    float | None,
    typer.Option(
        "--nodata",
        metavar="VALUE",
        help="Nodata value that the files do not declare; in MS, where all bands have it.",
    ),
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="FILE|clouds",
        help="Leave out pixels in these polygons, or not 0 in this raster; clouds: those of the product's "
        "quality band.",
    ),
]
MaskValuesOption = Annotated[
    str | None,
    typer.Option(
        "--mask-values", metavar="N,N-N…", help="Of a raster mask, leave out these values instead: 3,8-10."
    ),
]
MaskBitsOption = Annotated[
    str | None,
    typer.Option(
        "--mask-bits",
        metavar="N,N…",
        help="Of a raster mask, leave out where any of these bits is set, 0 the lowest.",
    ),
]
ReflectanceOption = Annotated[
    bool,
    typer.Option("--reflectance", help="Read reflectance, by the scale and offset that the product states."),
]
CoregisterOption = Annotated[
    CoregisterMode,
    typer.Option(
        "--coregister",
        help="Correct the shift between MS and PAN: auto if over 0.3 PAN pixel, on always, off never.",
        show_default=True,
    ),
]
MaxShiftOption = Annotated[
    float,
    typer.Option(
        "--max-shift",
        metavar="PX",
        min=0.1,
        callback=_finite,
        help="Refuse a larger shift, in PAN pixels.",
        show_default=True,
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Go on with an MS : PAN ratio under 1.5 or over 8.")
]
ClassFieldOption = Annotated[
    str | None,
    typer.Option(
        "--class-field", metavar="FIELD", help="Attribute with the class; by default the only plausible one."
    ),
]

LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", metavar="NAME", help="Layer of a vector file; by default the only one that fits."
    ),
]
AoiLayerOption = Annotated[
    str | None,
    typer.Option(
        "--aoi-layer", metavar="NAME", help="Layer of the --aoi file; by default the only one with polygons."
    ),
]


def bands_of(text: str | None) -> dict[str, int | str] | None:
    """Bands by role from the text of ``--bands``; ``None`` if it is not given."""
    if text is None:
        return None
    from das2f_map.scene.bands import parse_bands

    try:
        return parse_bands(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bands") from error


def mask_of(mask: str | None, values: str | None, bits: str | None) -> MaskFile | Literal["clouds"] | None:
    """The mask from the texts of ``--mask``, ``--mask-values`` and ``--mask-bits``; ``None`` without mask."""
    if mask is None:
        for option, given in (("--mask-values", values), ("--mask-bits", bits)):
            if given is not None:
                raise typer.BadParameter("it needs --mask FILE, too", param_hint=option)
        return None
    if mask == "clouds":
        for option, given in (("--mask-values", values), ("--mask-bits", bits)):
            if given is not None:
                raise typer.BadParameter("it needs a file, not --mask clouds", param_hint=option)
        return "clouds"
    from das2f_map.scene.mask import MaskFile, parse_numbers

    def numbers(text: str | None, option: str) -> tuple[int, ...]:
        try:
            return () if text is None else parse_numbers(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=option) from error

    file = MaskFile(mask, numbers(values, "--mask-values"), numbers(bits, "--mask-bits"))
    if min(file.bits, default=0) < 0:
        raise typer.BadParameter("bits count from 0, the lowest", param_hint="--mask-bits")
    return file


MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory that the run may take, such as 2G; by default what is free, at most 4G.",
    ),
]

ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="ADDRESS", help="Dask scheduler whose workers compute: tcp://host:8786."
    ),
]
