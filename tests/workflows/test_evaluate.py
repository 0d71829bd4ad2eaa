"""Maps against references of every kind; what cannot be compared is counted, not dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from das2f_map.assess import map_comparison as evaluate_module
from das2f_map.errors import InputError, LabelError
from das2f_map.legend import Legend
from das2f_map.products.class_file import read_unsure
from das2f_map.products.class_raster import ClassRasterWriter
from das2f_map.scene.grid import Grid, Window
from das2f_map.workflows.evaluate import evaluate_map

GRID = Grid(40, 50, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32631))
LEGEND = Legend.from_names(["water", "low_vegetation", "soil"])


def write(path: Path, values: NDArray[Any], grid: Grid = GRID, **profile: Any) -> Path:
    options = {"nodata": 0, "dtype": values.dtype, "transform": grid.transform, "crs": grid.crs} | profile
    with rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=1, **options
    ) as file:
        file.write(values, 1)
    return path


def box(row: int, col: int, height: int, width: int) -> shapely.Polygon:
    x0, y0 = GRID.pixel_to_map(row, col)
    x1, y1 = GRID.pixel_to_map(row + height, col + width)
    return shapely.box(x0, y1, x1, y0)


@pytest.fixture
def class_map(tmp_path: Path) -> Path:
    """Left half water, right half low vegetation, a nodata stripe on top."""
    values = np.ones((40, 50), np.uint8)
    values[:, 25:] = 2
    values[:5] = 0
    return write(tmp_path / "map.tif", values)


def test_polygons_in_another_crs_by_name(class_map: Path, tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame(
        {"class": ["Water", "Low vegetation", "road"]},
        geometry=[box(10, 20, 4, 10), box(0, 30, 10, 3), box(30, 30, 2, 3)],
        crs=GRID.crs,
    )
    frame.to_crs(4326).to_file(tmp_path / "reference.gpkg")
    found = evaluate_map(class_map, tmp_path / "reference.gpkg", legend=LEGEND)
    assert found.matrix.counts.tolist() == [[20, 20, 0], [0, 15, 0], [0, 0, 0]]
    assert found.matched_by == "name"
    assert found.only_in_reference == {"road": 6}
    assert found.only_in_map == ("soil",)
    assert found.unmapped == 15
    assert len(found.notices()) == 5
    assert "Not a probability sample" in found.notices()[0]
    assert "9 blocks" in found.notices()[1]
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["overall_accuracy"] == 35 / 55
    assert record["only_in_reference"] == {"road": 6}


def test_points_and_block_borders(class_map: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    at = rng.uniform((5, 0), (40, 50), (300, 2))
    classes = np.where(rng.random(300) < 0.8, np.where(at[:, 1] < 25, 1, 2), 3)
    # One point a pixel, so that nothing is contested.
    _, first = np.unique(np.floor(at).astype(int), axis=0, return_index=True)
    at, classes = at[first], classes[first]
    gpd.GeoDataFrame(
        {"code": classes}, geometry=[shapely.Point(GRID.pixel_to_map(r, c)) for r, c in at], crs=GRID.crs
    ).to_file(tmp_path / "points.geojson")
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (classes - 1, np.where(at[:, 1] < 25, 0, 1)), 1)
    monkeypatch.setattr(evaluate_module, "BLOCK", 16)
    found = evaluate_map(class_map, tmp_path / "points.geojson", legend=LEGEND)
    assert found.matrix.counts.tolist() == expected.tolist()
    assert found.matched_by == "id"


def test_label_raster_on_a_finer_shifted_grid(class_map: Path, tmp_path: Path) -> None:
    grid = GRID.cropped(Window(10, 20, 10, 10)).refined(2)
    values = np.full((20, 20), 2, np.uint8)
    values[:, :4] = 1
    values[:2] = 0
    write(tmp_path / "reference.tif", values, grid)
    found = evaluate_map(class_map, tmp_path / "reference.tif", legend=LEGEND)
    # Rows 11..19; columns 20, 21 are water in both, 22..24 water mapped but vegetation in the reference.
    assert found.matrix.counts.tolist() == [[18, 0, 0], [27, 45, 0], [0, 0, 0]]


def test_map_that_names_nothing_gets_numbers(class_map: Path, tmp_path: Path) -> None:
    gpd.GeoDataFrame({"class": [1, 2]}, geometry=[box(10, 0, 5, 5), box(10, 24, 5, 2)], crs=GRID.crs).to_file(
        tmp_path / "reference.gpkg"
    )
    found = evaluate_map(class_map, tmp_path / "reference.gpkg")
    assert found.matrix.legend.names == ("class 1", "class 2")
    assert found.matrix.counts.tolist() == [[25, 0], [5, 5]]


def test_two_named_legends_are_never_matched_by_number(class_map: Path, tmp_path: Path) -> None:
    gpd.GeoDataFrame({"class": ["road", "roof"]}, geometry=[box(10, 0, 5, 5)] * 2, crs=GRID.crs).to_file(
        tmp_path / "reference.gpkg"
    )
    with pytest.raises(LabelError, match="no class in common") as caught:
        evaluate_map(class_map, tmp_path / "reference.gpkg", legend=LEGEND)
    assert "low_vegetation" in str(caught.value)
    assert "roof" in str(caught.value)


def unsure_map(tmp_path: Path, legend: Legend = LEGEND) -> tuple[Path, int]:
    """Water, low vegetation and soil in stripes of 40 × 10 pixels, then rejected pixels and nodata."""
    full, unsure = legend.with_unsure()
    values = np.zeros((40, 50), np.uint8)
    for k, class_id in enumerate((*legend.ids, unsure)):
        values[:, 10 * k : 10 * k + 10] = class_id
    with ClassRasterWriter(tmp_path / "map.tif", GRID, full, unsure=unsure) as writer:
        writer.write(GRID.window, values)
    return tmp_path / "map.tif", unsure


def test_rejected_pixels_are_no_wrong_answers(tmp_path: Path) -> None:
    """Of 10 × 50 reference pixels of water the map has 100 right and 200 wrong, rejects 100, lacks 100."""
    class_map, _ = unsure_map(tmp_path)
    frame = gpd.GeoDataFrame({"class": ["water"]}, geometry=[box(10, 0, 10, 50)], crs=GRID.crs)
    frame.to_file(tmp_path / "reference.gpkg")
    found = evaluate_map(class_map, tmp_path / "reference.gpkg")
    assert found.matrix.legend.names == LEGEND.names
    assert found.matrix.counts.tolist() == [[100, 100, 100], [0] * 3, [0] * 3]
    assert (found.rejected, found.rejected_share, found.unmapped) == (100, 1 / 4, 100)
    assert found.only_in_map == ("low_vegetation", "soil")
    figures = found.to_dict()
    assert (figures["rejected_reference_pixels"], figures["rejected_share"]) == (100, 1 / 4)
    assert figures["overall_accuracy"] == 1 / 3
    assert any("unsure there: 100 reference pixels, 25.0 %" in n for n in found.notices())


def test_a_reference_where_the_map_is_unsure_alone(tmp_path: Path) -> None:
    class_map, _ = unsure_map(tmp_path)
    frame = gpd.GeoDataFrame({"class": ["soil"]}, geometry=[box(0, 31, 4, 5)], crs=GRID.crs)
    frame.to_file(tmp_path / "reference.gpkg")
    found = evaluate_map(class_map, tmp_path / "reference.gpkg", legend=LEGEND)
    assert (found.matrix.total, found.rejected, found.rejected_share) == (0, 20, 1.0)


def test_rejected_pixels_are_known_without_the_tags(tmp_path: Path) -> None:
    """The attribute table names them; and a class that a model calls so is not taken for them."""
    class_map, unsure = unsure_map(tmp_path)
    assert read_unsure(class_map) == unsure == 255
    with rasterio.open(class_map) as src:
        values = src.read(1)
    side_file = class_map.with_name("map.tif.aux.xml").read_bytes()
    bare = write(tmp_path / "bare.tif", values)
    assert read_unsure(bare) is None
    bare.with_name("bare.tif.aux.xml").write_bytes(side_file)
    assert read_unsure(bare) == 255
    own, unsure = unsure_map(tmp_path, Legend.from_names(["unsure", "water", "soil"]))
    assert read_unsure(own) == unsure == 255
    assert read_unsure(quarters(tmp_path, Legend.from_names(["unsure", "water", "soil"]))) is None


def test_rejected_pixels_of_a_reference_are_no_labels(class_map: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    folder.mkdir()
    reference, _ = unsure_map(folder)
    found = evaluate_map(class_map, reference, legend=LEGEND)
    # Rows 5 to 39; the map has water in columns 0 to 24, the reference water, vegetation, soil in 10 each.
    assert found.matrix.counts.tolist() == [[350, 0, 0], [350, 0, 0], [175, 175, 0]]
    assert found.only_in_reference == {}


CODES = [111, 112, 311, 512]


def quarters(tmp_path: Path, legend: Legend) -> Path:
    """A map file that names its classes: four upright stripes of 40 × 10 pixels, then nodata."""
    values = np.zeros((40, 50), np.uint8)
    for k, class_id in enumerate(legend.ids):
        values[:, 10 * k : 10 * k + 10] = class_id
    with ClassRasterWriter(tmp_path / "map.tif", GRID, legend) as writer:
        writer.write(GRID.window, values)
    return tmp_path / "map.tif"


def stripes(tmp_path: Path, field: str, values: dict[int, Any]) -> Path:
    """Reference polygons of some of the stripes."""
    boxes = [box(0, 10 * k, 40, 10) for k in values]
    frame = gpd.GeoDataFrame({field: list(values.values())}, geometry=boxes, crs=GRID.crs)
    frame.to_file(tmp_path / "reference.gpkg")
    return tmp_path / "reference.gpkg"


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("name", ["class {}", "{}"])
def test_large_codes_are_matched_by_the_code_not_by_position(
    tmp_path: Path, name: str, as_text: bool
) -> None:
    """The reference lacks 112: counted up, its 311 would be the map's 112."""
    class_map = quarters(tmp_path, Legend.from_names([name.format(c) for c in CODES]))
    codes = {0: 111, 2: 311, 3: 512}
    reference = stripes(tmp_path, "code", {k: str(v) if as_text else v for k, v in codes.items()})
    found = evaluate_map(class_map, reference)
    assert found.matrix.counts.tolist() == [[400, 0, 0, 0], [0] * 4, [0, 0, 400, 0], [0, 0, 0, 400]]
    assert found.only_in_map == (name.format(112),)


def test_small_codes_as_text_are_numbers(tmp_path: Path) -> None:
    class_map = quarters(tmp_path, Legend.from_names(["class 1", "class 2", "class 10"], [1, 2, 10]))
    found = evaluate_map(class_map, stripes(tmp_path, "class", {0: "1", 1: "02", 2: " 10"}))
    assert found.matrix.counts.tolist() == np.diag([400] * 3).tolist()
    named = quarters(tmp_path, LEGEND)
    found = evaluate_map(named, stripes(tmp_path, "class", {0: "1", 1: "2", 2: "3"}))
    assert found.matrix.counts.tolist() == np.diag([400] * 3).tolist()


def test_counted_up_ids_are_never_compared(tmp_path: Path) -> None:
    names = Legend.from_names(["bare", "built", "forest", "water"])
    reference = stripes(tmp_path, "code", {0: 111, 2: 311, 3: 512})
    with pytest.raises(LabelError, match="cannot be compared") as caught:
        evaluate_map(quarters(tmp_path, names), reference)
    assert "class 311" in str(caught.value)
    assert "--class-field" in str(caught.value)
    numbers = quarters(tmp_path, Legend.from_names(["class 1", "class 2", "class 3", "class 4"]))
    with pytest.raises(LabelError, match="cannot be compared"):
        evaluate_map(numbers, stripes(tmp_path, "class", {0: "bare", 2: "forest"}))


def test_errors_are_clear(class_map: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.gpkg"
    frame = gpd.GeoDataFrame({"class": ["water"], "who": ["me"]}, geometry=[box(10, 0, 5, 5)], crs=GRID.crs)
    frame.to_file(reference)
    with pytest.raises(LabelError, match="class, who"):
        evaluate_map(class_map, reference, class_field="klass", legend=LEGEND)
    with pytest.raises(InputError, match="does not exist"):
        evaluate_map(tmp_path / "none.tif", reference)
    with pytest.raises(InputError, match="holds fractions"):
        evaluate_map(write(tmp_path / "float.tif", np.full((40, 50), 0.7, np.float32)), reference)
    with pytest.raises(InputError, match="no coordinate reference system"):
        evaluate_map(write(tmp_path / "bare.tif", np.ones((40, 50), np.uint8), crs=None), reference)
    (tmp_path / "map.txt").write_text("x")
    with pytest.raises(InputError, match="not a raster that"):
        evaluate_map(tmp_path / "map.txt", reference)
    frame.geometry = frame.translate(50_000, 0)
    frame.to_file(tmp_path / "far.gpkg")
    with pytest.raises(LabelError, match="outside"):
        evaluate_map(class_map, tmp_path / "far.gpkg", legend=LEGEND)
