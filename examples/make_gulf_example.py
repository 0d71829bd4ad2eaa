"""Cut the files in examples/gulf out of the full scene: windows of whole pixels, nothing resampled.

    python examples/make_gulf_example.py SCENE_FOLDER examples/gulf

SCENE_FOLDER holds ms.tif, pan.tif and labels.gpkg of the whole scene.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas
import rasterio
import shapely
from rasterio.windows import Window

MS_WINDOW = Window(240, 300, 300, 300)  # columns 240 to 539, rows 300 to 599
MAP_WINDOW = Window(340, 480, 112, 112)  # what `make map` classifies


def crop(source: Path, target: Path, window: Window) -> None:
    with rasterio.open(source) as src:
        profile = src.profile | {
            "width": window.width,
            "height": window.height,
            "transform": src.window_transform(window),
            "compress": "deflate",
            "predictor": 2,
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
        }
        with rasterio.open(target, "w", **profile) as dst:
            dst.write(src.read(window=window))
            dst.descriptions = src.descriptions


def main(scene: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    crop(scene / "ms.tif", folder / "ms.tif", MS_WINDOW)
    # PAN pixels are half as large, and the first one starts half a PAN pixel outside MS: one extra row and
    # column cover MS to its end.
    w = MS_WINDOW
    crop(
        scene / "pan.tif",
        folder / "pan.tif",
        Window(2 * w.col_off, 2 * w.row_off, 2 * w.width + 1, 2 * w.height + 1),
    )
    with rasterio.open(scene / "ms.tif") as src:
        box = shapely.box(*rasterio.windows.bounds(MS_WINDOW, src.transform))
        area = shapely.box(*rasterio.windows.bounds(MAP_WINDOW, src.transform))
        crs = src.crs
    labels = geopandas.read_file(scene / "labels.gpkg").clip(box, sort=True).explode()
    labels = labels[labels.geom_type == "Polygon"]
    labels.to_file(folder / "labels.gpkg", layer="labels", index=False)
    geopandas.GeoDataFrame({"name": ["map window"]}, geometry=[area], crs=crs).to_file(
        folder / "window.geojson", driver="GeoJSON"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
