"""A class map as a picture to look at or print: map, legend, scale bar, north arrow, CRS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from rasterio.coords import BoundingBox
from rasterio.enums import Resampling

from das2f_map.legend import MOST_CLASSES, NODATA_CLASS, Legend, LegendClass
from das2f_map.products.class_file import ClassFile
from das2f_map.scene.antimeridian import near
from das2f_map.scene.grid import Grid
from das2f_map.types import Bool, Int64, UInt8

_MAP_INCHES = 6.4
"""Longer side of the map on paper."""
_LEGEND_INCHES = 2.3
_MARGIN = 0.22
_FOOT = 0.62
_BASE = _MARGIN + _FOOT
"""Lower edge of the map's frame: the scale bar and the notes are below it."""
_TITLE = 0.42
_INK = "#22262b"
_FAINT = "#6b7178"
PAPER = "#ffffff"
_HATCH, _HATCH_INK = "/////", "#c3c9cf"
"""Nodata is hatched: any plain colour could be taken for a class (clouds are nearly white)."""
_LONGEST_NAME = 18
_LONGEST_SIDE = 4
"""Longest side of the image that is read, in sides of a square of as many pixels as may be read."""


@dataclass(frozen=True, eq=False)
class MapAtAGlance:
    """A class map at reduced size.

    Attributes
    ----------
    classes:
        Class ids (h, w), 0 where there is none.
    grid, full:
        Geometry of the reduced map, and of the file.
    legend:
        Every class that occurs, and those that the file names; ``None`` without any.
    """

    classes: UInt8
    grid: Grid
    full: Grid
    legend: Legend | None


def read_at_a_glance(path: str | Path, max_pixels: int) -> MapAtAGlance:
    """A class map in at most ``max_pixels``.

    Raises :class:`InputError` if the file cannot be read or is no class map.
    """
    with ClassFile.open(path, "map") as file:
        full = file.grid
        factor = max(1.0, math.sqrt(full.height * full.width / max_pixels))
        # A strip of a map has a side of few pixels, and the other would be millions long.
        longest = _LONGEST_SIDE * math.isqrt(max_pixels)
        height, width = (min(longest, max(1, math.floor(n / factor))) for n in (full.height, full.width))
        # Overviews hold the most frequent class already. Without them GDAL would look at every
        # pixel for it, which is fine for small maps only.
        small = full.height * full.width <= 50_000_000
        method = Resampling.mode if small and not file.has_overviews else Resampling.nearest
        codes, valid = file.as_codes(*file.read_reduced(height, width, method))
        classes, legend = _with_legend(file, codes, valid)
    scale = Affine.scale(full.width / width, full.height / height)
    return MapAtAGlance(classes, Grid(height, width, full.transform * scale, full.crs), full, legend)


def _with_legend(file: ClassFile, codes: Int64, valid: Bool) -> tuple[UInt8, Legend | None]:
    """Class ids of a map's values, and the classes."""
    legend, ids = classes_of(file, np.unique(codes[valid]).tolist())
    classes = np.zeros(codes.shape, np.uint8)
    for code, class_id in ids.items():
        classes[valid & (codes == code)] = class_id
    return classes, legend


def classes_of(file: ClassFile, present: list[int]) -> tuple[Legend | None, dict[int, int]]:
    """The classes that a map names or has values of, and the id of each value with a class.

    Raises :class:`InputError` if there are more values than a map can have classes.
    """
    if not file.zero_is_a_class():
        present = [code for code in present if code != NODATA_CLASS]
    file.refuse_image(len(present), MOST_CLASSES)
    if all(1 <= code <= MOST_CLASSES for code in present):
        return completed(file.legend, present), {code: code for code in present}
    return Legend.of_codes(present, file.names.names)


def completed(legend: Legend | None, present: list[int]) -> Legend | None:
    """A legend with the given classes and with every other that occurs; ``None`` without any class."""
    known = {c.id: c for c in legend.each()} if legend else {}
    if not known and not present:
        return None
    missing = [i for i in present if i not in known]
    made = Legend.from_names([f"class {i}" for i in missing], missing).each() if missing else ()
    taken = {c.name for c in known.values()}
    extra = [
        c if c.name not in taken else LegendClass(id=c.id, name=f"{c.name} (unnamed)", color=c.color)
        for c in made
    ]
    return Legend(classes=(*known.values(), *extra))


def draw_map(
    classes: UInt8,
    grid: Grid,
    full: Grid,
    legend: Legend | None,
    shares: dict[int, float],
    title: str | None,
) -> Figure:
    """The picture of a class map.

    Parameters
    ----------
    classes, grid, full:
        From :func:`read_at_a_glance`; the picture names the size of ``full``.
    legend:
        With every class that occurs.
    shares:
        Class id → share of the map, 0..1.
    title:
        Above the map, if any.
    """
    image, bounds = north_up(_coloured(classes, legend), grid)
    ground = ground_of(grid)
    page = _Page.of(bounds, ground, bool(title))
    figure = Figure(figsize=(page.width, page.height))
    FigureCanvasAgg(figure)
    _image(figure, page, image, bounds)
    if title:
        at = _MARGIN / page.width, (page.height - _MARGIN - 0.08) / page.height
        figure.text(*at, title, size=14, weight="bold", color=_INK, va="top")

    # Everything else is drawn in inches.
    paper = figure.add_axes((0, 0, 1, 1))
    paper.set_xlim(0, page.width)
    paper.set_ylim(0, page.height)
    paper.axis("off")
    paper.patch.set_alpha(0)
    column, right = page.map_width + 2 * _MARGIN, page.width - _MARGIN
    has_nodata = bool((classes == NODATA_CLASS).any())
    _legend(paper, column, _BASE + page.map_height, page.map_height - 0.9, legend, shares, has_nodata)
    _north_arrow(paper, right - 0.3, _BASE + 0.38, ground.north)
    _scale_bar(paper, _MARGIN, _BASE - 0.14, page.map_width, page.inches_per_unit, ground.along_x)
    side = " × ".join(f"{n:,}" for n in (full.width, full.height))
    pixel = f"{side} pixels of {pixel_title(full)}"
    for line, text in enumerate((crs_title(full), pixel)):
        y = _BASE - 0.2 - 0.17 * line
        paper.text(right, y, text, size=7.5, color=_FAINT, ha="right", va="center")
    return figure


@dataclass(frozen=True)
class _Page:
    """Sizes of the picture and of the map's frame in it, in inches."""

    width: float
    height: float
    map_width: float
    map_height: float
    inches_per_unit: float
    """Of a CRS unit along x."""
    aspect: float
    """Ground length of a CRS unit along y over that along x: degrees are not square."""

    @classmethod
    def of(cls, bounds: BoundingBox, ground: Ground, has_title: bool) -> _Page:
        """The page for a map with these bounds in CRS units."""
        aspect = ground.along_y / ground.along_x
        sides = bounds.right - bounds.left, (bounds.top - bounds.bottom) * aspect
        # A very narrow map is still drawn with some width.
        w, h = (max(n / max(sides) * _MAP_INCHES, 1.6) for n in sides)
        inches_per_unit = min(w / sides[0], h / sides[1])
        w, h = max(w, 2.6), max(h, 2.4)
        return cls(
            w + _LEGEND_INCHES + 3 * _MARGIN,
            h + _BASE + (_TITLE if has_title else 0.0) + _MARGIN,
            w,
            h,
            inches_per_unit,
            aspect,
        )


def _image(figure: Figure, page: _Page, image: UInt8, bounds: BoundingBox) -> None:
    """Draw the map in its frame. The frame may be larger; the map keeps its proportions in the middle."""
    box = (
        _MARGIN / page.width,
        _BASE / page.height,
        page.map_width / page.width,
        page.map_height / page.height,
    )
    axes = figure.add_axes(box)
    left, bottom, right, top = bounds
    axes.imshow(image, extent=(left, right, bottom, top), interpolation="nearest", aspect="auto")
    half_w = page.map_width / page.inches_per_unit / 2
    half_h = page.map_height / page.inches_per_unit / 2 / page.aspect
    cx, cy = (left + right) / 2, (bottom + top) / 2
    axes.set_xlim(cx - half_w, cx + half_w)
    axes.set_ylim(cy - half_h, cy + half_h)
    axes.patch.set(facecolor=PAPER, edgecolor=_HATCH_INK, hatch=_HATCH, linewidth=0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_INK)
        spine.set_linewidth(0.7)


def _legend(
    paper: Axes,
    x: float,
    top: float,
    room: float,
    legend: Legend | None,
    shares: dict[int, float],
    has_nodata: bool,
) -> None:
    """Draw the classes that occur with their shares, from the top down; smaller where there are many."""
    rows: list[tuple[str, str, str]] = []
    for c in legend.each() if legend else ():
        if c.id in shares:
            rows.append((c.color, _short(c.name), _percent(shares[c.id])))
    if has_nodata:
        rows.append(("", "no data", ""))
    step = min(0.27, max(room, 0.5) / max(1, len(rows)))
    font = min(9.5, step * 72 * 0.55)
    side = step * 0.62
    for i, (colour, name, share) in enumerate(rows):
        y = top - (i + 0.5) * step
        swatch = Rectangle((x, y - side / 2), side * 1.5, side, facecolor=colour or PAPER, linewidth=0.4)
        if not colour:
            # The hatch takes the edge's colour, so the edge is drawn a second time.
            swatch.set(edgecolor=_HATCH_INK, hatch=_HATCH)
            paper.add_patch(swatch)
            swatch = Rectangle((x, y - side / 2), side * 1.5, side, fill=False, linewidth=0.4)
        swatch.set_edgecolor(_INK)
        paper.add_patch(swatch)
        middle = "center_baseline"
        paper.text(x + side * 1.5 + 0.1, y, name, color=_INK, size=font, va=middle)
        paper.text(x + _LEGEND_INCHES, y, share, color=_FAINT, size=font, va=middle, ha="right")


def _north_arrow(paper: Axes, x: float, y: float, north: float) -> None:
    """Draw an arrow about ``(x, y)`` to true north, which is not straight up in most projections."""
    to_x, to_y = math.sin(north), math.cos(north)
    paper.add_patch(
        FancyArrowPatch(
            (x - 0.25 * to_x, y - 0.25 * to_y),
            (x + 0.2 * to_x, y + 0.2 * to_y),
            arrowstyle="-|>,head_width=4,head_length=9",
            color=_INK,
            linewidth=1.2,
            shrinkA=0,
            shrinkB=0,
        )
    )
    paper.text(
        x + 0.32 * to_x,
        y + 0.32 * to_y,
        "N",
        size=10,
        weight="bold",
        color=_INK,
        ha="center",
        va="center",
    )


def _scale_bar(
    paper: Axes, x: float, y: float, width: float, inches_per_unit: float, metres_per_unit: float
) -> None:
    """Draw a black and white bar of a round length, at most a third of the map."""
    metres_per_inch = metres_per_unit / inches_per_unit
    length = round_length(metres_per_inch * max(width / 3, 1.0))
    inches = length / metres_per_inch
    parts = 4
    for i in range(parts):
        paper.add_patch(
            Rectangle(
                (x + i * inches / parts, y - 0.07),
                inches / parts,
                0.07,
                facecolor=_INK if i % 2 == 0 else PAPER,
                edgecolor=_INK,
                linewidth=0.6,
            )
        )
    unit, divisor = ("km", 1000) if length >= 1000 else ("m", 1)
    for share in (0.0, 0.5, 1.0):
        text = f"{length * share / divisor:g}" + (f" {unit}" if share == 1 else "")
        paper.text(
            x + share * inches, y - 0.13, text, size=8, color=_INK, ha="center" if share else "left", va="top"
        )


def round_length(longest: float) -> float:
    """The longest of 1, 2, 5 × 10ⁿ that is not longer than ``longest``."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(m * power for m in (1, 2, 5) if m * power <= longest * (1 + 1e-9))


def _coloured(classes: UInt8, legend: Legend | None) -> UInt8:
    """RGBA (h, w, 4), nodata transparent."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for c in legend.each() if legend else ():
        table[c.id] = (*c.rgb, 255)
    return table[classes]


def north_up(image: UInt8, grid: Grid) -> tuple[UInt8, BoundingBox]:
    """An RGBA image (h, w, 4) of a grid, turned so that north is up, and its bounds in CRS units.

    Pixels outside the grid are transparent.
    """
    xs, ys = zip(*grid.corners(), strict=True)
    bounds = BoundingBox(min(xs), min(ys), max(xs), max(ys))
    t = grid.transform
    if t.b == 0 and t.d == 0:
        image = image[:, ::-1] if t.a < 0 else image
        return (image[::-1] if t.e > 0 else image), bounds
    step_y, step_x = grid.pixel_size
    step = min(step_x, step_y)
    width = max(1, round((bounds.right - bounds.left) / step))
    height = max(1, round((bounds.top - bounds.bottom) / step))
    x = bounds.left + (np.arange(width) + 0.5) * (bounds.right - bounds.left) / width
    y = bounds.top - (np.arange(height) + 0.5) * (bounds.top - bounds.bottom) / height
    back = ~t
    cols = np.floor(back.a * x[None, :] + back.b * y[:, None] + back.c).astype(np.int64)
    rows = np.floor(back.d * x[None, :] + back.e * y[:, None] + back.f).astype(np.int64)
    inside = (rows >= 0) & (rows < grid.height) & (cols >= 0) & (cols < grid.width)
    out = np.zeros((height, width, 4), dtype=np.uint8)
    out[inside] = image[rows[inside], cols[inside]]
    return out, bounds


@dataclass(frozen=True)
class Ground:
    """Length of a CRS unit on the ground, and true north, in the middle of a map.

    ``along_x`` and ``along_y`` are metres; ``north`` is the direction of true north, radians clockwise
    from up.
    """

    along_x: float
    along_y: float
    north: float


def ground_of(grid: Grid) -> Ground:
    """The ground lengths and north of a grid.

    Where the CRS does not give them, a unit is as long as the CRS says or else one metre, and north is up.
    """
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt()) if grid.crs else None
    base = crs.geodetic_crs if crs is not None else None
    geod = crs.get_geod() if crs is not None else None
    if crs is None or base is None or geod is None:
        unit = float(grid.crs.linear_units_factor[1]) if grid.crs and grid.crs.is_projected else 1.0
        return Ground(unit, unit, 0.0)
    to_base = pyproj.Transformer.from_crs(crs, base, always_xy=True)
    degrees = math.degrees(base.axis_info[0].unit_conversion_factor)
    x, y = grid.pixel_to_map(grid.height / 2, grid.width / 2)
    # Measured over a tenth of the map: short enough to be local, long enough for rounding not to matter.
    step_y, step_x = grid.pixel_size
    reach = max(step_x * grid.width, step_y * grid.height) / 20

    def length(dx: float, dy: float) -> float:
        ends = [to_base.transform(x + s * dx, y + s * dy) for s in (-1, 1)]
        (lon0, lat0), (lon1, lat1) = [(lon * degrees, lat * degrees) for lon, lat in ends]
        return float(geod.inv(lon0, lat0, lon1, lat1)[2]) / (2 * reach)

    along_x, along_y = length(reach, 0), length(0, reach)
    if not all(math.isfinite(m) and m > 0 for m in (along_x, along_y)):
        return Ground(1.0, 1.0, 0.0)
    lon, lat = to_base.transform(x, y)
    there_lon, there_lat, _ = geod.fwd(lon * degrees, lat * degrees, 0.0, reach * along_y / 10)
    to_x, to_y = to_base.transform(there_lon / degrees, there_lat / degrees, direction="INVERSE")
    to_x = float(near(to_x, x, grid.crs))
    north = math.atan2((to_x - x) * along_x, (to_y - y) * along_y)
    return Ground(along_x, along_y, north if math.isfinite(north) else 0.0)


def pixel_title(grid: Grid) -> str:
    """The size of a grid's pixels on the ground, in metres."""
    ground, t = ground_of(grid), grid.transform
    width = math.hypot(t.a * ground.along_x, t.d * ground.along_y)
    height = math.hypot(t.b * ground.along_x, t.e * ground.along_y)
    if abs(width - height) < 0.02 * width:
        return f"{(width + height) / 2:.3g} m"
    return f"{width:.3g} × {height:.3g} m"


def crs_title(grid: Grid) -> str:
    """Name and code of a grid's CRS."""
    if not grid.crs:
        return "no CRS"
    name = pyproj.CRS.from_wkt(grid.crs.to_wkt()).name
    authority = grid.crs.to_authority(confidence_threshold=100)
    return f"{name} ({':'.join(authority)})" if authority else name


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
