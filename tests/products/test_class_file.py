"""Rasters of classes: which pixels count, and where the names of the classes are."""

from __future__ import annotations

import json
import logging
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from scipy.io import netcdf_file

from das2f_map.errors import Das2fMapError, InputError, LabelError
from das2f_map.labels.labelled_pixels import LabelTable, read_labels
from das2f_map.legend import Legend
from das2f_map.products.attribute_table import write_attribute_table
from das2f_map.products.class_file import ClassFile, read_legend
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.products.map_figure import read_at_a_glance
from das2f_map.scene.area import Area
from das2f_map.scene.grid import Grid, GridPair, Window
from das2f_map.scene.mask import MaskFile, open_mask
from das2f_map.scene.source import RasterSource
from das2f_map.workflows.evaluate import evaluate_map
from das2f_map.workflows.preview import preview
from das2f_map.workflows.report import report_map
from das2f_map.workflows.sample import sample_map
from das2f_map.workflows.vectorize import vectorize

GRID = Grid(40, 50, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32631))
NAMES = {1: "water", 2: "forest", 3: "soil"}


def bands(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.ndim == 3 else values[np.newaxis]


def write(path: Path, values: NDArray[Any], mask: NDArray[Any] | None = None, **profile: Any) -> Path:
    stack = bands(values)
    options = {
        "dtype": stack.dtype,
        "transform": GRID.transform,
        "crs": GRID.crs,
        "driver": "GTiff",
    } | profile
    with rasterio.open(path, "w", height=GRID.height, width=GRID.width, count=len(stack), **options) as file:
        file.write(stack)
        if mask is not None:
            file.write_mask(mask)
    return path


def stripes(*codes: int, dtype: str = "uint8") -> NDArray[Any]:
    """Upright stripes of 10 columns, of these codes in turn."""
    row = np.repeat(np.resize(codes, 5), 10)
    return np.tile(row, (40, 1)).astype(dtype)


def polygons(path: Path, values: dict[int, Any], field: str = "class") -> Path:
    """A polygon for each stripe, inset by nothing."""
    shapes = []
    for k in values:
        x0, y0 = GRID.pixel_to_map(0, 10 * k)
        x1, y1 = GRID.pixel_to_map(40, 10 * k + 10)
        shapes.append(shapely.box(x0, y1, x1, y0))
    gpd.GeoDataFrame({field: list(values.values())}, geometry=shapes, crs=GRID.crs).to_file(path)
    return path


def vat(path: Path, columns: dict[str, list[Any]], encoding: str = "UTF-8") -> Path:
    """A dBASE table, as ArcGIS keeps it beside a raster."""
    kinds = [np.array(c) if not isinstance(c[0], str) else np.array(c, object) for c in columns.values()]
    stem = path.with_suffix("")  # the driver puts .dbf
    pyogrio.raw.write(
        str(path), None, kinds, np.array(list(columns), object), driver="ESRI Shapefile", encoding=encoding
    )
    assert path.exists(), list(stem.parent.iterdir())
    return path


def names(table: LabelTable) -> dict[int, str]:
    return {c.id: c.name for c in table.legend.each()}


# --- pixels that count ------------------------------------------------------------------------------------


def masked(kind: str, path: Path, values: NDArray[Any], valid: NDArray[np.bool_]) -> Path:
    mask = np.where(valid, 255, 0).astype(np.uint8)
    if kind == "internal":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            return write(path, values, mask)
    if kind == "msk":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
            return write(path, values, mask)
    if kind == "alpha":
        write(path, np.stack([values, mask.astype(values.dtype)]))
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        return path
    if kind == "alpha and nodata":
        write(path, np.stack([np.where(valid, values, 77), mask.astype(values.dtype)]), nodata=77)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        return path
    if kind == "mask and nodata":  # GDAL honours the mask alone
        half = valid & (np.arange(40)[:, None] < 30)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            return write(
                path, np.where(valid, values, 77), np.where(half | ~valid, 255, 0).astype("u1"), nodata=77
            )
    return write(path, np.where(valid, values, 200), nodata=200)


MASKS = ("internal", "msk", "alpha", "alpha and nodata", "mask and nodata", "nodata")


@pytest.mark.parametrize("kind", MASKS)
def test_masked_pixels_are_no_labels_and_no_map(kind: str, tmp_path: Path) -> None:
    values = stripes(1, 2, 3)
    valid = np.ones(values.shape, bool)
    valid[:10] = False
    valid[:, 25:33] = False
    path = masked(kind, tmp_path / "m.tif", values, valid)
    if kind == "msk":
        assert (tmp_path / "m.tif.msk").exists()
    if kind == "mask and nodata":
        valid = valid & (np.arange(40)[:, None] < 30)
    table = read_labels(path, GRID)
    found = np.zeros(values.shape, int)
    found[table.rows, table.cols] = table.classes
    assert np.array_equal(found, np.where(valid, values, 0))

    # Everything is class 2 in the reference.
    reference = polygons(tmp_path / "r.gpkg", dict.fromkeys(range(5), 2), "code")
    result = evaluate_map(path, reference)
    assert result.matrix.total == int(valid.sum())
    assert result.unmapped == int((~valid).sum())
    assert int(np.trace(result.matrix.counts)) == int((valid & (values == 2)).sum())

    glance = read_at_a_glance(path, 10**6)
    assert np.array_equal(glance.classes, np.where(valid, values, 0))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_picture_is_no_raster_of_classes(count: int, tmp_path: Path) -> None:
    path = write(tmp_path / "rgb.tif", np.stack([stripes(1, 2)] * count))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha][:count]
    n = min(count, 3)
    with pytest.raises(LabelError, match=f"rgb.tif has {n} bands"):
        read_labels(path, GRID)
    with pytest.raises(InputError, match=f"rgb.tif has {n} bands"):
        evaluate_map(path, polygons(tmp_path / "r.gpkg", {0: 1, 1: 2}))
    with pytest.raises(InputError, match=f"rgb.tif has {n} bands"):
        read_at_a_glance(path, 10**6)


@pytest.mark.parametrize(
    ("profile", "named", "told", "classes"),
    [
        ({}, False, 800, {1: "class 1", 2: "class 2"}),
        ({"nodata": 0}, False, 0, {1: "class 1", 2: "class 2"}),
        ({"nodata": 255}, False, 0, {1: "class 1", 2: "class 2", 3: "class 0"}),
        ({}, True, 0, {1: "water", 2: "forest", 3: "ice"}),
    ],
)
def test_an_undeclared_zero_is_a_class_or_counted(
    profile: dict[str, Any],
    named: bool,
    told: int,
    classes: dict[int, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = stripes(0, 1, 2)  # 0 in two of five stripes, 800 pixels
    path = write(tmp_path / "m.tif", values, **profile)
    if named:
        (tmp_path / "m.tif.aux.xml").write_text(
            "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>ice</Category>"
            "<Category>water</Category><Category>forest</Category></CategoryNames></PAMRasterBand></PAMDataset>"
        )
    with caplog.at_level(logging.WARNING, "das2f_map"):
        table = read_labels(path, GRID)
    assert names(table) == classes
    assert any(m.startswith(f"{told} pixels left out") for m in caplog.messages) == bool(told)
    if 3 in classes:
        assert table.counts()[classes[3]] == 800
    result = evaluate_map(path, path)
    assert result.matrix.overall_accuracy == 1
    assert result.zeros == told


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_large_codes_work_as_in_polygons(dtype: str, tmp_path: Path) -> None:
    codes = (112, 231, 312, 331, 512)
    path = write(tmp_path / "r.tif", stripes(*codes, dtype=dtype))
    vector = polygons(tmp_path / "r.gpkg", dict(enumerate(codes)), "code")
    one, other = read_labels(path, GRID), read_labels(vector, GRID)
    assert one.legend == other.legend
    assert one.legend.names == tuple(f"class {c}" for c in codes)
    assert np.array_equal(one.classes, other.classes)


def test_large_codes_of_a_map(tmp_path: Path) -> None:
    path = write(tmp_path / "map.tif", stripes(112, 231, 312, dtype="uint16"), nodata=0)
    result = evaluate_map(path, polygons(tmp_path / "r.gpkg", {0: 112, 1: 231, 2: 112, 4: 999}, "code"))
    assert result.matrix.legend.names == ("class 112", "class 231", "class 312")
    assert result.matrix.counts.tolist() == [[400, 0, 400], [0, 400, 0], [0, 0, 0]]
    assert result.only_in_reference == {"class 999": 400}
    glance = read_at_a_glance(path, 10**6)
    assert glance.legend is not None
    assert glance.legend.names == ("class 112", "class 231", "class 312")
    assert np.array_equal(glance.classes, stripes(1, 2, 3))


@pytest.mark.parametrize("null", [-9999, -32768, -(2**31), 2**31 - 1])
def test_numbers_that_mean_no_data(null: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "r.tif", stripes(1, null, 2, dtype="int32"))
    with caplog.at_level(logging.WARNING, "das2f_map"):
        table = read_labels(path, GRID)
    assert names(table) == {1: "class 1", 2: "class 2"}
    assert any("800 pixels left out" in m and str(null) in m for m in caplog.messages)


@pytest.mark.parametrize(("dtype", "null"), [("float32", -3.4028235e38), ("float64", -1.79769313e308)])
def test_extremes_mean_no_data_and_other_large_numbers_nothing(
    dtype: str, null: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = stripes(1, 0, 2, dtype=dtype)
    values[values == 0] = null
    path = write(tmp_path / "r.tif", values)
    with caplog.at_level(logging.WARNING, "das2f_map"):
        assert read_labels(path, GRID).counts() == {"class 1": 800, "class 2": 400}
    assert sum("count as nodata" in m for m in caplog.messages) == 1
    values[values == values.min()] = 1e30
    with pytest.raises(LabelError, match=r"holds 1e\+30, which is no class number"):
        read_labels(write(tmp_path / "other.tif", values), GRID)


# --- names ------------------------------------------------------------------------------------------------

RAT = """<GDALRasterAttributeTable tableType="thematic">{fields}{rows}</GDALRasterAttributeTable>"""


def pam(path: Path, columns: list[tuple[str, int, int]], rows: list[list[Any]]) -> None:
    """``.aux.xml`` with a table of columns (name, type, usage)."""
    fields = "".join(
        f'<FieldDefn index="{i}"><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>'
        for i, (n, t, u) in enumerate(columns)
    )
    body = "".join(
        f'<Row index="{i}">' + "".join(f"<F>{cell}</F>" for cell in row) + "</Row>"
        for i, row in enumerate(rows)
    )
    text = RAT.format(fields=fields, rows=body)
    path.with_name(path.name + ".aux.xml").write_text(
        f"<PAMDataset><PAMRasterBand band='1'>{text}</PAMRasterBand></PAMDataset>"
    )


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        # Usage says all, in any order and under any name.
        ([("N", 2, 2), ("V", 0, 5)], [["soil", 3], ["water", 1], ["forest", 2]]),
        # No usage: names of the columns.
        (
            [("OID", 0, 0), ("Value", 0, 0), ("Count", 0, 0), ("LABEL3", 2, 0)],
            [[0, 1, 9, "water"], [1, 2, 9, "forest"], [2, 3, 9, "soil"]],
        ),
        ([("CODE", 0, 0), ("Land_Cover", 2, 0)], [[3, "soil"], [2, "forest"], [1, "water"]]),
        (
            [("gridcode", 1, 0), ("EVT_NAME", 2, 0), ("remark", 2, 0)],
            [[3.0, "soil", "x"], [2.0, "forest", "y"], [1.0, "water", "z"]],
        ),
        (
            [("pix", 0, 0), ("histogram", 1, 0), ("what", 2, 0)],
            [[3, 1, "soil"], [2, 1, "forest"], [1, 1, "water"]],
        ),
        # Ranges.
        ([("from", 0, 3), ("to", 0, 4), ("n", 2, 2)], [[1, 1, "water"], [2, 2, "forest"], [3, 9, "soil"]]),
    ],
)
def test_attribute_tables_with_any_columns(
    columns: list[tuple[str, int, int]], rows: list[list[Any]], tmp_path: Path
) -> None:
    path = write(tmp_path / "r.tif", stripes(1, 2, 3))
    pam(path, columns, rows)
    assert names(read_labels(path, GRID)) == NAMES


def test_a_column_can_be_chosen_and_has_to_be_if_several_are_likely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "r.tif", stripes(1, 2, 3))
    pam(
        path,
        [("Value", 0, 5), ("fine", 2, 0), ("coarse", 2, 0)],
        [[1, "lake", "wet"], [2, "oak", "dry"], [3, "soil", "dry"]],
    )
    with caplog.at_level(logging.WARNING, "das2f_map"):
        assert read_labels(path, GRID).legend.names == ("class 1", "class 2", "class 3")
    assert any("fine, coarse" in m for m in caplog.messages)
    assert read_labels(path, GRID, class_field="fine").legend.names == ("lake", "oak", "soil")
    # Values of one name are one class.
    table = read_labels(path, GRID, class_field="coarse")
    assert table.counts() == {"wet": 800, "dry": 1200}
    with pytest.raises(LabelError, match="no field 'x'"):
        read_labels(path, GRID, class_field="x")
    bare = write(tmp_path / "bare.tif", stripes(1, 2, 3))
    with pytest.raises(LabelError, match="no attribute table"):
        read_labels(bare, GRID, class_field="x")


def reference_with_names(place: str, folder: Path) -> str:
    """A raster of stripes 1, 2, 3 whose names GDAL finds in some place; its path for GDAL."""
    legend = Legend.from_names([*NAMES.values()])
    tif = write(folder / "r.tif", stripes(1, 2, 3), nodata=0)
    if place == "aux.xml":
        write_attribute_table(tif, legend)
    elif place in ("img", "envi"):
        # The file's own table: GDAL copies names from the side file into formats that hold them.
        write_attribute_table(tif, legend)
        other = folder / ("own.img" if place == "img" else "own.bin")
        with rasterio.open(tif) as file:
            rasterio.shutil.copy(file, other, driver="HFA" if place == "img" else "ENVI")
        other.with_name(other.name + ".aux.xml").unlink(missing_ok=True)
        return str(other)
    elif place in ("vat.dbf", "VAT.DBF"):
        table = {"Value": [1, 2, 3], "Count": [9, 9, 9], "Class_Name": [*NAMES.values()]}
        made = vat(folder / "r.tif.vat.dbf", table)
        if place == "VAT.DBF":
            made.rename(folder / "R.TIF.VAT.DBF")
    elif place.startswith("vrt"):
        side = write_attribute_table(tif, legend)
        if place == "vrt.aux.xml":
            side.rename(folder / "one.vrt.aux.xml")
        # As gdalbuildvrt writes it: the table stays with the parts.
        text = (
            '<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>EPSG:32631</SRS>'
            "<GeoTransform>500000, 10, 0, 5600000, 0, -10</GeoTransform>"
            '<VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue><SimpleSource>'
            '<SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand></VRTDataset>"
        )
        (folder / "one.vrt").write_text(text.format("r.tif"))
        (folder / "two.vrt").write_text(text.format("one.vrt"))
        return str(folder / ("two.vrt" if place == "vrt of vrt" else "one.vrt"))
    elif place.startswith("zip"):
        side = write_attribute_table(tif, legend)
        if place == "zip vat.dbf":
            side.unlink()
            side = vat(folder / "r.tif.vat.dbf", {"Value": [1, 2, 3], "name": [*NAMES.values()]})
        with zipfile.ZipFile(folder / "r.zip", "w") as packed:
            for path in (tif, side):
                packed.write(path, f"in/{path.name}")
        return f"/vsizip/{folder}/r.zip/in/r.tif"
    elif place == "tag":
        tif.unlink()
        with ClassRasterWriter(tif, GRID, legend) as writer:
            writer.write(Window(0, 0, 40, 50), stripes(1, 2, 3))
        tif.with_name("r.tif.aux.xml").unlink()
    return str(tif)


PLACES = (
    *(
        "aux.xml",
        "img",
        "envi",
        "vat.dbf",
        "VAT.DBF",
        "vrt",
        "vrt of vrt",
        "vrt.aux.xml",
        "zip aux.xml",
        "zip vat.dbf",
        "tag",
    ),
)


@pytest.mark.parametrize("place", PLACES)
def test_names_are_found_wherever_they_are(place: str, tmp_path: Path) -> None:
    path = reference_with_names(place, tmp_path)
    # The map has the same classes under other numbers: matched by number nothing would agree.
    with ClassRasterWriter(tmp_path / "map.tif", GRID, Legend.from_names(["soil", "water", "forest"])) as out:
        out.write(GRID.window, stripes(2, 3, 1))
    result = evaluate_map(tmp_path / "map.tif", path)
    assert result.matched_by == "name"
    assert (result.matrix.overall_accuracy, result.matrix.total) == (1, 2000)
    legend = read_legend(path)
    assert legend is not None
    assert {c.id: c.name for c in legend.each()} == NAMES


def test_gdal_reads_the_same_tables(tmp_path: Path) -> None:
    """GDAL's own Python bindings see the names in a file's own table."""
    path = reference_with_names("img", tmp_path)
    code = (
        "import json,sys\nfrom osgeo import gdal\nd=gdal.Open(sys.argv[1])\n"
        "b=d.GetRasterBand(1)\nr=b.GetDefaultRAT()\n"
        "c=[r.GetUsageOfCol(i) for i in range(r.GetColumnCount())].index(2)\n"
        "print(json.dumps([r.GetValueAsString(k,c) for k in range(r.GetRowCount())]))"
    )
    done = subprocess.run(["/usr/bin/python3", "-c", code, path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("GDAL's own Python bindings are not installed")
    found = read_legend(path)
    assert found is not None
    assert [n for n in json.loads(done.stdout) if n] == list(found.names)


def test_parts_of_a_vrt_that_disagree(tmp_path: Path) -> None:
    parts = []
    for k, order in enumerate((["water", "forest", "soil"], ["forest", "water", "soil"])):
        part = write(tmp_path / f"{k}.tif", stripes(1, 2, 3), nodata=0)
        write_attribute_table(part, Legend.from_names(order))
        parts.append(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{part.name}</SourceFilename>'
            f"<SourceBand>1</SourceBand></SimpleSource>"
        )
    (tmp_path / "m.vrt").write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>EPSG:32631</SRS>'
        "<GeoTransform>500000, 10, 0, 5600000, 0, -10</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1">{"".join(parts)}</VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(LabelError, match="name value 1 differently"):
        read_labels(tmp_path / "m.vrt", GRID)


def test_a_table_in_a_wrong_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tif", stripes(1, 2, 3))
    made = vat(tmp_path / "r.tif.vat.dbf", {"Value": [1, 2, 3], "name": ["Wälder", "b", "c"]}, "ISO-8859-1")
    made.with_suffix(".cpg").write_text("UTF-8")
    with pytest.raises(LabelError, match=r"r\.tif\.vat\.dbf holds text that is not") as caught:
        read_labels(path, GRID)
    assert "\n" not in str(caught.value)


# --- matching ---------------------------------------------------------------------------------------------


def test_names_that_differ_by_case_alone_are_classes(tmp_path: Path) -> None:
    legend = Legend.from_names(["Built_up", "bare soil", "built_up", "<10 % trees", ">10 % trees"])
    with ClassRasterWriter(tmp_path / "map.tif", GRID, legend) as out:
        out.write(GRID.window, stripes(1, 2, 3, 4, 5))
    same = dict(enumerate(legend.names))
    result = evaluate_map(tmp_path / "map.tif", polygons(tmp_path / "r.gpkg", same))
    assert result.matrix.overall_accuracy == 1
    assert result.matrix.total == 2000


def test_a_fallback_is_told_and_used_only_where_it_is_unambiguous(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    legend = Legend.from_names(["Built_up", "bare_soil", "built_up", ">10 % trees"])
    with ClassRasterWriter(tmp_path / "map.tif", GRID, legend) as out:
        out.write(GRID.window, stripes(1, 2, 3, 4, 4))
    reference = polygons(
        tmp_path / "r.gpkg", {0: "built-up", 1: "Bare soil", 3: "<10 % trees", 4: ">10 % Trees"}
    )
    with caplog.at_level(logging.INFO, "das2f_map"):
        result = evaluate_map(tmp_path / "map.tif", reference)
    assert result.only_in_reference == {"built-up": 400, "<10 % trees": 400}
    assert result.matrix.total == 800
    assert any("'Bare soil' of the reference is taken for 'bare_soil'" in m for m in caplog.messages)
    assert any(m.startswith("Not matched") and "'built-up'" in m for m in caplog.messages)


def test_matching_by_number_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ClassRasterWriter(tmp_path / "map.tif", GRID, Legend.from_names(["a", "b"])) as out:
        out.write(GRID.window, stripes(1, 2))
    reference = write(tmp_path / "r.tif", stripes(1, 2))
    with caplog.at_level(logging.WARNING, "das2f_map"):
        assert evaluate_map(tmp_path / "map.tif", reference).matched_by == "id"
    assert any("matched by number" in m and "1 is a, 2 is b" in m for m in caplog.messages)


def test_undeclared_zeros_of_a_map_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """10 of the 50 columns are 0, in 40 rows."""
    reference = polygons(tmp_path / "r.gpkg", {0: 1, 1: 2, 2: 1})
    with caplog.at_level(logging.INFO, "das2f_map"):
        evaluate_map(write(tmp_path / "m.tif", stripes(1, 2, 1, 2, 0)), reference)
        assert any("400 pixels of 0 have no class" in m for m in caplog.messages)
        caplog.clear()
        evaluate_map(write(tmp_path / "declared.tif", stripes(1, 2, 1, 2, 0), nodata=0), reference)
        assert not any("of 0 have no class" in m for m in caplog.messages)


# --- reasons ----------------------------------------------------------------------------------------------


def test_archives_that_gdal_does_not_look_into_name_their_files(tmp_path: Path) -> None:
    """GDAL looks for a Shapefile at the top of an archive alone."""
    land = write(tmp_path / "m.tif", stripes(1, 2))
    shapes = polygons(tmp_path / "r.shp", {0: "a"})
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (land, *shapes.parent.glob("r.*")):
            archive.write(path, f"in here/{path.name}")
    reads: list[Callable[[], object]] = [
        lambda: read_labels(tmp_path / "all.zip", GRID),
        lambda: evaluate_map(tmp_path / "all.zip", land),
        lambda: Area.from_file(tmp_path / "all.zip", GRID),
    ]
    inside = f"/vsizip/{tmp_path}/all.zip/in here/"
    for read in reads:
        with pytest.raises(Das2fMapError) as caught:
            read()
        assert caught.value.hint == f"it is an archive; name the file in it: {inside}m.tif or {inside}r.shp"
    assert read_labels(f"{inside}r.shp", GRID).legend.names == ("a",)


def test_containers_name_their_subdatasets(tmp_path: Path) -> None:
    path = tmp_path / "c.nc"
    with netcdf_file(path, "w") as file:
        file.createDimension("y", 40)
        file.createDimension("x", 50)
        for name in ("one", "two"):
            file.createVariable(name, "i1", ("y", "x"))[:] = stripes(1, 2)
    with rasterio.Env() as env:
        if "netCDF" not in env.drivers():
            pytest.skip("this GDAL has no netCDF")
    land = write(tmp_path / "m.tif", stripes(1, 2))
    reads: list[Callable[[], object]] = [
        lambda: read_labels(path, GRID),
        lambda: evaluate_map(path, land),
        lambda: evaluate_map(land, path),
        lambda: read_at_a_glance(path, 100),
        lambda: RasterSource(path, "MS"),
        lambda: open_mask(MaskFile(path), GridPair(GRID)),
    ]
    for read in reads:
        with pytest.raises(Das2fMapError, match=r"c\.nc is a container") as caught:
            read()
        assert "c.nc:one" in (caught.value.hint or "").replace('"', "")


@pytest.mark.parametrize("value", [gpd.GeoDataFrame(geometry=[]), 3, None])
def test_what_is_no_path(value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.tif", stripes(1, 2))
    if not isinstance(value, gpd.GeoDataFrame):
        with pytest.raises(InputError, match="reference cannot be a"):
            evaluate_map(path, value)
    with pytest.raises(InputError, match="map_path cannot be a"):
        evaluate_map(value, path)


def test_the_door_reads_windows_and_closes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tif", stripes(1, 2, 3), nodata=3)
    with ClassFile.open(path, "map") as file:
        values, valid = file.read(Window(5, 15, 3, 20))
    assert np.array_equal(values, stripes(1, 2, 3)[5:8, 15:35])
    assert np.array_equal(valid, values != 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_numbers_of_a_floating_type_are_classes_of_maps_and_labels(
    dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Raster calculators write floats; each reader takes them as it takes the same numbers as bytes."""
    whole = write(tmp_path / "whole.tif", stripes(1, 2, 3), nodata=0)
    floats = write(tmp_path / "floats.tif", stripes(1, 2, 3, dtype=dtype), nodata=0)
    with caplog.at_level(logging.INFO, "das2f_map"):
        assert read_labels(floats, GRID).counts() == read_labels(whole, GRID).counts()
    assert sum(f"its numbers are {dtype}" in m for m in caplog.messages) == 1
    for reference, landcover in ((floats, whole), (whole, floats)):
        assert evaluate_map(landcover, reference).matrix.overall_accuracy == 1.0
    np.testing.assert_array_equal(
        read_at_a_glance(floats, 10_000).classes, read_at_a_glance(whole, 10_000).classes
    )
    made = vectorize(floats, tmp_path / "v.gpkg")
    assert {i: c.pixels for i, c in made.classes.items()} == {1: 800, 2: 800, 3: 400}
    assert preview(floats, tmp_path / "p.png").exists()
    sample_map(floats, tmp_path / "s.gpkg", points=6)
    assert len(gpd.read_file(tmp_path / "s.gpkg")) == 6


def test_fractions_are_no_classes_whoever_reads_them(tmp_path: Path) -> None:
    path = write(tmp_path / "f.tif", stripes(1, 2, dtype="float32") + np.float32(0.5))
    whole = write(tmp_path / "whole.tif", stripes(1, 2))
    reads: list[Callable[[], object]] = [
        lambda: read_labels(path, GRID),
        lambda: evaluate_map(path, whole),
        lambda: evaluate_map(whole, path),
        lambda: vectorize(path, tmp_path / "v.gpkg"),
        lambda: preview(path, tmp_path / "p.png"),
        lambda: sample_map(path, tmp_path / "s.gpkg", points=6),
        lambda: report_map(path, tmp_path / "r.html"),
    ]
    for read in reads:
        with pytest.raises(Das2fMapError, match=r"f\.tif holds fractions, such as 1\.5"):
            read()
    assert {p.name for p in tmp_path.iterdir()} == {"f.tif", "whole.tif"}


@pytest.mark.parametrize(
    ("transform", "crs", "message"),
    [
        (Affine(10, 0, -4e304, 0, -10, 5_600_000), 32631, "its pixels have no coordinates of their own"),
        (Affine(10, 0, 500_000, 0, -10, 1e17), None, "its pixels have no coordinates of their own"),
        (Affine(10, 0, float("nan"), 0, -10, 0), None, "its pixels have no coordinates of their own"),
        (Affine(10, 0, 3e12, 0, -10, 5_600_000), 32631, "lies nowhere on Earth"),
        (Affine(10, 0, 500_000, 0, -10, 5_600_000), 4326, "latitude 5,600,000 is none"),
    ],
    ids=["overflow", "no resolution", "nan", "projected", "degrees"],
)
def test_maps_and_labels_at_impossible_places_are_refused(
    transform: Affine, crs: int | None, message: str, tmp_path: Path
) -> None:
    of_epsg = None if crs is None else CRS.from_epsg(crs)
    path = write(tmp_path / "m.tif", stripes(1, 2), transform=transform, crs=of_epsg)
    whole = write(tmp_path / "whole.tif", stripes(1, 2))
    reads: list[Callable[[], object]] = [
        lambda: read_labels(path, GRID),
        lambda: evaluate_map(path, whole),
        lambda: vectorize(path, tmp_path / "v.gpkg"),
        lambda: preview(path, tmp_path / "p.png"),
    ]
    for read in reads:
        with pytest.raises(Das2fMapError, match=message):
            read()
