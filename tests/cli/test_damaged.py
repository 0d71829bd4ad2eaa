"""Damaged inputs that the fuzz test has found to be wrongly handled, a test each."""

from __future__ import annotations

from pathlib import Path

import pytest
import rasterio
from command import Run, listing, subprocess_run


def virtual(path: Path, scene: tuple[Path, Path], name: bytes) -> Path:
    """A VRT of the MS image whose CRS has another name."""
    with rasterio.open(scene[0]) as src:
        wkt, t, bands = src.crs.to_wkt().encode(), src.transform.to_gdal(), src.count
        size = f"rasterXSize='{src.width}' rasterYSize='{src.height}'"
    head, _, tail = wkt.partition(b'"')
    srs = (head + b'"' + name + b'"' + tail.partition(b'"')[2]).replace(b'"', b"&quot;")
    rows = "".join(
        f"<VRTRasterBand dataType='UInt16' band='{b}'><SimpleSource>"
        f"<SourceFilename>{scene[0]}</SourceFilename>"
        f"<SourceBand>{b}</SourceBand></SimpleSource></VRTRasterBand>"
        for b in range(1, bands + 1)
    )
    path.write_bytes(
        f"<VRTDataset {size}><SRS>".encode()
        + srs
        + f"</SRS><GeoTransform>{', '.join(map(str, t))}</GeoTransform>{rows}</VRTDataset>".encode()
    )
    return path


def test_names_that_are_not_utf8(run: Run, scene: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    """rasterio raises UnicodeDecodeError, a subclass of ValueError and no error of its own."""
    (tmp_path / "out").mkdir()
    command = ("classify", "MS", scene[1], "-o", tmp_path / "out" / "map.tif", "--model", model)
    good = virtual(tmp_path / "good.vrt", scene, "Zürich".encode())
    assert run(*(good if word == "MS" else word for word in command), "--no-vectors").code == 0
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    bad = virtual(tmp_path / "bad.vrt", scene, b"Z\x80rich")
    outcome = run(*(bad if word == "MS" else word for word in command))
    assert outcome.code == 3
    assert "has texts that are not UTF-8" in outcome.errors[0]
    assert listing(tmp_path / "out") == set()
    reference = run("evaluate", bad, "--reference", bad)
    assert reference.code in (3, 4)
    assert len(reference.errors) == 1


@pytest.mark.slow
def test_a_message_that_is_not_utf8_shows_no_traceback(scene: tuple[Path, Path], tmp_path: Path) -> None:
    bad = virtual(tmp_path / "bad.vrt", scene, b"Z\x80rich]")
    outcome = subprocess_run("classify", bad, scene[1], "-o", tmp_path / "map.tif")
    assert outcome.code == 3
    assert "Traceback" not in outcome.err
    assert "Exception ignored" not in outcome.err
