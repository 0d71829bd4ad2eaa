"""An aligned pair written as two GeoTIFFs on its common grid."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterioWindow

from das2f_map.outputs.write_errors import WRITE_ERRORS, writing
from das2f_map.progress import Progress
from das2f_map.scene.grid import PAN_PER_MS, Grid, Window, blocks_of
from das2f_map.scene.pair import ALIGNED_TAG, ScenePair
from das2f_map.scene.raster_file import open_raster
from das2f_map.scene.source import RasterSource
from das2f_map.types import Bool

_BLOCK = 256
"""MS pixels a side of a block that is written at once."""


def write_aligned(pair: ScenePair, ms: Path, pan: Path, progress: Progress) -> None:
    """Write both images of a pair as they are read: on the common grid, a shift corrected.

    An image that is not resampled keeps its numbers and type; a resampled one is float32, after scale and
    offset. Both carry a tag that is the same in the two files of one pair. The files are read again.

    Parameters
    ----------
    pair:
        Open, with all bands that are to be written.
    ms, pan:
        Paths of the two files.
    progress:
        Told how the writing goes on.

    Raises
    ------
    OutputError
        A file cannot be written, or does not hold what was written.
    InputError
        A file of the pair is damaged.
    """
    grid, tag = pair.grids.ms, _tag_of(pair)
    with (
        progress("Writing", grid.height * grid.width) as advance,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        _AlignedImage(ms, pair.sources[0], pair.grids.ms, pair.origins[0], tag) as ms_image,
        _AlignedImage(pan, pair.sources[1], pair.grids.pan, pair.origins[1], tag) as pan_image,
    ):
        for window in blocks_of(grid.window, _BLOCK):
            block = pair.read_block(window, 0, 0)
            ms_image.write(window, block.ms)
            pan_image.write(window.refined(PAN_PER_MS), block.pan)
            advance(window.height * window.width)
    for image in (ms_image, pan_image):
        image.verify()


def _tag_of(pair: ScenePair) -> str:
    """The same for one pair of files and shift, and hardly for another."""
    facts = json.dumps(pair.report().model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Metadata:
    """The metadata of an image's bands (all but alpha), as the file has it."""

    declared: list[float | None]
    descriptions: list[str | None]
    colours: list[Any]
    tags: dict[str, str]
    band_tags: list[dict[str, str]]
    units: list[str | None]
    scales: list[float]
    offsets: list[float]

    @classmethod
    def of(cls, source: RasterSource) -> _Metadata:
        places = [b.number - 1 for b in source.bands if not b.alpha]
        with open_raster(source.image, source.role) as ds:
            return cls(
                declared=[ds.nodatavals[k] for k in places],
                descriptions=[ds.descriptions[k] for k in places],
                colours=[ds.colorinterp[k] for k in places],
                tags=ds.tags(),
                band_tags=[ds.tags(k + 1) for k in places],
                units=[ds.units[k] for k in places],
                scales=[ds.scales[k] for k in places],
                offsets=[ds.offsets[k] for k in places],
            )

    def put(self, ds: DatasetWriter) -> None:
        """Set the metadata that holds for any grid and type: not nodata, scale and offset."""
        # Whether a position means a pixel's corner or centre was said of the old grid.
        ds.update_tags(**{k: v for k, v in self.tags.items() if k != "AREA_OR_POINT"})
        ds.colorinterp = self.colours
        for n, (description, own, unit) in enumerate(
            zip(self.descriptions, self.band_tags, self.units, strict=True), 1
        ):
            if description:
                ds.set_band_description(n, description)
            # Statistics are of the file's own pixels.
            ds.update_tags(n, **{k: v for k, v in own.items() if not k.startswith("STATISTICS_")})
            if unit:
                ds.set_band_unit(n, unit)


class _AlignedImage:
    """One image of the aligned pair being written.

    Invalid pixels get the nodata value that the file itself declares; NaN in an image of floats that declares
    none. Otherwise there is a mask: GDAL takes a nodata value band by band, so none can be made up for a
    file in which it is a measurement in one band.

    Parameters
    ----------
    path:
        To write to.
    source:
        The image as it is delivered.
    grid:
        To write on.
    origin:
        Where the grid lies in the image, in its pixels; ``None`` if the image is resampled.
    tag:
        Names the pair.
    """

    def __init__(self, path: Path, source: RasterSource, grid: Grid, origin: Window | None, tag: str) -> None:
        self._path = path
        self._source = source
        self._origin = origin
        self._checksums: list[tuple[RasterioWindow, int, int]] = []
        self._masked = False
        known = _Metadata.of(source)
        as_it_is = origin is not None
        dtype = np.dtype(source.dtype if as_it_is else np.float32)
        self._fill = _common_fill(known.declared, dtype) if as_it_is else None
        if self._fill is None and dtype.kind == "f":
            self._fill = np.nan
        with writing(path):
            self._ds = rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=grid.height,
                width=grid.width,
                count=len(known.declared),
                dtype=dtype,
                crs=grid.crs,
                transform=grid.transform,
                nodata=self._fill,
                tiled=True,
                blockxsize=256,
                blockysize=256,
                compress="deflate",
                predictor=3 if dtype.kind == "f" else 2 if dtype.itemsize <= 4 else 1,
                BIGTIFF="IF_SAFER",
            )
            try:
                known.put(self._ds)
                self._ds.update_tags(**{ALIGNED_TAG: tag})
                if as_it_is:
                    self._ds.scales, self._ds.offsets = known.scales, known.offsets
            except BaseException:  # whatever it was, an interrupt too: tidied up, and raised on
                with suppress(*WRITE_ERRORS):  # the first error is the one to raise
                    self._ds.close()
                raise

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Values as read (NaN where invalid); an image that is not resampled is read in its own numbers."""
        place = window.to_rasterio()
        valid = np.isfinite(values)
        if self._origin is not None:
            raw, valid = self._source.read_raw(window.shifted(self._origin.row, self._origin.col))
            values = raw.astype(self._ds.dtypes[0])
        if self._fill is not None and not valid.all():
            values = np.where(valid, values, np.asarray(self._fill, dtype=values.dtype))
        with writing(self._path):
            self._ds.write(values, window=place)
            everywhere = valid.all(axis=0)
            if self._fill is None:
                self._write_mask(place, everywhere)
        shown = np.ones_like(everywhere) if self._fill is not None else everywhere
        self._checksums.append((place, _checksum(values), _checksum(shown)))

    def _write_mask(self, place: RasterioWindow, valid: Bool) -> None:
        if not self._masked and valid.all():
            return
        if not self._masked:
            # GDAL takes a tile of a mask that was never written for invalid: the ones before need theirs now.
            for before, _, _ in self._checksums:
                self._ds.write_mask(np.ones((before.height, before.width), np.bool_), window=before)
            self._masked = True
        self._ds.write_mask(valid, window=place)

    def verify(self) -> None:
        """Read the closed file: GDAL reports some failed writes on standard error alone."""
        with writing(self._path), rasterio.open(self._path) as ds:
            for place, values, shown in self._checksums:
                same = _checksum(ds.read(window=place)) == values
                if same and self._fill is None:
                    same = _checksum(ds.read_masks(1, window=place) != 0) == shown
                if not same:
                    raise OSError("it is damaged, it does not hold what was written")

    def __enter__(self) -> _AlignedImage:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._ds.close()


def _common_fill(declared: list[float | None], dtype: np.dtype[Any]) -> float | None:
    """The nodata value of all bands, if they share one that the type can hold."""
    value = declared[0]
    if value is None:
        return None
    if any(v != value and not (v is not None and math.isnan(v) and math.isnan(value)) for v in declared):
        return None
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return value if float(value).is_integer() and limits.min <= value <= limits.max else None


def _checksum(values: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).data)
