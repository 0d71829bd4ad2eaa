"""Cloud Optimized GeoTIFFs behind a web server: only the parts that are needed are fetched."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import delivered
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.shutil import copy
from scipy.ndimage import gaussian_filter
from synthetic import make_pair, pair_grids, write_raster
from tiny import tiny_bundle

import das2f_map
from das2f_map.errors import InputError
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair
from das2f_map.scene.request import PairRequest
from das2f_map.workflows.align import align
from das2f_map.workflows.inspect import inspect_pair


@dataclass
class Server:
    address: str
    log: Path

    def sent(self) -> Counter[str]:
        """Bytes sent so far, by file."""
        total: Counter[str] = Counter()
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            name, size = line.split()
            total[name] += int(size)
        return total


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    log = tmp_path / "sent.log"
    program = Path(__file__).parents[1] / "byte_server.py"
    command = [sys.executable, str(program), str(tmp_path), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}", log)
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["/vsicurl/", pytest.param("plain", marks=pytest.mark.slow)])
def test_only_windows_are_fetched(server: Server, tmp_path: Path, kind: str) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(512, 512), ratio=2, offset=(0.5, -0.5))
    options = {"driver": "COG", "blocksize": 128, "compress": "none", "overviews": "none"}
    # GDAL caches by address, so the names contain the port: no two tests share an address.
    port = server.address.rsplit(":", 1)[1]
    files = [path.with_name(f"{path.stem}-{port}.tif") for path in (ms, pan)]
    for path, cog in zip((ms, pan), files, strict=True):
        copy(path, cog, **options)
    prefix = "" if kind == "plain" else kind
    remote = [f"{prefix}{server.address}/{p.name}" for p in files]
    window = Window(200, 300, 40, 40)
    with open_pair(ms, pan) as pair:
        local = pair.read_block(window, 7, 8)
    with rasterio.Env(VSI_CACHE=False), open_pair(*remote) as pair:
        assert pair.strategy == "pan-to-quarter-ms"
        opened = server.sent()
        block = pair.read_block(window, 7, 8)
    np.testing.assert_array_equal(block.ms, local.ms)
    np.testing.assert_array_equal(block.pan, local.pan)
    sent = server.sent()
    for path in files:
        size = path.stat().st_size
        assert 0 < opened[path.name] < 70_000, "opening reads the header alone"
        # 55 MS pixels lie in 2 × 2 of 16 tiles; 138 PAN pixels, the kernel's reach included, in up to 3 × 3
        # of 64.
        tiles = 4 / 16 if path.name.startswith("ms") else 9 / 64
        assert sent[path.name] - opened[path.name] < tiles * size + 70_000
        assert sent[path.name] < 0.35 * size


SHAPE = (2048, 2048)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pair so large that no command needs most of it; PAN's content lies 2 pixels down and 1 right."""
    folder = tmp_path_factory.mktemp("large")
    ms_grid, pan_grid = pair_grids(ms_shape=SHAPE)
    size = 4 * SHAPE[0]
    tile = gaussian_filter(np.random.default_rng(0).normal(size=(512, 512)), 3, mode="wrap")
    ground = np.tile(2500 + 300 * tile / tile.std(), (16, 16)).astype(np.float32)
    means = ground.reshape(SHAPE[0], 4, SHAPE[1], 4).mean(axis=(1, 3))
    assert ground.shape == (size, size)
    pan = np.roll(ground, (2, 1), axis=(0, 1))[None]
    bands = np.stack([means * w for w in (0.8, 0.9, 1.0, 1.1)])
    names = ("blue", "green", "red", "nir")
    paths = (
        write_raster(folder / "plain-ms.tif", bands, ms_grid, dtype="uint16", names=names),
        write_raster(folder / "plain-pan.tif", pan, pan_grid, dtype="uint16"),
    )
    cogs = folder / "ms.tif", folder / "pan.tif"
    for path, cog in zip(paths, cogs, strict=True):
        copy(path, cog, driver="COG", blocksize=128, compress="none", overviews="auto")
    return cogs


@pytest.fixture
def object_store(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same server as an object store whose buckets are folders."""
    for name, value in {
        "AWS_S3_ENDPOINT": server.address.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
        "VSI_CACHE": "NO",
    }.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3://", "/vsis3/", "/vsicurl/"])
def test_commands_read_windows_of_remote_files(
    object_store: Server, large: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    """`inspect`, `align` and `classify` of an area: the server sends only a small part of the files."""
    port = object_store.address.rsplit(":", 1)[1]
    bucket = f"bucket-{port}"
    (tmp_path / bucket).mkdir()
    prefix = f"{kind}{object_store.address}/" if kind == "/vsicurl/" else kind
    sizes, remote = {}, []
    for path in large:
        file = tmp_path / bucket / f"{path.stem}-{port}.tif"
        file.hardlink_to(path)
        sizes[file.name] = file.stat().st_size
        remote.append(f"{prefix}{bucket}/{file.name}")
    grid = pair_grids(ms_shape=SHAPE)[0]
    area = geopandas.GeoSeries([shapely.box(*grid.pixel_to_map(720, 700), *grid.pixel_to_map(714, 706))])
    area.set_crs(grid.crs.to_wkt()).to_file(tmp_path / "aoi.gpkg")
    model = tiny_bundle(tmp_path / "models", patch=8)

    sent = Counter[str]()
    shares: dict[str, float] = {}

    def done(command: str) -> None:
        now = object_store.sent()
        assert all(now[name] > sent[name] for name in sizes)
        shares[command] = sum(now[name] - sent[name] for name in sizes) / sum(sizes.values())
        sent.update(now - sent)

    options = {"aoi": tmp_path / "aoi.gpkg", "model": model, "vectors": False, "coregistration": "off"}
    report = das2f_map.classify(*remote, tmp_path / "remote.tif", **options)
    done("classify")
    here = das2f_map.classify(*large, tmp_path / "local.tif", **options)
    assert report.nodata_pixels == here.nodata_pixels == 0
    with rasterio.open(tmp_path / "remote.tif") as a, rasterio.open(tmp_path / "local.tif") as b:
        np.testing.assert_array_equal(a.read(1), b.read(1))
    assert report.scene.pan.path == remote[1]
    shift = align(*remote).shift
    done("align")
    assert (shift.rows, shift.cols) == pytest.approx((2, 1), abs=0.1)
    found = inspect_pair(*remote, tmp_path / "look.png", model=model)
    done("inspect")
    assert found.models[0].bands == {"blue": 1, "green": 2, "red": 3, "nir": 4}
    # The samples of values and the matched windows are as large in any larger scene.
    assert all(0 < share < 0.4 for share in shares.values()), shares


def test_an_address_without_a_file(server: Server, tmp_path: Path) -> None:
    ms, _ = make_pair(tmp_path, ms_shape=(8, 8))
    (tmp_path / "text.tif").write_text("no image")
    for place in (
        server.address,
        f"/vsicurl/{server.address}",
        "http://127.0.0.1:9",
        "/vsicurl/http://127.0.0.1:9",
    ):
        with pytest.raises(InputError, match=r"PAN file .*nothing.tif cannot be opened") as caught:
            open_pair(ms, f"{place}/nothing.tif")
        assert "\n" not in caught.value.message
        assert "check the address" in str(caught.value.hint)
        assert "credentials" in str(caught.value.hint)
    # This file exists but is no image.
    with pytest.raises(InputError, match=r"PAN file .*text.tif cannot be opened") as caught:
        open_pair(ms, f"{server.address}/text.tif")
    assert "gdalinfo" in str(caught.value.hint)


def test_stac_item_at_an_address(server: Server, tmp_path: Path) -> None:
    """Its assets are looked for where it lies; its quality band, too."""
    pair = delivered.crop(tmp_path)
    qa = np.zeros((40, 40), np.uint16)
    qa[3:9, 4:20] = 1 << 3
    item = delivered.stac(tmp_path / server.address.rpartition(":")[2], pair, qa=qa)
    address = f"{server.address}/{item.relative_to(tmp_path)}"
    with open_pair(pair.ms, pair.pan) as files:
        wanted = files.read_block(files.grids.ms.window, 0, 0)
    with rasterio.Env(VSI_CACHE=False), PairRequest.of(address, mask="clouds").open() as remote:
        block = remote.read_block(remote.grids.ms.window, 0, 0)
        assert remote.arguments == (address,)
    np.testing.assert_array_equal(block.ms, wanted.ms)
    np.testing.assert_array_equal(block.pan, wanted.pan)
    np.testing.assert_array_equal(~block.valid, qa != 0)
    assert {"item.json", "blue.tif", "pan.tif", "qa.tif"} <= set(server.sent())


def test_address_without_an_item(server: Server, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text("<html>")
    (tmp_path / "list.json").write_text(
        '{"type": "FeatureCollection", "stac_version": "1.0.0", "features": []}'
    )
    for name, says in (
        ("none.json", "cannot be fetched"),
        ("page.json", "is no JSON"),
        ("list.json", "is no STAC Item but FeatureCollection"),
    ):
        with pytest.raises(InputError, match=says):
            PairRequest.of(f"{server.address}/{name}").open()
