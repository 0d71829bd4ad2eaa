"""Share of a map that keeps its class when parts of the scene become invalid, by method of filling them.

    python benchmarks/nodata_fill.py MS PAN [--row 60 --col 60]

The truth is the map of the whole crop (96 × 96 MS pixels, ratio 2). Each row gives the share of pixels with a
class in both maps that keep their class. `nearest` needs scipy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
from rasterio.windows import Window

import das2f_map
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.scene import block
from das2f_map.scene.fill import fill_invalid

SIDE = 96


def crop(source: Path, target: Path, row: int, col: int, factor: int, invalid: np.ndarray) -> Path:
    """A crop of an image with nodata 0 in some places; an MS pixel is ``factor`` of its pixels wide."""
    margin = 0 if factor == 1 else factor
    size = factor * SIDE + margin
    window = Window(factor * col, factor * row, size, size)
    with rasterio.open(source) as src:
        values, names, profile = src.read(window=window), src.descriptions, src.profile
        profile = {k: profile[k] for k in ("driver", "dtype", "count", "crs")}
        profile |= {"height": size, "width": size, "transform": src.window_transform(window), "nodata": 0}
    holes = np.pad(np.kron(invalid, np.ones((factor, factor), bool)), (0, margin))
    values[:, holes] = 0
    with rasterio.open(target, "w", **profile) as out:
        out.write(values)
        out.descriptions = names
    return target


def nearest(values: np.ndarray, _radius: int) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    out = values.copy()
    for plane in out:
        bad = ~np.isfinite(plane)
        if bad.any() and not bad.all():
            rows, cols = distance_transform_edt(bad, return_distances=False, return_indices=True)
            plane[:] = plane[rows, cols]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ms", type=Path)
    parser.add_argument("pan", type=Path)
    parser.add_argument("--row", type=int, default=60)
    parser.add_argument("--col", type=int, default=60)
    given = parser.parse_args()
    bundle = load_bundle(find_model("landsat8-gulf"))
    patch = bundle.card.patch.model_copy(update={"invalid_fill": "band-mean"})
    mean = ModelBundle(bundle.card.model_copy(update={"patch": patch}), bundle.state_dict)
    row, col = np.arange(SIDE)[:, None], np.arange(SIDE)[None]
    none = np.zeros((SIDE, SIDE), bool)
    patterns = {
        "strips": none | (col % 48 >= 36),
        "slanted": (row + col) % 60 >= 46,
        "holes": (row % 16 < 5) & (col % 16 < 5),
    }
    with TemporaryDirectory() as name:
        folder = Path(name)

        def mapped(invalid: np.ndarray, model: ModelBundle) -> np.ndarray:
            files = [
                crop(source, folder / f"{kind}.tif", given.row, given.col, factor, invalid)
                for source, kind, factor in ((given.ms, "ms", 1), (given.pan, "pan", 2))
            ]
            das2f_map.classify(*files, folder / "map.tif", model=model, vectors=False, overwrite=True)
            with rasterio.open(folder / "map.tif") as src:
                return np.asarray(src.read(1))

        truth = mapped(none, bundle)
        for pattern, invalid in patterns.items():
            for how, model, fill in (
                ("band's mean", mean, fill_invalid),
                ("nearest", bundle, nearest),
                ("rings", bundle, fill_invalid),
            ):
                block.fill_invalid = fill
                found = mapped(invalid, model)
                both = (found > 0) & (truth > 0)
                print(f"{pattern:8} {how:12} {100 * (found == truth)[both].mean():.1f} %", flush=True)


if __name__ == "__main__":
    main()
