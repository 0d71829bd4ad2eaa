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

from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair


@dataclass
class Server:
    """Files of a folder behind a web server."""

    address: str
    log: Path

    def sent(self) -> Counter[str]:
        """Bytes of each file that were sent since the last time this was asked."""
        total: Counter[str] = Counter()
        for line in self.log.read_text().splitlines():
            name, size = line.split()
            total[name] += int(size)
        self.log.write_text("")
        return total


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "sent.log").touch()
    program = [sys.executable, str(Path(__file__).with_name("range_server.py")), str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Server(f"http://127.0.0.1:{port}", tmp_path / "sent.log")
        process.terminate()


def test_only_windows_are_fetched(server: Server, tmp_path: Path) -> None:
    ms, pan = make_pair(tmp_path, ms_shape=(512, 512), ratio=2, offset=(0.5, -0.5))
    options = {"driver": "COG", "blocksize": 128, "compress": "none", "overviews": "none"}
    for path in (ms, pan):
        copy(path, path.with_suffix(".cog.tif"), **options)
    remote = [f"/vsicurl/{server.address}/{p.with_suffix('.cog.tif').name}" for p in (ms, pan)]
    window = Window(200, 300, 40, 40)
    plain = [f"{server.address}/{p.with_suffix('.cog.tif').name}" for p in (ms, pan)]
    with open_pair(*plain) as pair:
        assert pair.strategy == "pan-to-quarter-ms"
    server.sent()
    with open_pair(ms, pan) as pair:
        local = pair.read_block(window, 7, 8)
    with (
        rasterio.Env(
            GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", CPL_VSIL_CURL_CHUNK_SIZE=16384, VSI_CACHE=False
        ),
        open_pair(*remote) as pair,
    ):
        assert pair.strategy == "pan-to-quarter-ms"
        assert pair.notices
        opened = server.sent()
        block = pair.read_block(window, 7, 8)
    sent = opened + server.sent()
    np.testing.assert_array_equal(block.ms, local.ms)
    np.testing.assert_array_equal(block.pan, local.pan)
    sizes = {p.with_suffix(".cog.tif").name: p.with_suffix(".cog.tif").stat().st_size for p in (ms, pan)}
    for name, size in sizes.items():
        assert opened[name] < 70_000, "opening reads the header alone"
        # 55 MS pixels, 138 PAN pixels with the kernel: 2 × 2 tiles of 128 of the 16 and 64 there are.
        tiles = 4 / 16 if name.startswith("ms") else 9 / 64
        assert sent[name] < tiles * size + 100_000, (name, sent, size)
        assert sent[name] < 0.35 * size


def test_an_address_without_a_file(server: Server, tmp_path: Path) -> None:
    from das2f_map.errors import InputError

    ms, _ = make_pair(tmp_path, ms_shape=(8, 8))
    with pytest.raises(InputError, match=r"PAN file .*nothing.tif cannot be opened"):
        open_pair(ms, f"/vsicurl/{server.address}/nothing.tif")
