"""Forecast sizes of files against those that are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from maps import AWKWARD_LEGEND, UTM, confidence_of, patchy_classes

from das2f_map.outputs.names import siblings
from das2f_map.products.map_files import MapPaths, MapWriter
from das2f_map.running.output_sizes import Texture, expected_bytes
from das2f_map.scene.grid import Grid, blocks_of

IDS = AWKWARD_LEGEND.ids


def fields(side: int, of: int) -> np.ndarray:
    """Square fields of a class each."""
    drawn = np.random.default_rng(side).choice(np.array(IDS, np.uint8), (-(-of // side),) * 2)
    return np.kron(drawn, np.ones((side, side), np.uint8))[:of, :of]


MAPS = {
    "a few pixels": fields(3, 9),
    "small": fields(5, 60),
    "patchy": patchy_classes(97, 130, IDS, seed=1, nodata_share=0.02),
    "large fields": fields(60, 600),
}


CASES = [(name, ".gpkg") for name in MAPS] + [("patchy", e) for e in (".shp", ".geojson", ".fgb", ".parquet")]


@pytest.mark.parametrize(("name", "extension"), CASES)
def test_sizes_are_right_to_a_factor_of_two(name: str, extension: str, tmp_path: Path) -> None:
    if extension == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    classes = MAPS[name]
    grid = Grid(*classes.shape, UTM.transform, UTM.crs)
    paths = MapPaths(
        tmp_path / "m.tif", tmp_path / "m.json", tmp_path / f"p{extension}", confidence=tmp_path / "c.tif"
    )
    with MapWriter(paths, grid, AWKWARD_LEGEND, work=tmp_path) as writer:
        sure = confidence_of(classes)
        for window in blocks_of(grid.window, 64):
            writer.write(window, classes[window.slices()], sure[window.slices()])
        writer.finish()
    texture = Texture.of(classes[:64, :64])
    assert texture is not None
    pixels = int(np.count_nonzero(classes))
    for kind, path in paths.by_kind().items():
        if kind == "report":
            continue
        written = sum(p.stat().st_size for p in (path, *siblings(path)) if p.is_file())
        forecast = expected_bytes(kind, path.suffix, pixels, len(IDS), texture)
        assert written / 2 < forecast < 2 * written, f"{kind}: {forecast:,} for {written:,}"


def test_texture_of_known_patterns() -> None:
    board = (np.indices((40, 40)).sum(axis=0) % 2 + 1).astype(np.uint8)
    found = Texture.of(board)
    assert found is not None
    # Every pixel is a region of four vertices; those on the border count half, and a quarter in the corners.
    assert found.regions == pytest.approx((38 * 38 + 0.5 * 4 * 38 + 0.25 * 4) / 1600)
    assert found.vertices == pytest.approx(4 * 39 * 39 / 1600)
    halves = np.repeat([[1], [2]], 20, axis=0).repeat(40, axis=1).astype(np.uint8)
    assert Texture.of(halves) == Texture(regions=2 * 0.25 / 1600, vertices=0.0)
    assert Texture.of(np.zeros((5, 5), np.uint8)) is None
