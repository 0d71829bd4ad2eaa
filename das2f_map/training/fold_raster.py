"""The folds of a training as rasters on the MS grids of its scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from das2f_map.labels.labelled_pixels import by_block
from das2f_map.training.folds import Folds

_TILE = 512


def write_fold_rasters(path: Path, folds: Folds) -> None:
    """Write GeoTIFFs of the MS grids: the number of the fold that holds a labelled pixel out, 0 elsewhere.

    The first scene's raster goes to ``path``, that of scene 2 to a file whose name ends in ``-2``, and so on.
    """
    for scene in range(len(folds.pixels.readers)):
        own = path if scene == 0 else path.with_name(f"{path.stem}-{scene + 1}{path.suffix}")
        _write(own, folds, scene)


def _write(path: Path, folds: Folds, scene: int) -> None:
    pixels = folds.pixels
    grid = pixels.readers[scene].source.pair.grids.ms
    here = np.flatnonzero(pixels.scene == scene)
    rows, cols = pixels.rows[here], pixels.cols[here]
    number = (folds.of_pixel[here] + 1).astype(np.uint8)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "sparse_ok": True}
    profile |= {"compress": "deflate", "tiled": True, "blockxsize": _TILE, "blockysize": _TILE}
    with rasterio.open(
        path, "w", height=grid.height, width=grid.width, transform=grid.transform, crs=grid.crs, **profile
    ) as file:
        file.set_band_description(1, "fold that holds the pixel out")
        for tile_row, tile_col, members in by_block(rows, cols, _TILE):
            top, left = tile_row * _TILE, tile_col * _TILE
            height, width = min(_TILE, grid.height - top), min(_TILE, grid.width - left)
            block = np.zeros((height, width), np.uint8)
            block[rows[members] - top, cols[members] - left] = number[members]
            file.write(block, 1, window=((top, top + height), (left, left + width)))
