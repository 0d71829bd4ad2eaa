"""Cloud Optimized GeoTIFFs behind a web server: only what is needed is fetched."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
    """Files of a folder, by ranges; counts the bytes of each that are sent."""

    address: str
    sent: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.respond(body=False)

        def do_GET(self) -> None:
            self.respond(body=True)

        def respond(self, *, body: bool) -> None:
            path = tmp_path / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = (int(wanted[1]), int(wanted[2] or len(data) - 1)) if wanted else (0, len(data) - 1)
            part = data[first : last + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.end_headers()
            if body:
                found.sent[path.name] = found.sent.get(path.name, 0) + len(part)
                self.wfile.write(part)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


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
    server.sent.clear()
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
        opened = dict(server.sent)
        block = pair.read_block(window, 7, 8)
    np.testing.assert_array_equal(block.ms, local.ms)
    np.testing.assert_array_equal(block.pan, local.pan)
    sizes = {p.with_suffix(".cog.tif").name: p.with_suffix(".cog.tif").stat().st_size for p in (ms, pan)}
    for name, size in sizes.items():
        assert opened[name] < 70_000, "opening reads the header alone"
        # 55 MS pixels, 138 PAN pixels with the kernel: 2 × 2 tiles of 128 of the 16 and 64 there are.
        tiles = 4 / 16 if name.startswith("ms") else 9 / 64
        assert server.sent[name] < tiles * size + 100_000, (name, server.sent, size)
        assert server.sent[name] < 0.35 * size


def test_an_address_without_a_file(server: Server, tmp_path: Path) -> None:
    from das2f_map.errors import InputError

    ms, _ = make_pair(tmp_path, ms_shape=(8, 8))
    with pytest.raises(InputError, match=r"PAN file .*nothing.tif cannot be opened"):
        open_pair(ms, f"/vsicurl/{server.address}/nothing.tif")
