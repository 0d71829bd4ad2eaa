"""Cloud Optimized GeoTIFFs behind a web server: only what is needed is fetched."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy
from synthetic import make_pair

from das2f_map.errors import InputError
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair


@dataclass
class Server:
    address: str
    log: Path

    def sent(self) -> Counter[str]:
        """Bytes sent of each file."""
        total: Counter[str] = Counter()
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            name, size = line.split()
            total[name] += int(size)
        return total


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    log = tmp_path / "sent.log"
    command = [sys.executable, str(Path(__file__).with_name("range_server.py")), str(tmp_path), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}", log)
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["/vsicurl/", "plain"])
def test_only_windows_are_fetched(server: Server, tmp_path: Path, kind: str) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(512, 512), ratio=2, offset=(0.5, -0.5))
    options = {"driver": "COG", "blocksize": 128, "compress": "none", "overviews": "none"}
    # The name has the port: GDAL keeps what it has fetched from an address.
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
        # 55 MS pixels are in 2 × 2 of 16 tiles, 138 PAN pixels with the kernel's reach in up to 3 × 3 of 64.
        tiles = 4 / 16 if path.name.startswith("ms") else 9 / 64
        assert sent[path.name] - opened[path.name] < tiles * size + 70_000
        assert sent[path.name] < 0.35 * size


def test_an_address_without_a_file(server: Server, tmp_path: Path) -> None:
    ms, _ = make_pair(tmp_path, ms_shape=(8, 8))
    with pytest.raises(InputError, match=r"PAN file .*nothing.tif cannot be opened"):
        open_pair(ms, f"{server.address}/nothing.tif")
