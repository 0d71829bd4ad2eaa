"""How an MS grid and a PAN grid become one common grid, and what has to be resampled for it.

=====================================  ==================  =============================================
the files                              strategy            what happens
=====================================  ==================  =============================================
nest 4:1 within 0.01 PAN pixel         native              both are read as they are
ratio 4 within 3 %, same orientation   ms-to-pan-grid      PAN as it is, MS resampled once to 4 × 4 of it
any other ratio, rotation or CRS       pan-to-quarter-ms   MS as it is, PAN resampled once to a quarter
=====================================  ==================  =============================================

The common grid holds the whole MS-scale pixels inside both images; where the PAN image is turned
against the MS grid it holds the bounding rectangle, and what PAN does not cover is invalid.
The CRS is always that of the MS image.

A shift of the contents against the georeferencing goes into the one resampling: of whatever is resampled
anyway, or of PAN where the files nest. The image that is read as it is stays where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from affine import Affine
from pyproj import Geod, Transformer
from pyproj.enums import TransformDirection

from das2f_map.errors import InputError
from das2f_map.scene.common_grid.pixel_map import AffineMap, PixelMap, ProjectedMap, local_affine
from das2f_map.scene.common_grid.relation import crs_name, pyproj_crs, transformer_between
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.grid import PAN_PER_MS, Grid, GridPair, Window

Strategy = Literal["native", "ms-to-pan-grid", "pan-to-quarter-ms"]

NESTING_TOLERANCE = 0.01
"""PAN pixels by which nested grids may miss each other, and a common grid may reach over an edge."""

RATIO_TOLERANCE = 0.03
"""Relative deviation from 4 up to which MS is brought to the PAN grid, not PAN to the MS grid."""

RATIO_LIMITS = (1.5, 8.0)
"""Ratios of pixel sizes that are taken without being told to."""

_RATIO_LIMITS_MARGIN = 0.01
"""Relative; pixel sizes are rounded in files, and a ratio in another CRS changes over the scene."""


@dataclass(frozen=True)
class PairPlan:
    """The common grid of a pair and how each image gets there.

    Attributes
    ----------
    grids:
        The common grid.
    strategy:
        See the module's table.
    ratio:
        MS over PAN pixel size as the files have it, geometric mean of both directions.
    axis_ratios:
        The same along rows and along columns of the MS image.
    ms_origin, pan_origin:
        Where the common grid starts in the file, for an image read as it is: a ``Window`` of the
        file's grid; ``None`` for a resampled one.
    ms_map, pan_map:
        Common (MS-scale or PAN-scale) grid to file, for a resampled image; else ``None``.
    notices:
        What a user should know, a sentence each.
    """

    grids: GridPair
    strategy: Strategy
    ratio: float
    axis_ratios: tuple[float, float]
    ms_origin: Window | None
    pan_origin: Window | None
    ms_map: PixelMap | None
    pan_map: PixelMap | None
    notices: tuple[str, ...]


def plan_pair(ms: Grid, pan: Grid, *, force: bool = False, shift: PanShift | None = None) -> PairPlan:
    """Choose the common grid of two upright grids.

    Parameters
    ----------
    ms, pan:
        Grids of the files, the usual way up.
    force:
        Take ratios outside ``RATIO_LIMITS`` too.
    shift:
        Where PAN's content lies against that of MS, to be corrected.

    Raises
    ------
    InputError
        No overlap, PAN not finer than MS, or a ratio far from 4. The message names no file.
    """
    transformer = transformer_between(ms, pan)
    if transformer is None:
        mapping = AffineMap.between(ms, pan)
        _refuse_bad_ratio(_axis_ratios(mapping.matrix), force)
        return _plan_in_one_crs(ms, mapping.source, mapping.matrix, shift)
    projected = ProjectedMap(ms, pan, transformer)
    footprint = _pan_outline_in_ms(ms, pan, transformer).intersection(ms.window)
    if footprint.is_empty:
        raise _no_overlap()
    middle = (footprint.row + footprint.height / 2, footprint.col + footprint.width / 2)
    ratios = _axis_ratios(local_affine(projected, *middle))
    if not all(map(math.isfinite, ratios)):
        raise _no_overlap()
    _refuse_bad_ratio(ratios, force)
    notice = (
        f"PAN is in another coordinate reference system ({crs_name(pan.crs)}): "
        f"it is resampled once to a quarter of the MS pixel in {crs_name(ms.crs)}"
    )
    ratio = math.sqrt(ratios[0] * ratios[1])
    notices = (notice, *_ratio_notice(ratio))
    rows = cols = 0.0
    if shift is not None:
        # In MS pixels. What MS has at a place, PAN has so much further on: that is where it is looked up.
        rows, cols = shift.rows / ratios[0], shift.cols / ratios[1]
        footprint = _pan_outline_in_ms(ms.moved(rows, cols), pan, transformer).intersection(ms.window)
        if footprint.is_empty:
            raise _no_overlap()
        notices = (*notices, _shift_notice(shift, "PAN"))
    grids = GridPair(ms.cropped(footprint))
    looked_up = grids.pan.moved(PAN_PER_MS * rows, PAN_PER_MS * cols)
    pan_map = ProjectedMap(looked_up, pan, transformer)
    return PairPlan(grids, "pan-to-quarter-ms", ratio, ratios, footprint, None, None, pan_map, notices)


def _plan_in_one_crs(ms: Grid, pan: Grid, relation: Affine, shift: PanShift | None) -> PairPlan:
    """``relation``: MS ``(col, row)`` to PAN ``(col, row)`` by the georeferencing."""
    ratio, ratios = math.sqrt(abs(relation.determinant)), _axis_ratios(relation)
    off_diagonal = max(abs(relation.b) * ms.height, abs(relation.d) * ms.width)
    same_way = relation.a > 0 and relation.e > 0
    # A turn that moves nothing by half a PAN pixel can go into a resampling to the PAN grid.
    parallel = same_way and off_diagonal < 0.5
    near_four = parallel and all(
        abs(s / PAN_PER_MS - 1.0) <= RATIO_TOLERANCE for s in (relation.a, relation.e)
    )
    nested = _nested(ms, pan, relation) if near_four else None
    # What MS has at a place, PAN has so many MS pixels further on. The strategy stays that of the files, so
    # that the common grid is the same with and without a shift, but for its border.
    rows, cols = (0.0, 0.0) if shift is None else (shift.rows / ratios[0], shift.cols / ratios[1])
    looked_up = ms.moved(rows, cols)
    by_files, relation = relation, ~pan.transform * looked_up.transform
    if nested is not None:
        if shift is not None:
            nested = _nested(ms, pan, relation)
        if nested is not None:
            ms_origin, pan_origin = nested
            grids = GridPair(ms.cropped(ms_origin))
            moved = () if shift is None else (_shift_notice(shift, "PAN", how="by whole pixels"),)
            return PairPlan(grids, "native", ratio, ratios, ms_origin, pan_origin, None, None, moved)
    elif near_four:
        pan_origin = _whole_cells_of_pan(ms, pan, relation, like=by_files)
        cell = pan.cropped(pan_origin)
        grids = GridPair(
            Grid(
                pan_origin.height // PAN_PER_MS,
                pan_origin.width // PAN_PER_MS,
                cell.transform * Affine.scale(PAN_PER_MS),
                # The CRS objects may differ in wording only; outputs carry the MS one.
                ms.crs,
            )
        )
        not_nested = (
            "MS and PAN pixels do not nest: MS is resampled once to 4 × 4 PAN pixels, PAN is kept as it is"
        )
        nearby = (not_nested,) if shift is None else (not_nested, _shift_notice(shift, "MS"))
        ms_map = AffineMap.between(grids.ms, looked_up)
        return PairPlan(grids, "ms-to-pan-grid", ratio, ratios, None, pan_origin, ms_map, None, nearby)

    common = _whole_ms_pixels(ms, pan, relation, bounding=not parallel)
    grids = GridPair(ms.cropped(common))
    notices = _ratio_notice(ratio)
    if not parallel:
        turned = "PAN and MS rows are not parallel: PAN is resampled once to a quarter of the MS pixel"
        notices = (turned, *notices)
    if shift is not None:
        notices = (*notices, _shift_notice(shift, "PAN"))
    pan_map = AffineMap.between(grids.pan.moved(PAN_PER_MS * rows, PAN_PER_MS * cols), pan)
    return PairPlan(grids, "pan-to-quarter-ms", ratio, ratios, common, None, None, pan_map, notices)


def _shift_notice(shift: PanShift, moved: str, *, how: str = "in one resampling") -> str:
    rows, cols = (shift.rows, shift.cols) if moved == "MS" else (-shift.rows, -shift.cols)
    down = f"{abs(rows):.2f} PAN pixels {'down' if rows > 0 else 'up'}"
    right = f"{abs(cols):.2f} {'right' if cols > 0 else 'left'}"
    other = "PAN" if moved == "MS" else "MS"
    return f"the content of {moved} is moved {down} and {right} onto that of {other}, {how}"


def _nested(ms: Grid, pan: Grid, relation: Affine) -> tuple[Window, Window] | None:
    """Common windows in MS and PAN pixels if every MS pixel of the overlap is 4 × 4 whole PAN pixels."""
    rough = _whole_ms_pixels(ms, pan, relation, bounding=True)
    middle = (rough.col + rough.width // 2, rough.row + rough.height // 2)
    col, row = relation * middle
    shift_col, shift_row = round(col - PAN_PER_MS * middle[0]), round(row - PAN_PER_MS * middle[1])
    row_first, row_stop = _whole_range(-shift_row, pan.height - shift_row, PAN_PER_MS, ms.height)
    col_first, col_stop = _whole_range(-shift_col, pan.width - shift_col, PAN_PER_MS, ms.width)
    in_ms = Window(row_first, col_first, row_stop - row_first, col_stop - col_first)
    if in_ms.is_empty:
        return None
    for r in (in_ms.row, in_ms.row_stop):
        for c in (in_ms.col, in_ms.col_stop):
            u, v = relation * (c, r)
            miss = max(abs(u - PAN_PER_MS * c - shift_col), abs(v - PAN_PER_MS * r - shift_row))
            if miss > NESTING_TOLERANCE:
                return None
    fine = in_ms.refined(PAN_PER_MS)
    return in_ms, Window(fine.row + shift_row, fine.col + shift_col, fine.height, fine.width)


def _whole_range(lo: int, hi: int, step: int, stop: int) -> tuple[int, int]:
    """First and last + 1 of the cells ``step * i .. step * (i + 1)`` inside ``lo..hi``, i in 0..stop."""
    return max(0, -(-lo // step)), min(stop, hi // step)


def _whole_cells_of_pan(ms: Grid, pan: Grid, relation: Affine, like: Affine) -> Window:
    """PAN pixels, a multiple of 4 a side, inside both, in phase with the ones that ``like`` would give.

    These are, of the phases that fit, nearest to MS's own. ``like`` is ``relation`` but for a shift.
    """
    phase: list[int | None] = [None, None]
    for m in (like, relation) if like != relation else (relation,):
        (u00, v00), (u01, v01), (u10, v10), (u11, v11) = [
            m * (c, r) for r in (0, ms.height) for c in (0, ms.width)
        ]
        row, height = _cells(max(v00, v01), min(v10, v11), pan.height, phase[0])
        col, width = _cells(max(u00, u10), min(u01, u11), pan.width, phase[1])
        phase = [row, col]
    if height <= 0 or width <= 0:
        raise _no_overlap()
    return Window(row, col, height, width)


def _cells(ms_start: float, ms_stop: float, pan_stop: int, phase: int | None) -> tuple[int, int]:
    """First PAN pixel and number of them along one axis; MS's extent is given in PAN pixels."""
    first = max(0, math.ceil(ms_start - NESTING_TOLERANCE))
    stop = min(pan_stop, math.floor(ms_stop + NESTING_TOLERANCE))
    if phase is not None:
        first += (phase - first) % PAN_PER_MS
    cells = max(0, stop - first) // PAN_PER_MS

    def off_phase(start: int) -> float:
        return abs((start - ms_start + PAN_PER_MS / 2) % PAN_PER_MS - PAN_PER_MS / 2)

    last = first if phase is not None else stop - cells * PAN_PER_MS
    return min(range(first, last + 1), key=off_phase, default=first), cells * PAN_PER_MS


def _whole_ms_pixels(ms: Grid, pan: Grid, relation: Affine, *, bounding: bool) -> Window:
    """MS pixels wholly inside PAN, or all of its bounding rectangle."""
    inverse = ~relation
    (u00, v00), (u01, v01), (u10, v10), (u11, v11) = [
        inverse * (c, r) for r in (0, pan.height) for c in (0, pan.width)
    ]
    tolerance = NESTING_TOLERANCE / PAN_PER_MS
    if bounding:
        top, bottom = min(v00, v01, v10, v11), max(v00, v01, v10, v11)
        left, right = min(u00, u01, u10, u11), max(u00, u01, u10, u11)
        row, row_stop = math.floor(top + tolerance), math.ceil(bottom - tolerance)
        col, col_stop = math.floor(left + tolerance), math.ceil(right - tolerance)
    else:
        row, row_stop = math.ceil(max(v00, v01) - tolerance), math.floor(min(v10, v11) + tolerance)
        col, col_stop = math.ceil(max(u00, u10) - tolerance), math.floor(min(u01, u11) + tolerance)
    window = Window(row, col, row_stop - row, col_stop - col).intersection(ms.window)
    if window.is_empty:
        raise _no_overlap()
    return window


def _pan_outline_in_ms(ms: Grid, pan: Grid, to_pan: Transformer) -> Window:
    """MS pixels that bound the PAN image, from its outline, straight in PAN's CRS only; empty if nowhere."""
    steps = np.linspace(0.0, 1.0, 65)
    zero, one = np.zeros_like(steps), np.ones_like(steps)
    col = np.concatenate([steps, one, steps, zero]) * pan.width
    row = np.concatenate([zero, steps, one, steps]) * pan.height
    v, u = ProjectedMap(pan, ms, to_pan, TransformDirection.INVERSE).positions(row, col)
    known = np.isfinite(u) & np.isfinite(v)
    if not known.any():
        return Window(0, 0, 0, 0)
    row_first, row_stop = math.floor(v[known].min()), math.ceil(v[known].max())
    col_first, col_stop = math.floor(u[known].min()), math.ceil(u[known].max())
    return Window(row_first, col_first, row_stop - row_first, col_stop - col_first)


def _axis_ratios(relation: Affine) -> tuple[float, float]:
    """PAN pixels along an MS pixel's row step and column step."""
    return math.hypot(relation.b, relation.e), math.hypot(relation.a, relation.d)


def _refuse_bad_ratio(ratios: tuple[float, float], force: bool) -> None:
    ratio = math.sqrt(ratios[0] * ratios[1])
    if ratio < 0.95:
        raise InputError(
            f"MS and PAN look swapped: the PAN pixel is {1 / ratio:.3g} times as large as the MS pixel",
            "give the multispectral file first, then the panchromatic one",
        )
    lowest, highest = RATIO_LIMITS
    margin = 1 + _RATIO_LIMITS_MARGIN
    if not force and (min(ratios) < lowest / margin or max(ratios) > highest * margin):
        apart = f"{ratio:.3g}" if max(ratios) < 1.05 * min(ratios) else f"{ratios[0]:.3g} × {ratios[1]:.3g}"
        raise InputError(
            f"the MS : PAN pixel size ratio is {apart}, too far from 4 "
            f"({lowest:g} to {highest:g} are taken, within 1 %)",
            "check that both files belong to one sensor; --force takes them all the same",
        )


def _ratio_notice(ratio: float) -> tuple[str, ...]:
    if abs(ratio / PAN_PER_MS - 1.0) <= RATIO_TOLERANCE:
        return ()
    return (
        f"PAN is {ratio:.3g} times finer than MS, not 4: it is resampled once to a quarter of the MS pixel",
    )


def _no_overlap() -> InputError:
    return InputError(
        "MS and PAN do not overlap by a whole MS pixel", "check that both files show the same place"
    )


def pixel_size_m(grid: Grid) -> float:
    """Ground sample distance in metres, geometric mean of both directions, at the grid's centre.

    A projected CRS whose scale is true within 1 % there gives its nominal pixel size (10 m stays
    10 m in UTM); otherwise (geographic, Web Mercator) it is measured on the ellipsoid.
    """
    crs = pyproj_crs(grid.crs)
    row, col = grid.height / 2, grid.width / 2
    ends = [(row, col - 0.5), (row, col + 0.5), (row - 0.5, col), (row + 0.5, col)]
    x, y = np.array([grid.pixel_to_map(*p) for p in ends]).T
    nominal = None
    if not crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        rows, cols = grid.pixel_size
        nominal = math.sqrt(rows * cols) * unit
    geodetic = crs.geodetic_crs
    if geodetic is None or crs.ellipsoid is None:
        return nominal if nominal is not None else math.nan
    lon, lat = Transformer.from_crs(crs, geodetic, always_xy=True).transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return nominal if nominal is not None else math.nan
    geod = Geod(a=crs.ellipsoid.semi_major_metre, b=crs.ellipsoid.semi_minor_metre)
    _, _, length = geod.inv(lon[0::2], lat[0::2], lon[1::2], lat[1::2])
    measured = math.sqrt(float(length[0]) * float(length[1]))
    if nominal is not None and abs(nominal / measured - 1.0) < 0.01:
        return nominal
    return measured
