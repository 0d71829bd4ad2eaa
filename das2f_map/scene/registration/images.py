"""MS and PAN of a small window on the MS file's own grid, PAN averaged over MS footprints at any shift.

MS is not resampled: its pixels are taken as they are in the file. They are compared with averages of PAN over
their footprints, moved by a trial shift. These averages are exact for footprints of whole PAN pixels; for
others the running integral of PAN is interpolated (:mod:`das2f_map.scene.common_grid.resample`).
"""

from __future__ import annotations

import numpy as np

from das2f_map.scene.common_grid.pixel_map import PixelMap
from das2f_map.scene.common_grid.relation import Relation
from das2f_map.scene.common_grid.resample import fill_rings, resample
from das2f_map.scene.grid import PAN_PER_MS, GridPair, Window
from das2f_map.scene.mask import SceneMask, open_mask
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.source import RasterSource
from das2f_map.types import Bool, Float32, Float64

MAX_BANDS = 12
"""Most bands that are compared; of a file with more, as many are taken, spread evenly over it."""

_MASK_MARGIN = 2
"""MS pixels around masked ones that are left out, too."""

_SATURATED_SHARE = 0.01
"""Part of a window's pixels over which pixels at its highest value count as saturated."""


class MatchImages:
    """The files of a pair, window by window. Use it as a context manager: it opens the mask once more."""

    def __init__(self, pair: ScenePair) -> None:
        self.ms, self.pan = pair.sources
        if self.ms.band_count > MAX_BANDS:
            chosen = np.linspace(0, pair.ms_band_count - 1, MAX_BANDS).round().astype(int)
            self.ms = self.ms.with_bands([pair.bands[i].number for i in chosen])
        self.grid = self.ms.grid
        self.ratios = pair.axis_ratios
        # Found once: PROJ takes far longer to find the conversion than to convert a window.
        self.relation = Relation(self.grid, self.pan.grid)
        self._mask: SceneMask | None = None
        if pair.mask_file is not None:
            self._mask = open_mask(pair.mask_file, GridPair(self.grid))
        self.overlap = _overlap(pair)

    def window(self, window: Window) -> MatchWindow:
        """Read a window of MS pixels."""
        values = self.ms.read(window).astype(np.float64)
        if self._mask is not None and not window.is_empty:
            values[:, self._excluded(window)] = np.nan
        return MatchWindow(self, window, values)

    def _excluded(self, window: Window) -> Bool:
        """Masked MS pixels and those near them, bool (h, w).

        Once PAN is moved, the footprint of a pixel near a mask may lie in the mask.
        """
        assert self._mask is not None
        wide = window.padded(_MASK_MARGIN, _MASK_MARGIN)
        known = wide.intersection(self.grid.window)
        near = np.zeros((wide.height, wide.width), dtype=np.bool_)
        top, left = known.row - wide.row, known.col - wide.col
        near[top : top + known.height, left : left + known.width] = self._mask.excluded(known)
        reach = 2 * _MASK_MARGIN + 1
        return np.asarray(np.lib.stride_tricks.sliding_window_view(near, (reach, reach)).any(axis=(2, 3)))

    def __enter__(self) -> MatchImages:
        return self

    def __exit__(self, *_: object) -> None:
        if self._mask is not None:
            self._mask.close()


class MatchWindow:
    """A window of MS pixels, and PAN averaged over them at any shift.

    Attributes
    ----------
    window:
        MS pixels of the file.
    ms:
        float64 (bands, h, w), NaN where invalid, masked or saturated.
    valid:
        bool (h, w): no band is NaN.
    """

    def __init__(self, images: MatchImages, window: Window, ms: Float64) -> None:
        self.window = window
        self.ms = ms
        self._images = images
        self._held = _Held(images.pan, round(2.5 * max(images.ratios)))
        for band in self.ms:
            _drop_saturated(band)
        self.valid: Bool = np.asarray(np.isfinite(self.ms).all(axis=0))

    def pan_at(self, rows: float, cols: float) -> Float64:
        """PAN averaged over MS footprints that are moved by (rows, cols) MS pixels.

        float64 (h, w), NaN where invalid.
        """
        images = self._images
        mapping = images.relation.between(images.grid.moved(rows, cols), images.pan.grid)
        averages: Float64 = self._resample(mapping, self.window).astype(np.float64)
        return averages

    def _resample(self, mapping: PixelMap, window: Window) -> Float32:
        """PAN averaged over the footprints of a window's pixels, float32 (h, w)."""
        return np.asarray(resample(self._held, mapping, window, self._held.filled)[0])

    def pan_around(self, rows: float, cols: float, reach: int) -> tuple[Float64, Float64]:
        """PAN averages for trial shifts around (rows, cols), in steps of a quarter of an MS pixel.

        Returns
        -------
        tuple of float64 (2 × reach + 1, 2 × reach + 1, h, w) and (2 × reach + 1,)
            The averages, by steps along rows and along columns, and the steps in MS pixels from ``rows`` and
            from ``cols``.
        """
        f = PAN_PER_MS
        grid = self._images.grid.moved(rows, cols).refined(f)
        fine = self.window.refined(f).padded(reach, reach)
        mapping = self._images.relation.between(grid, self._images.pan.grid)
        quarters = self._resample(mapping, fine).astype(np.float64)
        invalid = ~np.isfinite(quarters)
        boxes = _box_sums(np.where(invalid, 0.0, quarters), f)
        boxes /= f**2
        if invalid.any():
            boxes[_box_sums(invalid.astype(np.float64), f) > 0] = np.nan
        h, w = self.window.height, self.window.width
        places = np.lib.stride_tricks.sliding_window_view(boxes, (f * (h - 1) + 1, f * (w - 1) + 1))
        return np.ascontiguousarray(places[:, :, ::f, ::f]), np.arange(-reach, reach + 1) / f


def _box_sums(values: Float64, side: int) -> Float64:
    """Sums over all boxes of ``side`` by ``side`` values, float64 (h - side + 1, w - side + 1)."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    total[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    sums: Float64 = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return sums


class _Held:
    """A part of a file kept in memory, which is read anew only if a window reaches outside it."""

    def __init__(self, source: RasterSource, margin: int) -> None:
        self._source, self._margin = source, margin
        self._window = Window(0, 0, 0, 0)
        self._values: Float32 | None = None
        self._filled: Float32 | None = None

    def __call__(self, window: Window) -> Float32:
        if self._values is None or window.intersection(self._window) != window:
            self._window = window.padded(self._margin, self._margin)
            self._values, self._filled = self._source.read(self._window), None
        return self._part(self._values, window)

    def filled(self, window: Window) -> Float32:
        """As a call, with invalid pixels filled from the valid ones around; filled once for all windows."""
        self(window)
        assert self._values is not None
        if self._filled is None:
            self._filled = fill_rings(self._values)
        return self._part(self._filled, window)

    def _part(self, values: Float32, window: Window) -> Float32:
        row, col = window.row - self._window.row, window.col - self._window.col
        return values[:, row : row + window.height, col : col + window.width]


def _drop_saturated(band: Float64) -> None:
    """Make pixels at the band's highest value NaN, in place, if so many can only be saturated."""
    finite = np.isfinite(band)
    if not finite.any():
        return
    highest = band[finite].max()
    at_top = finite & (band == highest)
    # A window with this value alone is flat; matching leaves it out for want of texture.
    if at_top.sum() > max(4, _SATURATED_SHARE * finite.sum()) and not at_top[finite].all():
        band[at_top] = np.nan


def _overlap(pair: ScenePair) -> Window:
    """The MS file's pixels in the common grid, to about a pixel, by the georeferencing alone."""
    ms = pair.sources[0].grid
    common = (pair if pair.shift is None else pair.shifted(None)).grids.ms
    corners = np.array([ms.map_to_pixel(*xy) for xy in common.corners()])
    row, col = np.floor(corners.min(axis=0) + 1e-6).astype(int)
    row_stop, col_stop = np.ceil(corners.max(axis=0) - 1e-6).astype(int)
    window = Window(int(row), int(col), int(row_stop - row), int(col_stop - col))
    return window.intersection(ms.window)
