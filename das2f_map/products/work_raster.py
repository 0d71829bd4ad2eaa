"""A raster that is written block by block, and turned into a Cloud Optimized GeoTIFF when it is complete."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil

from das2f_map.outputs.libtiff_messages import libtiff_kept_quiet
from das2f_map.outputs.write_errors import WRITE_ERRORS, writing
from das2f_map.scene import compiled_pixels
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Int64

_TILE = 512
"""Pixels a side of a tile, of the work file and of the COG."""

_LEVEL = "1"
"""Of DEFLATE. It halves the time of level 6; class maps take up to a fifth more room, float32 values none."""


class WorkRaster:
    """A tiled work file. :meth:`finish` makes a COG of it, :meth:`discard` removes it.

    Parameters
    ----------
    path:
        The work file. Its folder is the run's own.
    final:
        The file that errors name, and the COG's path.
    grid:
        Geometry.
    dtype, nodata:
        Values.
    bands:
        Number of bands.

    Raises
    ------
    OutputError
        The file cannot be written, here or in any of the methods.
    """

    def __init__(
        self, path: Path, final: Path, grid: Grid, dtype: str, nodata: float, bands: int = 1
    ) -> None:
        self.path, self.final, self._bands = path, final, bands
        self._made = path.with_name(f"{path.name}.cog.tif")
        self._dataset: Any = None
        with writing(final):
            # Not compressed: a tile is written several times when blocks do not match tiles, and each
            # time a compressed one would be appended anew. Sparse: nodata costs nothing.
            self._dataset = rasterio.open(
                path,
                "w",
                driver="GTiff",
                width=grid.width,
                height=grid.height,
                count=bands,
                interleave="pixel",
                dtype=dtype,
                nodata=nodata,
                crs=grid.crs,
                transform=grid.transform,
                tiled=True,
                blockxsize=_TILE,
                blockysize=_TILE,
                sparse_ok=True,
                bigtiff="IF_SAFER",
            )

    def describe(
        self,
        descriptions: Sequence[str],
        tags: Mapping[str, str],
        colours: Mapping[int, tuple[int, int, int, int]] | None,
    ) -> None:
        """Describe each band and set the file's metadata items; ``colours`` are of the values of band 1."""
        with writing(self.final):
            for band, description in enumerate(descriptions, start=1):
                self._dataset.set_band_description(band, description)
            self._dataset.update_tags(**tags)
            if colours is not None:
                self._dataset.write_colormap(1, dict(colours))

    def note(self, band: int, items: Mapping[str, str]) -> None:
        """Set metadata items of a band."""
        with writing(self.final):
            self._dataset.update_tags(band, **items)

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Write (h, w) values of the only band, or (bands, h, w) of all."""
        with writing(self.final):
            self._dataset.write(
                values if values.ndim == 3 else values[np.newaxis], window=window.to_rasterio()
            )

    def finish(self, profile: Mapping[str, str], count_values: bool = False) -> Int64 | None:
        """Make the COG; with ``count_values``, count each of the 256 values of its only band."""
        with writing(self.final):
            self.close()
            options = {"GDAL_NUM_THREADS": "2"}
            if self._bands == 1:
                # The overviews wait in a file of their own. Compressing that, too, takes a fifth of the time;
                # of several bands it changes how GDAL averages, in the last digit.
                options["COG_TMP_COMPRESSION"] = "NONE"
            with rasterio.Env(**options):
                rasterio.shutil.copy(
                    self.path,
                    self._made,
                    driver="COG",
                    COMPRESS="DEFLATE",
                    LEVEL=_LEVEL,
                    BLOCKSIZE=str(_TILE),
                    BIGTIFF="IF_SAFER",
                    OVERVIEWS="IGNORE_EXISTING",
                    **profile,
                )
            with rasterio.open(self._made) as made:
                counts = np.zeros(256, dtype=np.int64)
                for _, block in made.block_windows(1):
                    # Reading everything once finds a truncated file, which GDAL may not have reported.
                    values = made.read(window=block)
                    if count_values:
                        counts += compiled_pixels.count_values(values)
            self._made.replace(self.final)
        self.discard()
        return counts if count_values else None

    def close(self) -> None:
        """Close the work file, which stays."""
        if self._dataset is not None:
            dataset, self._dataset = self._dataset, None
            dataset.close()

    def discard(self) -> None:
        """Remove what is not final."""
        # It is thrown away; that it could not be flushed does not matter.
        with (
            contextlib.suppress(*WRITE_ERRORS),
            libtiff_kept_quiet(),
            rasterio.Env(),
        ):  # which logs GDAL's errors
            self.close()
        for path in (self.path, self._made):
            for side in (path, *path.parent.glob(f"{path.name}.*")):
                side.unlink(missing_ok=True)
