"""Files over the 180th meridian, and longitudes counted from 0 to 360."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from synthetic import Field, errors, shift_between, write_raster

from das2f_map.scene.antimeridian import box_turns, lookups, moved_beside, near
from das2f_map.scene.area import Area
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.mask import MaskFile, open_mask
from das2f_map.scene.pair import open_pair
from das2f_map.scene.survey import thumbnail

LAT = -17.0
WORLD = 2 * np.pi * 6_378_137.0
"""Metres around the world in EPSG:3857."""

METRES = {"EPSG:3857": WORLD, "EPSG:3395": WORLD}


def ground(lon: float) -> CRS:
    """A CRS in metres centred on a place, the same for all ways to write its longitude."""
    return CRS.from_user_input(f"+proj=laea +lat_0={LAT} +lon_0={(lon + 180) % 360 - 180} +datum=WGS84")


def grid(crs: str, lon: float, pixel: float, size: int, *, off: tuple[float, float] = (0.0, 0.0)) -> Grid:
    """A grid centred on a place, in the turn around the world that ``lon`` is in; ``off`` in pixels."""
    system = CRS.from_user_input(crs)
    canonical = (lon + 180) % 360 - 180
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(canonical, LAT)
    period = 360.0 if system.is_geographic else METRES.get(crs)
    step = pixel / 111_000 if system.is_geographic else pixel
    if period is not None:
        nominal = lon if system.is_geographic else lon / 360 * period
        x += period * round((nominal - x) / period)
    corner = Affine.translation(x, y) * Affine.scale(step, -step)
    return Grid(size, size, corner * Affine.translation(off[1] - size / 2, off[0] - size / 2), system)


def make(folder: Path, ms: Grid, pan: Grid, lon: float) -> tuple[tuple[Path, Path], Field]:
    field = Field.random(4, (400.0, 1500.0), (0.0, 0.0), ground(lon))
    return (
        write_raster(folder / "ms.tif", field.render(ms), ms),
        write_raster(folder / "pan.tif", field.panchromatic().render(pan), pan),
    ), field


UTM60 = "EPSG:32760"
PAIRS = {
    "MS 4326 past 180": (("EPSG:4326", 180.0), (UTM60, 180.0)),
    "MS 4326 before -180": (("EPSG:4326", -180.0), (UTM60, 180.0)),
    "MS 3857 past 180": (("EPSG:3857", 180.0), (UTM60, 180.0)),
    "MS 3395 past 180": (("EPSG:3395", 180.0), (UTM60, 180.0)),
    "PAN 4326, middle west of 180": ((UTM60, 179.995), ("EPSG:4326", 179.995)),
    "PAN 4326, middle on 180": ((UTM60, 180.0), ("EPSG:4326", 180.0)),
    "PAN 4326, middle east of 180": ((UTM60, 180.005), ("EPSG:4326", 180.005)),
    "PAN 4326, middle on -180": ((UTM60, 180.0), ("EPSG:4326", -180.0)),
    "PAN 4326, middle west of -180": ((UTM60, 179.998), ("EPSG:4326", -180.002)),
    "PAN 3857 past 180": ((UTM60, 180.0), ("EPSG:3857", 180.0)),
    "4326 at 180 and at -180": (("EPSG:4326", 180.0), ("EPSG:4326", -180.0)),
    "4326 at -180 and at 180": (("EPSG:4326", -180.0), ("EPSG:4326", 180.0)),
    "3857 at 180 and at -180": (("EPSG:3857", 180.0), ("EPSG:3857", -180.0)),
    "3857 past 180, 4326 before -180": (("EPSG:3857", 180.0), ("EPSG:4326", -180.0)),
    "MS 4326 at 285, PAN in UTM": (("EPSG:4326", 285.0), ("EPSG:32718", -75.0)),
    "MS UTM, PAN 4326 at 285": (("EPSG:32718", -75.0), ("EPSG:4326", 285.0)),
    "4326 at 285 and at -75": (("EPSG:4326", 285.0), ("EPSG:4326", -75.0)),
    "MS 4326 at 285, PAN in 3857": (("EPSG:4326", 285.0), ("EPSG:3857", -75.0)),
}


@pytest.mark.parametrize("off", [0.0, pytest.param(0.3, marks=pytest.mark.slow)], ids=["", "off by 0.3"])
@pytest.mark.parametrize(
    "name", [*[*PAIRS][::4], *(pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(PAIRS) if k % 4)]
)
def test_pairs(tmp_path: Path, name: str, off: float) -> None:
    """All of MS is valid, nothing moves, and the result lies where the MS file says."""
    (ms_crs, ms_lon), (pan_crs, pan_lon) = PAIRS[name]
    ms = grid(ms_crs, ms_lon, 40.0, 48)
    # PAN is larger than MS by some pixels to each side, so that it covers MS also if turned against it.
    pan = grid(pan_crs, pan_lon, 10.0, 4 * 48 + 40, off=(off, off))
    paths, field = make(tmp_path, ms, pan, ms_lon)
    with open_pair(*paths) as pair:
        if pair.strategy != "ms-to-pan-grid":
            assert pair.grids.ms == ms
        else:
            assert min(pair.grids.ms.height, pair.grids.ms.width) >= 47
            assert np.abs(np.array(pair.grids.ms.corners()) - ms.corners()).max() < max(ms.pixel_size)
        assert pair.ratio == pytest.approx(4, rel=0.06)
        block = pair.read_block(pair.grids.ms.window, 0, 0)
        assert block.valid.all()
        common = pair.grids
        parts = np.concatenate(
            [pair.read_block(Window(0, c, common.ms.height, 16), 0, 0).pan[0] for c in (0, 16)], axis=1
        )
        np.testing.assert_array_equal(parts, block.pan[0][:, : parts.shape[1]])
        glance = thumbnail(pair, longest=40)
        assert np.isfinite(glance.ms).all()
        assert np.isfinite(glance.pan).all()
    # The field is in metres of its own projection, so it does not depend on how longitudes are written.
    assert np.abs(shift_between(block.pan, field.panchromatic(), common.pan)).max() < 0.005
    assert np.abs(shift_between(block.ms, field, common.ms)).max() * 4 < 0.005
    assert np.abs(errors(block.pan, field.panchromatic(), common.pan)).max() < 0.02
    assert np.abs(errors(block.ms, field, common.ms)).max() < 0.02


def test_a_place_elsewhere_is_still_elsewhere(tmp_path: Path) -> None:
    ms, pan = grid("EPSG:4326", 180.0, 40.0, 48), grid("EPSG:4326", -178.0, 10.0, 192)
    paths, _ = make(tmp_path, ms, pan, 180.0)
    with pytest.raises(Exception, match="do not overlap"):
        open_pair(*paths)


SCENES = [
    (UTM60, 180.0),
    ("EPSG:4326", 180.0),
    ("EPSG:4326", -180.0),
    ("EPSG:3857", 180.0),
    ("EPSG:4326", 179.99),
    ("EPSG:4326", -179.99),
]
"""CRS and longitude of the middle of scenes of 48 columns.

The 180th meridian lies at column 24, or 24 ± 28 in the last two, so that each side of the seam has a scene.
"""


def squares(scene: Grid, *centres: tuple[float, float]) -> list[shapely.Polygon]:
    """Connected squares of about 10 MS pixels around MS pixel positions, in degrees as PROJ gives them."""
    to = Transformer.from_crs(scene.crs.to_wkt(), "EPSG:4326", always_xy=True)
    found = []
    for row, col in centres:
        lon, lat = to.transform(*scene.pixel_to_map(row, col))
        found.append(shapely.box(lon - 0.0018, lat - 0.0018, lon + 0.0018, lat + 0.0018))
    return found


def truth(scene: Grid, shapes: list[shapely.Polygon]) -> np.ndarray:
    """Whether each pixel centre of a scene lies inside shapes; longitudes are compared modulo 360."""
    col, row = np.meshgrid(np.arange(scene.width) + 0.5, np.arange(scene.height) + 0.5)
    to = Transformer.from_crs(scene.crs.to_wkt(), "EPSG:4326", always_xy=True)
    lon, lat = to.transform(*(scene.transform * (col, row)))
    out = np.zeros(col.shape, bool)
    for shape in shapes:
        left, bottom, right, top = shape.bounds
        out |= ((lon - left) % 360 < right - left) & (lat > bottom) & (lat < top)
    return out


@pytest.mark.parametrize(
    "turn", [-360.0, 0.0, pytest.param(360.0, marks=pytest.mark.slow)], ids=lambda t: f"{t:+g}"
)
@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_areas_in_degrees(tmp_path: Path, scene: tuple[str, float], turn: float) -> None:
    """Polygons on both sides of 180 degrees and across it cover the right pixels in any turn."""
    where = grid(*scene, 40.0, 48)
    shapes = squares(where, (10, 10), (12, 38), (36, 24))
    path = tmp_path / "area.gpkg"
    moved = [shapely.transform(s, lambda xy: xy + np.array([turn, 0.0])) for s in shapes]
    geopandas.GeoDataFrame(geometry=moved, crs="EPSG:4326").to_file(path)
    area = Area.from_file(path, where)
    expected = truth(where, shapes)
    assert 200 < expected.sum() < 400
    np.testing.assert_array_equal(area.mask(where.window), expected)
    rows, cols = np.nonzero(expected)
    assert area.window == Window(
        rows.min(), cols.min(), rows.max() + 1 - rows.min(), cols.max() + 1 - cols.min()
    ) or (area.window.height, area.window.width) <= (np.ptp(rows) + 3, np.ptp(cols) + 3)


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_areas_in_metres_over_the_seam(tmp_path: Path, scene: tuple[str, float]) -> None:
    """A polygon with a hole that is whole in UTM stays whole where PROJ puts it at both ends of the world."""
    where = grid(*scene, 40.0, 48)
    to_utm = Transformer.from_crs(where.crs.to_wkt(), UTM60, always_xy=True)
    x, y = to_utm.transform(*where.pixel_to_map(20, 20))
    shape = shapely.box(x - 510, y - 510, x + 510, y + 510).difference(
        shapely.box(x - 110, y - 110, x + 310, y + 110)
    )
    path = tmp_path / "area.gpkg"
    geopandas.GeoDataFrame(geometry=[shape], crs=UTM60).to_file(path)
    col, row = np.meshgrid(np.arange(48) + 0.5, np.arange(48) + 0.5)
    expected = shapely.contains_xy(shape, *to_utm.transform(*(where.transform * (col, row))))
    found = Area.from_file(path, where).mask(where.window)
    assert (found != expected).sum() <= 2  # centres right at the outline
    assert 400 < expected.sum() < 800


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask_lon",
    [
        180.0,
        pytest.param(-180.0, marks=pytest.mark.slow),
        "world",
        pytest.param("0 to 360", marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_raster_masks_in_degrees(tmp_path: Path, scene: tuple[str, float], mask_lon: float | str) -> None:
    """Masks exclude the right pixels, also a mask around the world whose ends meet in the scene."""
    where = grid(*scene, 40.0, 48)
    fine = 20.0 / 111_000
    if isinstance(mask_lon, str):
        # Pixels are wide along longitude, so that a mask of all the world is small enough.
        cols = 360 * 400
        first = 0.0 if mask_lon == "0 to 360" else -180.0
        step = 360 / cols
        mask = Grid(140, cols, Affine(step, 0, first, 0, -fine, LAT + 70 * fine), CRS.from_epsg(4326))
    else:
        mask = grid("EPSG:4326", mask_lon, 20.0, 400)
    shapes = squares(where, (10, 10), (12, 38), (36, 24))
    lon = mask.transform.c + (np.arange(mask.width) + 0.5) * mask.transform.a
    lat = mask.transform.f + (np.arange(mask.height) + 0.5) * mask.transform.e
    values = np.zeros((mask.height, mask.width), np.uint8)
    for shape in shapes:
        left, bottom, right, top = shape.bounds
        inside = ((lon - left) % 360 < right - left)[None] & ((lat > bottom) & (lat < top))[:, None]
        values |= inside.astype(np.uint8)
    path = write_raster(tmp_path / "mask.tif", values[None], mask, dtype="uint8", compress="deflate")
    # The mask's values at the scene's PAN pixel centres, looked up by index.
    col, row = np.meshgrid(np.arange(192) + 0.5, np.arange(192) + 0.5)
    to = Transformer.from_crs(where.crs.to_wkt(), "EPSG:4326", always_xy=True)
    x, y = to.transform(*(where.refined(4).transform * (col, row)))
    at_col = np.floor(((x - mask.transform.c) % 360) / mask.transform.a).astype(int)
    at_row = np.floor((y - mask.transform.f) / mask.transform.e).astype(int)
    expected = values[at_row, at_col].reshape(48, 4, 48, 4).sum(axis=(1, 3)) >= 8
    assert 150 < expected.sum() < 450

    paths, _ = make(tmp_path, where, where.refined(4), scene[1])
    with open_pair(*paths) as pair, open_mask(MaskFile(path), pair.grids) as opened:
        assert opened.covered == 1.0
        found = opened.excluded(where.window)
        assert (found != expected).sum() <= 2  # pixels that are masked by half, but for rounding
        np.testing.assert_array_equal(opened.excluded(Window(8, 16, 20, 17)), found[8:28, 16:33])
        glance = opened.at_a_glance(where)
        assert (glance != expected).mean() < 0.03


@pytest.mark.parametrize(
    ("crs", "period"),
    [
        ("EPSG:4326", 360.0),
        ("EPSG:4807", 400.0),  # in grads
        ("EPSG:3857", WORLD),
        ("EPSG:3832", WORLD),  # about 150 degrees east
        ("EPSG:4087", WORLD),
        ("+proj=eqc +lat_ts=60 +R=6371000 +lon_0=10", np.pi * 6_371_000.0),
        ("+proj=merc +k=0.5 +datum=WGS84 +units=km", WORLD / 2000),
        ("EPSG:32760", None),
        ("EPSG:3031", None),
        ("EPSG:3035", None),
        ("+proj=robin", None),
        ("+proj=sinu +R=6371007", None),
    ],
)
def test_periods(crs: str, period: float | None) -> None:
    """Coordinates any number of turns away, or just over half a turn, are moved by the CRS's period."""
    system = CRS.from_user_input(crs)
    if period is None:
        x = np.array([0.0, 360.0, WORLD, -2 * WORLD])
        assert near(x, 0.0, system).tobytes() == x.tobytes()
        return
    place = 0.1 * period
    turns = np.arange(-3, 4)
    np.testing.assert_allclose(near(place + turns * period, place, system), place, atol=3e-9 * period)
    np.testing.assert_allclose(near(place + 0.501 * period, place, system), place - 0.499 * period, rtol=1e-8)
    assert near(place + 0.499 * period, place, system) == place + 0.499 * period


def test_what_is_near_stays_to_the_last_bit() -> None:
    degrees, utm = CRS.from_epsg(4326), CRS.from_user_input(UTM60)
    x = np.random.default_rng(0).uniform(-180, 180, 1000)
    assert near(x, 0.0, degrees).tobytes() == x.tobytes()
    assert near(x, 1e9, utm).tobytes() == x.tobytes()
    moved = near(np.array([179.99, -179.99, np.nan, np.inf]), 180.0, degrees)
    np.testing.assert_allclose(moved, [179.99, 180.01, np.nan, np.inf])
    here = grid("EPSG:4326", -75.0, 10.0, 50)
    assert moved_beside(here, replace(here, width=100)) is here
    assert moved_beside(grid("EPSG:4326", 285.0, 10.0, 50), here).transform.almost_equals(
        here.transform, 1e-9
    )
    metres = grid(UTM60, 180.0, 10.0, 50)
    assert moved_beside(metres, grid(UTM60, 179.0, 10.0, 50)) is metres


def test_lookups_over_the_seam() -> None:
    """In a raster from 0 to 360, each longitude is looked up once, in its pixel."""
    world = Grid(18, 360, Affine(1.0, 0, 0.0, 0, -10.0, 90.0), CRS.from_epsg(4326))
    lon = np.array([[-3.5, -0.5, 0.5], [359.5, 361.5, np.nan]])
    row = np.full(lon.shape, 4.25)
    pixel = np.full(lon.shape, -1)
    for found in lookups(world, row, lon):
        assert found.window.intersection(world.window) == found.window
        rows, cols = found.pixels
        assert (pixel[found.inside] == -1).all()
        pixel[found.inside] = found.window.col + cols
        assert (found.window.row + rows == 4).all()
    np.testing.assert_array_equal(pixel, [[356, 359, 0], [359, 1, -1]])
    part = replace(world, width=100)
    assert [found.inside.sum() for found in lookups(part, row, lon)] == [1]
    assert list(lookups(part, row, np.full(lon.shape, 200.0))) == []


def test_boxes_whole_turns_away() -> None:
    degrees = CRS.from_epsg(4326)
    box = (170.0, -20.0, 190.0, -10.0)
    by = range(-720, 721, 360)
    assert set(box_turns(box, degrees)) == {(170.0 + k, -20.0, 190.0 + k, -10.0) for k in by}
    assert box_turns(box, degrees)[0] == box
    assert box_turns((-200.0, -20.0, 200.0, -10.0), degrees) == ()
    assert box_turns(box, CRS.from_user_input(UTM60)) == (box,)
