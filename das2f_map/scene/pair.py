"""A pair of files as one scene: opened, checked, and read block by block on a common grid."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any

from das2f_map.errors import InputError
from das2f_map.scene.bands import BandChoice, FileBand, own_bands
from das2f_map.scene.block import SceneBlock, read_reflected
from das2f_map.scene.common_grid.pixel_map import PixelMap
from das2f_map.scene.common_grid.plan import PairPlan, Strategy, pixel_size_m, plan_pair
from das2f_map.scene.common_grid.resample import resample, sharing_distance
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.grid import PAN_PER_MS, GridPair, Window
from das2f_map.scene.mask import MaskFile, SceneMask, open_mask
from das2f_map.scene.report import (
    CommonGridReport,
    FileReport,
    MsFileReport,
    PairReport,
    ProductReport,
    ShiftCorrection,
    UsedBand,
    crs_text,
)
from das2f_map.scene.source import RasterSource
from das2f_map.scene.virtual_image import VirtualImage
from das2f_map.types import Float32

ALIGNED_TAG = "DAS2F_MAP_ALIGNED"
"""Metadata item that both files of an aligned pair have, with the same value."""


class ScenePair:
    """An MS and a PAN file on their common grid. Made by :func:`open_pair`; close it after use.

    Attributes
    ----------
    ms_path, pan_path:
        The paths as given, as text (they may be URLs); the names of virtual images.
    product:
        The product that both come from; ``None`` for two files.
    grids:
        The common grid.
    strategy:
        ``native``, ``ms-to-pan-grid`` or ``pan-to-quarter-ms``; see :mod:`das2f_map.scene.common_grid.plan`.
    ratio:
        MS over PAN pixel size, as the files have it.
    axis_ratios:
        The ratio along rows and along columns of the MS image.
    shift:
        Shift of PAN's content against MS's that is corrected while reading; ``None`` for none.
    ms_gsd_m, pan_gsd_m:
        Ground sample distances of the files, metres, also for geographic CRSs.
    bands:
        The MS bands that are read, in this order: by default all but alpha, see :meth:`with_bands`.
    file_bands:
        All bands of the MS file.
    ms_dtype, pan_dtype:
        Data types of the files.
    notices:
        Sentences on the common grid, nodata and the mask that a user should read.
    """

    def __init__(
        self,
        ms: RasterSource,
        pan: RasterSource,
        plan: PairPlan,
        mask: SceneMask | None = None,
        nodata: float | None = None,
    ) -> None:
        self._ms, self._pan = ms, pan
        self._mask = mask
        self._nodata = nodata
        self._nodata_notices = _check_nodata(ms, pan, nodata)
        self._open: list[RasterSource | SceneMask] = [ms, pan, *([] if mask is None else [mask])]
        self.shift: PanShift | None = None
        self.product: ProductReport | None = None
        self.ms_path, self.pan_path = ms.path, pan.path
        self._use_plan(plan)
        self.ms_gsd_m: float = pixel_size_m(ms.grid)
        self.pan_gsd_m: float = pixel_size_m(pan.grid)
        self.file_bands: tuple[FileBand, ...] = ms.bands
        self.bands: tuple[BandChoice, ...] = own_bands(ms.bands)
        self.ms_dtype, self.pan_dtype = ms.dtype, pan.dtype

    def _use_plan(self, plan: PairPlan) -> None:
        self._plan = plan
        self.grids: GridPair = plan.grids
        self.strategy: Strategy = plan.strategy
        self.ratio: float = plan.ratio
        self.axis_ratios: tuple[float, float] = plan.axis_ratios
        self.notices: tuple[str, ...] = (
            *plan.notices,
            *self._nodata_notices,
            *(self._mask.notices() if self._mask else ()),
        )

    @property
    def sources(self) -> tuple[RasterSource, RasterSource]:
        """The MS and the PAN file, each on its own grid."""
        return self._ms, self._pan

    @property
    def arguments(self) -> tuple[str, ...]:
        """The pair as a user names it: the MS and the PAN file, or the product."""
        return (self.ms_path, self.pan_path) if self.product is None else (self.product.path,)

    @property
    def aligned(self) -> bool:
        """Whether both files were written together by :func:`das2f_map.align`, as their tags say."""
        ms, pan = (s.tag(ALIGNED_TAG) for s in self.sources)
        return ms is not None and ms == pan

    @property
    def ms_band_names(self) -> tuple[str, ...]:
        """Names of the bands that are read: for each, the model's band that it serves as."""
        return tuple(b.role for b in self.bands)

    @property
    def ms_band_count(self) -> int:
        """Number of MS bands that are read."""
        return len(self.bands)

    def with_bands(self, bands: Sequence[BandChoice]) -> ScenePair:
        """The same open pair, reading these MS bands in this order. Closing one pair closes both."""
        other = copy.copy(self)
        other._ms = self._ms.with_bands([b.number for b in bands])
        other.bands = tuple(bands)
        other.ms_dtype = other._ms.dtype
        return other

    @property
    def origins(self) -> tuple[Window | None, Window | None]:
        """Windows of the MS and the PAN file that the common grid covers; ``None`` for a resampled file."""
        return self._plan.ms_origin, self._plan.pan_origin

    def shifted(self, shift: PanShift | None) -> ScenePair:
        """The same open pair with a shift of the contents corrected, in the one resampling.

        The common grid keeps its place but may lose or gain pixels at its border. Closing one pair closes
        both.

        Parameters
        ----------
        shift:
            Shift against the georeferencing of the files. It replaces the one that this pair corrects;
            ``None`` for none.

        Raises
        ------
        InputError
            With that shift the images do not overlap by a whole MS pixel.
        """
        other = copy.copy(self)
        # Forced: the ratio was accepted when the pair was opened.
        plan = _checked_plan(self._ms, self._pan, True, shift)
        if self._mask is not None and plan.grids != self.grids:
            other._mask = open_mask(self._mask.file, plan.grids)
            self._open.append(other._mask)
        other.shift = shift
        other._use_plan(plan)
        return other

    @property
    def mask_file(self) -> MaskFile | None:
        """The file of pixels that are left out of the map; ``None`` for none."""
        return None if self._mask is None else self._mask.file

    @property
    def nodata(self) -> float | None:
        """The nodata value that the user gives, before scale and offset; ``None`` for none."""
        return self._nodata

    @property
    def support_ms_pixels(self) -> int:
        """Distance, in MS pixels, up to which resampled pixels of the common grid share source pixels.

        Two squares of the common grid with at least this many MS pixels between them draw on no common pixel
        of either file, except for pixels extrapolated around nodata. 0 if nothing is resampled.
        """
        apart = [
            (sharing_distance(mapping) - 1.0) / scale
            for mapping, scale in ((self._plan.ms_map, 1), (self._plan.pan_map, PAN_PER_MS))
            if mapping is not None
        ]
        return max((math.ceil(a - 1e-6) for a in apart), default=0)

    def read_block(self, window: Window, before: int, after: int, *, fill: int = 0) -> SceneBlock:
        """A window with a halo; beyond the common grid the halo is a reflection of the grid.

        The reflection does not repeat the edge pixel (OpenCV's BORDER_REFLECT_101, NumPy's ``reflect``). MS
        is reflected at the MS scale and PAN at the PAN scale, each about its own edge pixels. If the grid is
        smaller than the halo, it is reflected repeatedly. Only the pixels that are needed are read.

        Parameters
        ----------
        window:
            MS pixels, inside the common grid and not empty.
        before, after:
            Halo above and left, below and right; MS pixels, not negative.
        fill:
            MS pixels from valid ones up to which invalid ones are filled, see :mod:`das2f_map.scene.fill`.

        Raises
        ------
        ValueError
            The window is empty or reaches outside the common grid, or the halo is negative.
        InputError
            A file is damaged.
        """
        grid = self.grids.ms
        if window.is_empty or window.intersection(grid.window) != window:
            raise ValueError(f"{window} is not inside the common grid of {grid.height} × {grid.width}")
        if before < 0 or after < 0:
            raise ValueError(f"halo must not be negative, got {before} and {after}")
        halo = window.padded(before, after)
        f = PAN_PER_MS
        ms_valid, pan_valid = (
            source.always_valid and mapping is None
            for source, mapping in ((self._ms, self._plan.ms_map), (self._pan, self._plan.pan_map))
        )
        ms, ms_invalid = read_reflected(self._read_ms, grid, halo, fill, always_valid=ms_valid)
        pan, pan_invalid = read_reflected(
            self._read_pan, self.grids.pan, halo.refined(f), f * fill, always_valid=pan_valid
        )
        invalid = ms_invalid
        if pan_invalid.any():
            invalid = invalid | pan_invalid.reshape(halo.height, f, halo.width, f).any(axis=(1, 3))
        valid = ~invalid[before : before + window.height, before : before + window.width]
        if self._mask is not None:
            valid &= ~self._mask.excluded(window)
        return SceneBlock(window, before, after, ms, pan, valid, invalid)

    def nothing_valid(self, area: str | Path | None = None, *, classified: bool = False) -> InputError:
        """The error to raise where no pixel of the scene is valid.

        Parameters
        ----------
        area:
            Area file that the scene was limited to.
        classified:
            Whether pixels with too much nodata around count as invalid, too.
        """
        masked = "" if self._mask is None else f"left out by mask {self._mask.file.path}"
        crowded = "with too much nodata around" if classified else ""
        *first, last = ["all nodata", *filter(None, (masked, crowded))]
        causes = f"{', '.join(first)} or {last}" if first else last
        what = "no pixel" if area is None else f"area file {area} covers no pixel that"
        where = "their overlap" if area is None else "the area"
        return InputError(
            f"{what} is valid in both {self.ms_path} and {self.pan_path}: {where} is {causes}",
            "check the nodata values with gdalinfo" + (", and what the mask leaves out" if masked else ""),
        )

    def report(self) -> PairReport:
        """The report of the pair: its files, and how they are read."""
        return PairReport(
            product=self.product,
            ms=MsFileReport(
                **_file_facts(self._ms, self.ms_gsd_m),
                used=[UsedBand(role=b.role, band=b.number, name=b.name, how=b.how) for b in self.bands],
            ),
            pan=FileReport(**_file_facts(self._pan, self.pan_gsd_m)),
            ratio=self.ratio,
            strategy=self.strategy,
            shift_corrected=None
            if self.shift is None
            else ShiftCorrection(rows_pan_px=self.shift.rows, cols_pan_px=self.shift.cols),
            common_grid=CommonGridReport.of(self.grids.ms),
            nodata=self._nodata,
            nodata_notices=list(self._nodata_notices),
            mask=None if self._mask is None else self._mask.report(),
            notices=list(self.notices),
        )

    def _read_ms(self, window: Window) -> Float32:
        return _read(self._ms, self._plan.ms_origin, self._plan.ms_map, window)

    def _read_pan(self, window: Window) -> Float32:
        return _read(self._pan, self._plan.pan_origin, self._plan.pan_map, window)

    def close(self) -> None:
        """Close all files."""
        for source in self._open:
            source.close()

    def __enter__(self) -> ScenePair:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_pair(
    ms: str | Path | VirtualImage,
    pan: str | Path | VirtualImage,
    *,
    force: bool = False,
    nodata: float | None = None,
    mask: MaskFile | None = None,
    shift: PanShift | None = None,
) -> ScenePair:
    """Open an MS and a PAN file as one scene. Use it as a context manager.

    Parameters
    ----------
    ms, pan:
        The multispectral and the panchromatic file: paths or anything else that GDAL opens; or virtual
        images.
    force:
        Take ratios of pixel sizes far from 4 too.
    nodata:
        Undeclared nodata value of both files, see :class:`RasterSource`.
    mask:
        Mask file of pixels that are not to be classified. Patches still see them.
    shift:
        Shift of PAN's content against MS's, see :mod:`das2f_map.scene.common_grid.shift`. It is corrected in
        the one resampling.

    Raises
    ------
    InputError
        A file is missing, not a raster, not georeferenced or rectified, or has complex values. The files look
        swapped, PAN has several bands, the ratio is far from 4, or the files do not overlap. The mask cannot
        be used. Neither file can hold the nodata value.
    """
    with ExitStack() as stack:  # closes the files that are open if a later step fails
        ms_source = stack.enter_context(closing(RasterSource(ms, "MS", nodata=nodata)))
        pan_source = stack.enter_context(closing(RasterSource(pan, "PAN", nodata=nodata)))
        plan = _checked_plan(ms_source, pan_source, force, shift)
        opened_mask = None if mask is None else stack.enter_context(closing(open_mask(mask, plan.grids)))
        pair = ScenePair(ms_source, pan_source, plan, opened_mask, nodata)
        pair.shift = shift
        stack.pop_all()
    return pair


def _check_nodata(ms: RasterSource, pan: RasterSource, nodata: float | None) -> tuple[str, ...]:
    """Notices on a file that cannot hold the nodata value; raises ``InputError`` if neither file can."""
    if nodata is None:
        return ()
    without = [s for s in (ms, pan) if not s.can_hold(nodata)]
    if len(without) == 2:
        raise InputError(
            f"neither MS {ms.path} ({ms.dtype}) nor PAN {pan.path} ({pan.dtype}) can hold the nodata value "
            f"{nodata:.10g}",
            "gdalinfo -stats shows what values there are",
        )
    return tuple(
        f"--nodata {nodata:.10g} has no effect on {s.role} {s.path}: its {s.dtype} values cannot be that"
        for s in without
    )


def _checked_plan(ms: RasterSource, pan: RasterSource, force: bool, shift: PanShift | None) -> PairPlan:
    if pan.band_count > 1:
        if ms.band_count == 1:
            raise InputError(
                f"MS and PAN look swapped: {ms.path} has one band, {pan.path} has {pan.band_count}",
                "give the multispectral file first, then the panchromatic one",
            )
        raise InputError(
            f"PAN file {pan.path} has {pan.band_count} bands, a panchromatic image has one",
            "take one out, e.g. gdal_translate -b 1 in.tif out.tif",
        )
    try:
        return plan_pair(ms.grid, pan.grid, force=force, shift=shift)
    except InputError as error:
        raise InputError(f"{error.message} (MS {ms.path}, PAN {pan.path})", error.hint) from error


def _read(source: RasterSource, origin: Window | None, mapping: PixelMap | None, window: Window) -> Float32:
    """Values of a file in a window of the common grid at the file's scale, resampled if need be."""
    if mapping is not None:
        return resample(source.read, mapping, window)
    assert origin is not None  # a plan has one of the two
    return source.read(window.shifted(origin.row, origin.col))


def _file_facts(source: RasterSource, gsd_m: float) -> dict[str, Any]:
    return {
        "path": source.path,
        "height": source.grid.height,
        "width": source.grid.width,
        "gsd_m": gsd_m,
        "crs": crs_text(source.grid),
        "dtype": source.dtype,
        "bands": [b.name for b in source.bands],
    }
