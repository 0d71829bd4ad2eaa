"""A server of a folder's files by byte ranges: `byte_server.py FOLDER [--log LOG] [--faults MODE]`.

It writes the name and the bytes of each answer to LOG. MODE is a file with a word that is read at each
request: `well`, `busy` (503), `cut` (half of the answer), `silent` (none for 10 s) or `slow` (0.2 s each). A
number after it is how many requests fail.

It prints its port. It runs in a process of its own: GDAL may hold Python's lock while it waits for an answer.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ARGUMENTS = argparse.ArgumentParser()
ARGUMENTS.add_argument("folder", type=Path)
ARGUMENTS.add_argument("--log", type=Path)
ARGUMENTS.add_argument("--faults", type=Path)
GIVEN = ARGUMENTS.parse_args()
GUARD = threading.Lock()


def fault() -> str:
    """The fault of this request."""
    if GIVEN.faults is None:
        return "well"
    with GUARD:
        word, _, left = GIVEN.faults.read_text().partition(" ")
        if left:
            GIVEN.faults.write_text(f"{word} {int(left) - 1}" if int(left) > 1 else "well")
        return str(word)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, *, body: bool) -> None:
        # GDAL also asks object stores for the list of a bucket; this server has none.
        found, path = fault(), GIVEN.folder / self.path.split("?")[0].lstrip("/")
        if found == "busy" or not path.is_file():
            self.send_response(503 if found == "busy" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if found == "silent":
            time.sleep(10)
            self.close_connection = True
            return
        if found == "slow":
            time.sleep(0.2)
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2] or size - 1)) if wanted else (0, size - 1)
        with path.open("rb") as file:
            file.seek(first)
            part = file.read(last + 1 - first)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{size}")
        self.end_headers()
        if body:
            if GIVEN.log is not None:
                with GUARD, GIVEN.log.open("a") as log:
                    log.write(f"{path.name} {len(part)}\n")
            self.wfile.write(part[: len(part) // 2] if found == "cut" else part)
        if found == "cut":
            self.close_connection = True


if __name__ == "__main__":
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    print(http.server_address[1], flush=True)
    http.serve_forever()
