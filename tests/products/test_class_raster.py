"""The class raster as GDAL reads it, its legend, and failed writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes, write_map
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from das2f_map.errors import InputError, OutputError
from das2f_map.legend import Legend
from das2f_map.products.class_file import read_legend
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.scene.grid import Grid, Window

BIG = patchy_classes(700, 900, AWKWARD_LEGEND.ids)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    # Blocks that do not match the file's tiles, last one first.
    write_map(
        folder / "m.tif", BIG, confidence_path=folder / "c.tif", confidence=confidence_of(BIG), block=150
    )
    return folder


def test_pixels_and_georeference(written: Path) -> None:
    with rasterio.open(written / "m.tif") as d:
        assert (d.dtypes, d.nodata, d.count) == (("uint8",), 0, 1)
        assert d.crs == UTM.crs
        assert d.transform == UTM.transform
        np.testing.assert_array_equal(d.read(1), BIG)
        assert d.tags()["MODEL"] == "made-up"
        assert d.colorinterp == (ColorInterp.palette,)
        table = d.colormap(1)
        assert table[0][3] == 0
        assert {c.id: (*c.rgb, 255) for c in AWKWARD_LEGEND.each()} == {
            i: table[i] for i in AWKWARD_LEGEND.ids
        }
    with rasterio.open(written / "c.tif") as d:
        assert d.dtypes == ("float32",)
        assert np.isnan(d.nodata)
        np.testing.assert_array_equal(d.read(1), confidence_of(BIG))
        assert "confidence" in d.descriptions[0]


@pytest.mark.parametrize("name", ["m.tif", "c.tif"])
def test_is_cloud_optimized(written: Path, name: str) -> None:
    with rasterio.open(written / name) as d:
        structure = d.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG"
        assert structure["COMPRESSION"] == "DEFLATE"
        assert d.overviews(1) == [2]
        assert d.block_shapes == [(512, 512)]


def test_overviews_hold_the_mode_and_the_mean(written: Path) -> None:
    cells = BIG.reshape(350, 2, 450, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    with rasterio.open(written / "m.tif", overview_level=0) as d:
        small = d.read(1).ravel()
    counts = np.stack([(cells == i).sum(axis=1) for i in range(10)], axis=1)
    counts[:, 0] = 0  # nodata only where there is nothing else
    assert (counts[np.arange(len(small)), small] == counts.max(axis=1)).all()
    assert ((small == 0) == (counts.max(axis=1) == 0)).all()
    sure = confidence_of(BIG).reshape(350, 2, 450, 2)
    with rasterio.open(written / "c.tif", overview_level=0) as d:
        with np.errstate(invalid="ignore"):
            mean = np.nansum(sure, axis=(1, 3)) / np.isfinite(sure).sum(axis=(1, 3))
        np.testing.assert_allclose(d.read(1), mean, rtol=1e-5)


def test_gdal_reads_the_class_names(written: Path) -> None:
    python = "/usr/bin/python3"
    code = (
        "import json,sys\nfrom osgeo import gdal\nd=gdal.Open(sys.argv[1])\nb=d.GetRasterBand(1)\n"
        "r=b.GetDefaultRAT()\nn=range(r.GetColumnCount())\n"
        "print(json.dumps([[r.GetNameOfCol(i) for i in n],[r.GetUsageOfCol(i) for i in n],r.GetTableType(),"
        "[[r.GetValueAsString(k,i) for i in n] for k in range(r.GetRowCount())],b.GetCategoryNames()]))"
    )
    if subprocess.run([python, "-c", "from osgeo import gdal"], capture_output=True, check=False).returncode:
        pytest.skip("GDAL's own Python bindings are not installed (Debian: apt install python3-gdal)")
    done = subprocess.run(
        [python, "-c", code, str(written / "m.tif")], capture_output=True, text=True, check=True
    )
    names, usages, thematic, rows, categories = json.loads(done.stdout)
    assert names[:5] == ["Value", "Class_Name", "Red", "Green", "Blue"]
    assert usages[:5] == [5, 2, 6, 7, 8]
    assert thematic == 0
    assert [r[:5] for r in rows] == [[str(c.id), c.name, *map(str, c.rgb)] for c in AWKWARD_LEGEND.each()]
    assert {i: n for i, n in enumerate(categories) if n} == {
        0: "nodata",
        **{c.id: c.name for c in AWKWARD_LEGEND.each()},
    }


def test_legend_comes_back(written: Path, tmp_path: Path) -> None:
    assert read_legend(written / "m.tif") == AWKWARD_LEGEND
    shutil.copy(written / "m.tif", tmp_path)  # without the side file
    assert read_legend(tmp_path / "m.tif") == AWKWARD_LEGEND


def test_legend_of_foreign_rasters(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "foreign.tif"
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8", "nodata": 0}
    profile |= {"crs": UTM.crs, "transform": UTM.transform}
    with rasterio.open(path, "w", **profile) as d:
        d.write(np.full((4, 4), 3, dtype=np.uint8), 1)
    assert read_legend(path) is None
    shutil.copy(written / "m.tif.aux.xml", tmp_path / "foreign.tif.aux.xml")
    assert read_legend(path) == AWKWARD_LEGEND
    (tmp_path / "foreign.tif.aux.xml").write_text("<PAMDataset>not closed")
    assert read_legend(path) is None
    with rasterio.open(path, "w", **profile) as d:
        d.write_colormap(1, {3: (10, 20, 30, 255), 7: (255, 0, 0, 255)})
    (tmp_path / "foreign.tif.aux.xml").unlink(missing_ok=True)
    legend = read_legend(path)
    assert legend is not None
    assert [(c.id, c.color) for c in legend.each()] == [(3, "#0a141e"), (7, "#ff0000")]
    with pytest.raises(InputError, match=r"nothing\.tif does not exist"):
        read_legend(tmp_path / "nothing.tif")


def test_bad_blocks_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    block = np.zeros((4, 4), dtype=np.uint8)

    def write(window: Window, classes: np.ndarray) -> None:
        with ClassRasterWriter(tmp_path / "m.tif", UTM, Legend.from_names(["a"])) as out:
            out.write(Window(0, 0, 4, 4), block)
            out.write(window, classes)

    for window, classes, what in (
        (Window(95, 0, 4, 4), block, "not inside"),
        (Window(0, 0, 4, 5), block, "must be uint8"),
        (Window(0, 0, 4, 4), block.astype(np.int64), "must be uint8"),
        (Window(0, 0, 4, 4), block + np.uint8(2), r"ids \[2\] are not in the legend"),
    ):
        with pytest.raises(ValueError, match=what):
            write(window, classes)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size_kib", "failing"),
    [
        (64, "m.tif"),
        (600, "[cm].tif"),
        (1300, "[cm].tif"),
        pytest.param(4000, "m.gpkg", marks=pytest.mark.slow),
    ],
)
def test_full_disk(tmp_path: Path, size_kib: int, failing: str) -> None:
    """A real file system of that size runs full: an error names the file, and nothing is left."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let tests mount a small file system")
    script = Path(__file__).with_name("fill_disk.py")
    command = f"mount -t tmpfs -o size={size_kib}k tmpfs '{tmp_path}' && "
    command += f"'{sys.executable}' '{script}' '{tmp_path}'"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    error, left = json.loads(done.stdout.splitlines()[-1])
    # The two rasters are completed at the same time: either may find the disk full.
    assert re.match(rf"OutputError: cannot write {failing}: the disk of {tmp_path} is full", error), error
    assert left == []


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write m\.tif"):
        ClassRasterWriter(tmp_path / "no" / "m.tif", UTM, AWKWARD_LEGEND)


def test_small_and_rotated_grids(tmp_path: Path) -> None:
    grid = Grid(1, 1, Affine(0.1, 0.05, 8, 0.04, -0.1, 50), CRS.from_epsg(4258))
    write_map(tmp_path / "m.tif", np.array([[9]], dtype=np.uint8), grid=grid)
    with rasterio.open(tmp_path / "m.tif") as d:
        assert d.read(1).tolist() == [[9]]
        assert d.transform.almost_equals(grid.transform, 1e-12)
        assert d.crs.to_epsg() == 4258
