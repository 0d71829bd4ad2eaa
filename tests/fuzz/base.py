"""Sound input files, each small, for the fuzz test to damage."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
import torch
from rasterio.crs import CRS
from synthetic import make_pair
from tiny import NAMES, tiny_bundle

from das2f_map.legend import Legend
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.scene.grid import Grid


def make_base(folder: Path) -> None:
    """Write all files into a new folder: images, masks, maps, vectors, models, checkpoints, lists."""
    folder.mkdir()
    ms, pan = make_pair(folder, ms_shape=(24, 28), nodata=0, ms_invalid=[(slice(0, 3), slice(0, 4))])
    with rasterio.open(ms) as src:
        grid = Grid(src.height, src.width, src.transform, src.crs)
    _other_images(folder, ms, pan)
    _rasters_of_classes(folder, grid)
    _vectors(folder, grid)
    tiny_bundle(folder, patch=8)
    with zipfile.ZipFile(folder / "tiny.zip", "w") as archive:
        for path in sorted((folder / "tiny").iterdir()):
            archive.write(path, path.name)
    tensors = {f"layer{i}.weight": torch.randn(3, 4) for i in range(6)}
    torch.save(tensors, folder / "net.pth")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "scenes.csv").write_text("ms,pan,labels\nms.tif,pan.tif,labels.gpkg\n")
    (folder / "my.toml").write_text('device = "cpu"\n[classify]\nprecision = "fp32"\nno-vectors = true\n')


def _other_images(folder: Path, ms: Path, pan: Path) -> None:
    """The pair in other forms: tiles, compression, predictors, scale, side files instead of tags, VRT."""
    with rasterio.open(ms) as src:
        values, profile = src.read(), src.profile
    tiled = {**profile, "tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    with rasterio.open(folder / "tiled.tif", "w", **{**tiled, "predictor": 2}) as dst:
        dst.write(values)
        dst.descriptions = ("blue", "green", "red", "nir")
        dst.scales, dst.offsets = (0.5,) * 4, (1.0,) * 4
        dst.update_tags(note="sound", ANOTHER="1")
    for name, how in (("lzw.tif", "lzw"), ("packed.tif", "packbits"), ("zstd.tif", "zstd")):
        with rasterio.open(folder / name, "w", **{**tiled, "compress": how, "interleave": "band"}) as dst:
            dst.write(values)
    with rasterio.open(folder / "big.tif", "w", **{**profile, "BIGTIFF": "YES", "ENDIANNESS": "BIG"}) as dst:
        dst.write(values)
    t = profile["transform"]
    with rasterio.open(folder / "world.tif", "w", **{**profile, "transform": None, "crs": None}) as dst:
        dst.write(values)
    lines = (t.a, t.d, t.b, t.e, t.c + t.a / 2, t.f + t.e / 2)
    (folder / "world.tfw").write_text("".join(f"{v}\n" for v in lines))
    wkt = CRS(profile["crs"]).to_wkt()
    statistics = "".join(f'<MDI key="STATISTICS_{k}">{v}</MDI>' for k, v in (("MINIMUM", 1), ("MAXIMUM", 9)))
    (folder / "world.tif.aux.xml").write_text(
        f"<PAMDataset><SRS>{wkt.replace('<', '&lt;')}</SRS><PAMRasterBand band='1'>"
        f"<Description>blue</Description><NoDataValue>0</NoDataValue><Metadata>{statistics}</Metadata>"
        "</PAMRasterBand></PAMDataset>"
    )
    rows = "".join(
        f"<VRTRasterBand dataType='{profile['dtype'].replace('uint', 'UInt')}' band='{b}'><SimpleSource>"
        f"<SourceFilename relativeToVRT='1'>ms.tif</SourceFilename><SourceBand>{b}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for b in range(1, 5)
    )
    (folder / "ms.vrt").write_text(
        f"<VRTDataset rasterXSize='28' rasterYSize='24'><SRS>{wkt.replace('<', '&lt;')}</SRS>"
        f"<GeoTransform>{', '.join(map(str, t.to_gdal()))}</GeoTransform>{rows}</VRTDataset>"
    )


def _rasters_of_classes(folder: Path, grid: Grid) -> None:
    classes = np.ones((grid.height, grid.width), np.uint8)
    classes[:, 9:18], classes[:, 18:] = 2, 3
    with ClassRasterWriter(folder / "map.tif", grid, Legend.from_names(NAMES)) as writer:
        writer.write(grid.window, classes, np.ones(classes.shape, np.float32))
    shutil.copy(folder / "map.tif", folder / "ref.tif")
    (folder / "ref.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category/>"
        + "".join(f"<Category>{name}</Category>" for name in NAMES)
        + "</CategoryNames></PAMRasterBand></PAMDataset>"
    )


def _vectors(folder: Path, grid: Grid) -> None:
    shapes = []
    for i in range(len(NAMES)):
        x, y = grid.pixel_to_map(6, 5 + 8 * i)
        shapes.append(shapely.box(x, y - 48, x + 48, y))
    labels = geopandas.GeoDataFrame({"class": list(NAMES), "code": [1, 2, 3]}, geometry=shapes, crs=grid.crs)
    for name in ("labels.gpkg", "labels.shp", "labels.fgb"):
        labels.to_file(folder / name)
    labels.to_crs(4326).to_file(folder / "labels.geojson")
    labels.to_parquet(folder / "labels.parquet")
    area = labels[["geometry"]].iloc[1:]
    for name in ("area.gpkg", "area.shp"):
        area.to_file(folder / name)
    area.to_crs(4326).to_file(folder / "area.geojson")


def card_of(folder: Path) -> dict[str, object]:
    """The card of the bundle."""
    found: dict[str, object] = json.loads((folder / "tiny" / "model.json").read_text())
    return found
