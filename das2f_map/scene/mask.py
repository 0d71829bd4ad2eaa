"""Masks: files that exclude pixels from the map, such as clouds and shadows.

A mask is a vector file or a raster of one band, in any CRS and on any grid. A vector file excludes the inside
of its polygons; a raster excludes pixels with certain values or bits. The mask is looked up at the centres of
the 4 × 4 PAN-scale pixels of each MS pixel. An MS pixel is excluded if at least half of these are. Nothing
is excluded outside the file, nor where a raster has nodata. If the user chooses the nodata value by its
number, it is a value like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.errors import RasterioError
from shapely import affinity

from das2f_map.errors import InputError
from das2f_map.scene.antimeridian import lookups, turns_within
from das2f_map.scene.area import Area
from das2f_map.scene.common_grid.pixel_map import PixelMap
from das2f_map.scene.common_grid.relation import map_between
from das2f_map.scene.grid import PAN_PER_MS, Grid, GridPair, Window
from das2f_map.scene.paths import image_path, missing_local_file
from das2f_map.scene.reduced import reduced_windows
from das2f_map.scene.report import MaskReport
from das2f_map.scene.source import RasterSource
from das2f_map.scene.spread import spread_blocks
from das2f_map.scene.vector_file import UnreadableVectorError
from das2f_map.scene.vector_path import local_file
from das2f_map.types import Bool

_HALF = PAN_PER_MS * PAN_PER_MS // 2
_OUTLINE_PARTS = 64
"""Parts that each side of the scene is cut into: a straight line in one CRS is a curve in another."""

_STRIP = 64
"""MS pixel rows that are looked up at a time, to bound memory: a mask may be far finer than the scene."""

_PROBE, _PROBE_BLOCK = 500_000, 128
"""MS pixels that are searched for an excluded one, and the side of the blocks they are read in, MS pixels."""

_NUMBERS = re.compile(r"(-?\d+)(?:\s*-\s*(-?\d+))?")


@dataclass(frozen=True)
class BitPattern:
    """A field of bits, as the quality bands of products have them, and its value where a pixel is excluded.

    Attributes
    ----------
    bits:
        The number with all bits of the field set: 3 << 14 for bits 14 and 15.
    value:
        The number with those bits of the field set that are set in an excluded pixel, and no others.
    """

    bits: int
    value: int

    @classmethod
    def of(cls, first: int, length: int, value: int) -> BitPattern:
        """The pattern of ``length`` bits from bit ``first`` on, excluded where they are ``value``."""
        return cls(((1 << length) - 1) << first, value << first)


@dataclass(frozen=True)
class MaskFile:
    """A mask file and the pixels of it that a user excludes.

    Attributes
    ----------
    path:
        Vector or raster file.
    values:
        Values of a raster that are excluded; if empty, all values but 0.
    bits:
        Bits of a raster, in place of values: pixels with any of them set are excluded. Bit 0 is the lowest.
        Negative numbers have the bits of their two's complement in the raster's own type.
    patterns:
        Fields of bits of a raster, in place of values and bits: pixels that match any of them are excluded.
    """

    path: str | Path
    values: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()
    patterns: tuple[BitPattern, ...] = ()


def parse_numbers(text: str) -> tuple[int, ...]:
    """``"3,8-10"`` as ``(3, 8, 9, 10)``, ``"-1,-5--3"`` as ``(-1, -5, -4, -3)``.

    Raises ``ValueError`` with a clear message.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _NUMBERS.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a whole number or a range such as 8-10")
        first, last = int(match[1]), int(match[1] if match[2] is None else match[2])
        if last < first:
            raise ValueError(f"{part.strip()} counts down: the smaller number comes first")
        if last - first > 65_535:
            raise ValueError(f"{part.strip()} are too many")
        found.extend(range(first, last + 1))
    return tuple(found)


class SceneMask:
    """A mask on the common grid of a scene. Made by :func:`open_mask`; close it after use."""

    def __init__(self, file: MaskFile, source: RasterSource | Area | None, grids: GridPair) -> None:
        self.file = file
        self._source = source
        self._grids = grids
        self._map = _map_to(source, grids.pan) if isinstance(source, RasterSource) else None
        self.covered = _covered(grids.ms, source.grid) if isinstance(source, RasterSource) else 1.0
        """Part of the scene that a raster mask covers, 0..1; 1 for a vector mask."""

    def excluded(self, window: Window) -> Bool:
        """Which MS pixels of a window of the common grid are excluded, bool (h, w)."""
        if window.is_empty:
            return np.zeros((window.height, window.width), dtype=np.bool_)
        strips = [
            self._fine(Window(row, window.col, min(_STRIP, window.row_stop - row), window.width))
            for row in range(window.row, window.row_stop, _STRIP)
        ]
        fine = np.concatenate(strips)
        f = PAN_PER_MS
        return np.asarray(
            fine.reshape(window.height, f, window.width, f).sum(axis=(1, 3), dtype=np.int64) >= _HALF
        )

    def _fine(self, window: Window) -> Bool:
        """Which PAN-scale pixels of a window of MS pixels are excluded, bool (4 h, 4 w)."""
        fine = window.refined(PAN_PER_MS)
        if self._source is None:
            return np.zeros((fine.height, fine.width), dtype=np.bool_)
        if isinstance(self._source, Area):
            return self._source.mask(fine)
        assert self._map is not None  # made together with the source
        row, col = self._map.centres(fine)
        out = np.zeros(row.shape, dtype=np.bool_)
        for found in lookups(self._source.grid, row, col):
            raw, valid = self._source.read_raw(found.window)
            out[found.inside] = self._chosen(self._source, raw[0], valid[0])[found.pixels]
        return out

    def at_a_glance(self, coarse: Grid) -> Bool:
        """Which pixels of a much coarser grid are excluded at their centres, bool (h, w), for a picture."""
        out = np.zeros((coarse.height, coarse.width), dtype=np.bool_)
        if isinstance(self._source, Area):
            area = Area.inside(self.file.path, coarse, f"mask file {self.file.path}")
            return out if area is None else area.mask(coarse.window)
        source = self._source
        if source is None:
            return out
        for part in reduced_windows(source.grid, coarse):
            raw, valid = source.read_raw_reduced(part.window, part.height, part.width)
            out[part.inside] = self._chosen(source, raw[0], valid[0])[part.at_row, part.at_col]
        return out

    def _chosen(self, source: RasterSource, raw: npt.NDArray[Any], valid: Bool) -> Bool:
        """Which pixels the user excludes, given the file's own values and whether they are valid."""
        if self.file.patterns:
            numbers = raw.astype(np.int64)
            found = [(numbers & p.bits) == p.value for p in self.file.patterns]
            return np.asarray(np.logical_or.reduce(found) & valid)
        if self.file.bits:
            wanted = np.array(sum(1 << b for b in set(self.file.bits)), dtype=np.uint64)
            return np.asarray((raw.astype(np.int64).view(np.uint64) & wanted) != 0) & valid
        if self.file.values:
            nodata = source.nodata_value
            if nodata in self.file.values:
                valid = valid | (raw == nodata)
            return np.asarray(np.isin(raw, self.file.values) & valid)
        # NaN excludes nothing, even where the file does not declare it as nodata.
        return np.asarray((raw != 0) & (raw == raw) & valid)

    def notices(self) -> tuple[str, ...]:
        """Sentences on the mask that a user should read."""
        if self._source is None:
            return (f"mask {self.file.path} has no polygon in the scene: it excludes nothing",)
        notices = []
        if self.covered < 1:
            notices.append(
                f"mask {self.file.path} covers only a part of the scene: it excludes nothing beyond"
            )
        if self._nothing_chosen_notice:
            notices.append(self._nothing_chosen_notice)
        return tuple(notices)

    @cached_property
    def _nothing_chosen_notice(self) -> str | None:
        """A notice if no pixel has the chosen values or bits, else ``None``.

        Without it a user could take a wrong number for a clear sky.
        """
        if not (self.file.values or self.file.bits):
            return None
        scene, seen = self._grids.ms.window, 0
        strata = max(1, _PROBE // _PROBE_BLOCK**2)
        for window in spread_blocks(scene, _PROBE_BLOCK, strata=strata, seed=0):
            if self.excluded(window).any():
                return None
            seen += window.height * window.width
            if seen >= _PROBE:
                break
        where = "" if seen == scene.height * scene.width else f" in the {seen:,} pixels looked at"
        none = "bits are set nowhere" if self.file.bits else "values are nowhere"
        return f"mask {self.file.path} excludes nothing{where}: its chosen {none}"

    def report(self) -> MaskReport:
        """The mask file, the user's choice and the notices, for a report."""
        return MaskReport(
            path=str(self.file.path),
            values=list(self.file.values) or None,
            bits=list(self.file.bits) or None,
            notices=list(self.notices()),
        )

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._source, RasterSource):
            self._source.close()

    def __enter__(self) -> SceneMask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_mask(file: MaskFile, grids: GridPair) -> SceneMask:
    """Open a vector or raster mask for a scene.

    Parameters
    ----------
    file:
        The file, and the values or bits of it that are excluded.
    grids:
        The scene's common grid.

    Raises
    ------
    InputError
        The file is missing, is neither raster nor vector, has no CRS, several bands, or lines or points.
        Values or bits are chosen of a vector file, or bits of a raster whose values are not integers.
        The raster's type lacks one of the bits, or cannot hold any of the values. The raster does not
        touch the scene.
    """
    label = f"mask file {file.path}"
    if file.values and file.bits:
        raise InputError(f"{label} is read by values or by bits, not both", "give one of the two")
    if missing_local_file(local_file(file.path)):
        raise InputError(f"{label} does not exist", "check the path")
    not_raster = _why_no_raster(file.path)
    if not_raster is not None:
        if file.values or file.bits:
            raise InputError(
                f"{label} is no raster: it has no values or bits to choose by",
                "leave out --mask-values and --mask-bits, or give a raster",
            )
        try:
            return SceneMask(file, Area.inside(file.path, grids.pan, label), grids)
        except UnreadableVectorError as error:
            if error.recognised or "not recognized" in not_raster:
                raise
            raise InputError(f"{label} cannot be read as a raster: {not_raster}", error.hint) from error
    source = RasterSource(file.path, "mask")
    try:
        if source.band_count != 1:
            raise InputError(
                f"{label} has {source.band_count} bands, a mask has one",
                "take one out, e.g. gdal_translate -b 1 in.tif out.tif",
            )
        if (file.bits or file.patterns) and not np.issubdtype(np.dtype(source.dtype), np.integer):
            raise InputError(f"{label} has no bits: its values are {source.dtype}", "choose by --mask-values")
        _refuse_impossible(file, np.dtype(source.dtype), label)
        mask = SceneMask(file, source, grids)
        if mask.covered == 0:
            raise InputError(f"{label} does not touch the scene", "check that it belongs to this scene")
        return mask
    except BaseException:  # an interrupt, too, must not leave the file open
        source.close()
        raise


def _refuse_impossible(file: MaskFile, dtype: np.dtype[Any], label: str) -> None:
    """Raise ``InputError`` if the raster's type lacks one of the bits, or can hold none of the values."""
    if not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    beyond = [b for b in file.bits if not 0 <= b < limits.bits]
    if beyond:
        raise InputError(
            f"{label} has no bit {max(beyond)}: its values are {dtype}, with bits 0 to {limits.bits - 1}",
            "bits count from 0, the lowest; --mask-values chooses by values",
        )
    if file.values and not any(limits.min <= v <= limits.max for v in file.values):
        raise InputError(
            f"{label} cannot hold any of the values to leave out: its values are {dtype}, "
            f"{limits.min} to {limits.max}",
            "gdalinfo -hist shows what values it has",
        )


def _map_to(source: RasterSource, scene: Grid) -> PixelMap:
    try:
        return map_between(scene, source.grid)
    except InputError as error:  # its message calls the two files MS and PAN
        raise InputError(
            f"mask file {source.path} cannot be laid over the scene: its coordinate reference system cannot "
            "be converted to that of the MS file",
            "bring the mask to the coordinate reference system of the MS file with gdalwarp",
        ) from error


def _why_no_raster(path: str | Path) -> str | None:
    """Why GDAL cannot open a file as a raster; ``None`` if it can."""
    try:
        rasterio.open(image_path(path)).close()
    except RasterioError as error:
        return " ".join(str(error).split())
    except UnicodeDecodeError:  # rasterio cannot read GDAL's message, which quotes the file
        return "it holds text that is not UTF-8"
    return None


def _covered(scene: Grid, mask: Grid) -> float:
    """Part of the scene that a mask covers, 0..1, by their outlines.

    The scene's outline leads through the centres of its outer PAN-scale pixels, where the mask is looked up.
    """
    steps = np.linspace(0.0, 1.0, _OUTLINE_PARTS + 1)[:-1]
    zero, one = np.zeros_like(steps), np.ones_like(steps)
    margin = 0.5 / PAN_PER_MS
    row = margin + np.concatenate([zero, steps, one, 1 - steps]) * (scene.height - 2 * margin)
    col = margin + np.concatenate([steps, one, 1 - steps, zero]) * (scene.width - 2 * margin)
    # Compared in the mask's pixels: a mask of the whole world has no outline in most other CRSs.
    there = np.stack(map_between(scene, mask).positions(row, col), axis=1)
    there = there[np.isfinite(there).all(axis=1)]
    if len(there) < 3:
        return 0.0
    outline = shapely.make_valid(shapely.Polygon(there))
    extent = shapely.box(0, 0, mask.height, mask.width)
    around = turns_within(mask)
    if len(around) > 1:
        extent = shapely.union_all([affinity.translate(extent, -rows, -cols) for rows, cols in around])
    share = outline.intersection(extent).area / outline.area
    return 1.0 if share > 1 - 1e-9 else float(share)
