"""Resampling of footprint averages, window by window; a pixel gets the same value in any window.

A pixel holds the average of the ground over its footprint, so a resampled pixel should hold the average over
*its* footprint. In one dimension that average is ``(F(hi) - F(lo)) / (hi - lo)``. F is the running integral,
which is known exactly at every source pixel edge. Between the edges, F is interpolated by cubic convolution
with six nodes (the fourth-order kernel of Keys, 1981, doi 10.1109/TASSP.1981.1163711). It follows that

* pixels of equal size get plain cubic convolution. It has six nodes because the usual four misplace detail
  of 8 pixels' wavelength by up to 0.009 pixel, for MS 0.036 PAN pixel; six misplace it by 0.005;
* finer pixels that tile a source pixel average to exactly that pixel; coarser ones are averages over all of
  their footprint, not point samples;
* weights are symmetric about the footprint's centre, so nothing moves.

In two dimensions, rows and columns are interpolated in turn. A footprint that is turned against the source
grid is replaced by the upright box of equal second moments about the same centre.

Nodata: a target is invalid if more than ``MAX_INVALID_SHARE`` of its footprint is invalid. For all other
targets, invalid pixels within reach of the kernel are first replaced by limited linear extrapolation from the
valid ones. So a nodata value never enters a sum, and a scene's border pixels do not move.

Every position is computed from the target's row and column in the *whole* grid, and every sum runs in a fixed
order. So results are equal to the last bit for any window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from das2f_map.scene.common_grid.pixel_map import AxisMaps, PixelMap
from das2f_map.scene.grid import Window
from das2f_map.types import Float32, Float64, Int64

MAX_INVALID_SHARE = 0.03
"""Largest part of a resampled pixel's footprint that may be invalid."""

_KERNEL = 2
"""Source pixels that the kernel reaches beyond the footprint, counted from the pixels that hold its ends."""

_RINGS = 3
"""Rings of invalid pixels around valid ones that are filled: the kernel's reach, and one for a footprint of
which a sliver is invalid."""

_REACH = 14
"""Source pixels read around a footprint: 3 for the kernel, 9 for the 3 rings (each is filled from 3 pixels),
2 to spare."""


def sharing_distance(mapping: PixelMap) -> float:
    """Chebyshev distance, in target pixels, from which on no two targets share a source pixel.

    It is 1 where each target pixel is a source pixel. A target draws on the source pixels that its footprint
    touches and on ``_KERNEL`` more to either side. Extrapolation around nodata is not counted.
    """
    height, width = mapping.footprint
    # Two targets share no pixel if at least this many source pixels lie between their footprints.
    free = 2 * _KERNEL + 1
    distance = 1.0
    for m in mapping.local:
        inverse = ~m
        distance = max(
            distance,
            abs(inverse.a) * (width + free) + abs(inverse.b) * (height + free),
            abs(inverse.d) * (width + free) + abs(inverse.e) * (height + free),
        )
    return distance


def resample(
    read: Callable[[Window], Float32],
    mapping: PixelMap,
    window: Window,
    filled: Callable[[Window], Float32] | None = None,
) -> Float32:
    """Footprint averages of the target pixels of a window, see the module's note.

    Parameters
    ----------
    read:
        Gives a window of the source as float32 (bands, height, width), NaN where invalid or outside.
    mapping:
        Map from target pixels to source pixels.
    window:
        The window, in target pixels.
    filled:
        Gives a window of :func:`fill_rings` of the source, or of a part that holds the window; by default a
        window is filled when it is read.

    Returns
    -------
    float32 (bands, height, width), NaN where invalid.
    """
    axes = mapping.separable
    if axes is not None:
        return _resample_separable(read, axes, window, filled)
    # In strips to bound memory: the general form holds an index and weights for every target pixel and tap.
    strips = []
    for row in range(window.row, window.row_stop, 128):
        strip = Window(row, window.col, min(128, window.row_stop - row), window.width)
        strips.append(_resample_general(read, mapping, strip))
    return np.concatenate(strips, axis=1)


def _resample_separable(
    read: Callable[[Window], Float32],
    axes: AxisMaps,
    window: Window,
    filled: Callable[[Window], Float32] | None,
) -> Float32:
    rows = (axes.row_scale, axes.row_start, window.row, window.row_stop)
    cols = (axes.col_scale, axes.col_start, window.col, window.col_stop)
    source = _around(*_ends(*rows), *_ends(*cols))
    values = read(source)
    valid = np.isfinite(values)

    row_first, row_w = _axis_weights(*rows, _kernel_step)
    col_first, col_w = _axis_weights(*cols, _kernel_step)
    all_valid = bool(valid.all())
    if not all_valid:
        values = fill_rings(values) if filled is None else filled(source)
    out = _apply(values, row_first - source.row, row_w, axis=1)
    out = _apply(out, col_first - source.col, col_w, axis=2)
    if not all_valid:
        row_first, row_w = _axis_weights(*rows, _box_step)
        col_first, col_w = _axis_weights(*cols, _box_step)
        share = _apply(valid.astype(np.float32), row_first - source.row, row_w, axis=1)
        share = _apply(share, col_first - source.col, col_w, axis=2)
        out[share < 1.0 - MAX_INVALID_SHARE] = np.nan
    return out


def _edges(scale: float, start: float, begin: int, end: int) -> Float64:
    """Source positions of the edges of the target pixels ``begin`` to ``end`` along one axis."""
    edges: Float64 = scale * np.arange(begin, end + 1, dtype=np.float64) + start
    return edges


def _ends(scale: float, start: float, begin: int, end: int) -> tuple[float, float]:
    """The first and the last of :func:`_edges`."""
    return scale * float(begin) + start, scale * float(end) + start


@lru_cache(maxsize=32)
def _axis_weights(
    scale: float, start: float, begin: int, end: int, step: Callable[[Float64], Float64]
) -> tuple[Int64, Float32]:
    """As :func:`_weights`, for target pixels along one axis.

    The last ones are kept: neighbouring blocks share an axis, and so do trial shifts of a window.
    """
    edges = _edges(scale, start, begin, end)
    first, weights = _weights(edges[:-1], edges[1:], step)
    first.flags.writeable = weights.flags.writeable = False
    return first, weights


def _apply(values: Float32, first: Int64, weights: Float32, axis: int) -> Float32:
    """Weighted sum along an axis: out[i] = sum over t of weights[t, i] * values[first[i] + t]."""
    shape = [1, 1, 1]
    shape[axis] = -1
    step = _even_step(first)

    def tap(t: int) -> Float32:
        if step is None:
            return np.take(values, first + t, axis=axis)
        begin = int(first[0]) + t
        return values[(slice(None),) * axis + (slice(begin, begin + step * (len(first) - 1) + 1, step),)]

    total: Float32 = tap(0) * weights[0].reshape(shape)
    for t in range(1, len(weights)):
        total += tap(t) * weights[t].reshape(shape)
    return total


def _even_step(places: Int64) -> int | None:
    """The step between places if it is the same everywhere: their values need not be copied to be used."""
    if len(places) < 2:
        return None
    step = int(places[1]) - int(places[0])
    return step if step > 0 and places[0] >= 0 and (np.diff(places) == step).all() else None


def _resample_general(read: Callable[[Window], Float32], mapping: PixelMap, window: Window) -> Float32:
    row, col = mapping.centres(window)
    height, width = mapping.footprint
    tall, wide = mapping.bounding
    # Only positions on the source count for the window to read: others may lie at any distance.
    on_rows = (row > -tall) & (row < mapping.source.height + tall)
    known = on_rows & (col > -wide) & (col < mapping.source.width + wide)
    if not known.any():
        # Only the source knows its number of bands; reading an empty window tells it at no cost.
        bands = read(Window(0, 0, 0, 0)).shape[0]
        return np.full((bands, window.height, window.width), np.nan, dtype=np.float32)
    source = _around(
        row[known].min() - tall / 2,
        row[known].max() + tall / 2,
        col[known].min() - wide / 2,
        col[known].max() + wide / 2,
    )
    row = np.where(known, row, source.row + 0.5 * source.height)
    col = np.where(known, col, source.col + 0.5 * source.width)
    values = read(source)
    valid = np.isfinite(values)
    out = _gather(
        values if valid.all() else fill_rings(values), source, (row, col), (height, width), _kernel_step
    )
    if not valid.all():
        share = _gather(valid.astype(np.float32), source, (row, col), (tall, wide), _box_step)
        out[share < 1.0 - MAX_INVALID_SHARE] = np.nan
    out[:, ~known] = np.nan
    return out


def _gather(
    values: Float32,
    source: Window,
    centre: tuple[Float64, Float64],
    size: tuple[float, float],
    step: Callable[[Float64], Float64],
) -> Float32:
    """Weighted sums around any centres; ``values``: the source window's pixels, float32 (bands, h, w)."""
    row, col = centre
    row_first, row_w = _weights(row - size[0] / 2, row + size[0] / 2, step)
    col_first, col_w = _weights(col - size[1] / 2, col + size[1] / 2, step)
    row_first, col_first = row_first - source.row, col_first - source.col
    bands, _, w = values.shape
    flat = values.reshape(bands, -1)
    total: Float32 = np.zeros((bands, *row.shape), dtype=np.float32)
    for r in range(len(row_w)):
        base = (row_first + r) * w + col_first
        line: Float32 = np.zeros_like(total)
        for c in range(len(col_w)):
            line += np.take(flat, base + c, axis=1) * col_w[c]
        total += line * row_w[r]
    return total


def _around(row_lo: float, row_hi: float, col_lo: float, col_hi: float) -> Window:
    row, col = math.floor(row_lo) - _REACH, math.floor(col_lo) - _REACH
    return Window(row, col, math.ceil(row_hi) + _REACH - row, math.ceil(col_hi) + _REACH - col)


def _weights(lo: Float64, hi: Float64, step: Callable[[Float64], Float64]) -> tuple[Int64, Float32]:
    """First source pixel and weights (taps, …) of the average over ``lo``..``hi``, summing to 1."""
    first = np.floor(lo).astype(np.int64) - _KERNEL
    width = hi - lo
    taps = math.ceil(float(width.max())) + 2 * _KERNEL + 1
    if lo.ndim == 1:
        source = first + np.arange(taps)[:, None]
        above, below = step(np.stack([hi - source, lo - source]))
        weights = (above - below) / width
    else:  # one tap at a time: temporary arrays for all taps of all pixels would take much memory
        weights = np.stack([(step(hi - (first + t)) - step(lo - (first + t))) / width for t in range(taps)])
    return first, weights.astype(np.float32)


def _kernel_step(u: Float64) -> Float64:
    """Coefficient of source pixel j in the interpolated integral F(x), where ``u = x - j``."""
    whole = np.floor(u)
    t = u - whole
    v = 1.0 - t
    # Keys' weights of the six edges about x, from the farthest below to the farthest above.
    below3, below2 = t * v * v / 12.0, t * (-2.0 / 3.0 + t * (1.25 - t * 7.0 / 12.0))
    above3, above2 = v * t * t / 12.0, v * (-2.0 / 3.0 + v * (1.25 - v * 7.0 / 12.0))
    above1 = 1.0 + v * v * (-7.0 / 3.0 + v * 4.0 / 3.0)
    result: Float64 = np.choose(
        (np.clip(whole, -3.0, 3.0) + 3.0).astype(np.intp),
        [
            0.0,
            above3,
            above3 + above2,
            above3 + above2 + above1,
            1.0 - below3 - below2,
            1.0 - below3,
            1.0,
        ],
    )
    return result


def _box_step(u: Float64) -> Float64:
    """As :func:`_kernel_step`, for weights that are plain shares of the area."""
    return np.clip(u, 0.0, 1.0)


_STRAIGHT = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def fill_rings(values: Float32) -> Float32:
    """Values with rings of invalid pixels around valid ones extrapolated, and 0 farther away."""
    out: Float32 = values.copy()
    for plane in out:
        for _ in range(_RINGS):
            _fill_ring(plane)
    out[~np.isfinite(out)] = 0.0
    return out


def _fill_ring(plane: Float32) -> None:
    """Give invalid pixels next to valid ones the mean of limited linear extrapolations, in place.

    Extrapolation runs along rows and columns if a neighbour there is valid, else along diagonals. So a line
    that runs straight into the border of the valid area goes on straight. The slope is the smaller of the
    last two if they agree in sign, else 0. So an edge right at the border of the valid area does not
    overshoot.
    """
    near = np.pad(plane, 3, constant_values=np.nan)
    valid = np.isfinite(near)
    if valid[3:-3, 3:-3].all() or not valid.any():
        return
    h, w = plane.shape
    touched = np.zeros((h, w), dtype=bool)
    for dr, dc in _STRAIGHT + _DIAGONAL:
        touched |= valid[3 + dr : 3 + dr + h, 3 + dc : 3 + dc + w]
    row, col = np.nonzero(touched & ~valid[3:-3, 3:-3])
    total = np.zeros(len(row), dtype=np.float64)
    count = np.zeros(len(row), dtype=np.int64)
    for directions in (_STRAIGHT, _DIAGONAL):
        open_still = count == 0
        for dr, dc in directions:
            f1, f2, f3 = (near[row + 3 + k * dr, col + 3 + k * dc].astype(np.float64) for k in (1, 2, 3))
            last, before = f1 - f2, f2 - f3
            limited = np.sign(last) * np.minimum(np.abs(last), np.abs(before))
            slope = np.where(last * before > 0, limited, 0.0)
            here = np.isfinite(f1) & open_still
            total += np.where(here, f1 + slope, 0.0)
            count += here
    plane[row, col] = (total / count).astype(np.float32)
