"""Maps in blocks of a few pixels, and acts in the middle of a run. Also a program, for a process of its own.

    python block_runs.py MS PAN MODEL FOLDER [--resume] [--after BLOCKS FILE TEXT]

With `--after` a text is written into a file once so many blocks are written. Nothing is cached by GDAL.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import rasterio

import das2f_map.mapping.planned as planned_module
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import Das2fMapError
from das2f_map.workflows.classify import classify

SIDE = 12
"""MS pixels a side of a block."""

_TIME = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Progress = Callable[[str, int | None], Any]


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a map by name, but for the report, which has times, and the GeoPackage's times of change."""
    return {p.name: _TIME.sub(b"", p.read_bytes()) for p in folder.iterdir() if p.suffix != ".json"}


def run(ms: str | Path, pan: str | Path, model: Path, folder: Path, **options: Any) -> None:
    """A map with polygons and two more rasters."""
    folder.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"coregistration": "off", "engine": "patch", "device": "cpu"}
    extra = {name: folder / f"{name}.tif" for name in ("confidence", "probabilities")}
    with (
        mock.patch.object(planned_module, "BLOCK_SIZE", SIDE),
        mock.patch.object(PerPatchEngine, "block_size", SIDE),
    ):
        classify(ms, pan, folder / "m.tif", model=model, **(settings | extra | options))


def after(blocks: int, act: Callable[[], object]) -> Progress:
    """A progress that does something once so many blocks are written."""
    return at({blocks: act})


def at(acts: Mapping[int, Callable[[], object]]) -> Progress:
    """A progress that does several things, each once so many blocks are written."""

    @contextmanager
    def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        written = 0

        def advance(pixels: int) -> None:
            nonlocal written
            written += 1
            if description == "Classifying" and written in acts:
                acts[written]()

        yield advance

    return progress


@contextmanager
def nothing_cached() -> Iterator[None]:
    """Inside the ``with`` block GDAL keeps no tiles."""
    try:
        with rasterio.Env(GDAL_CACHEMAX=1):
            yield
    finally:
        with rasterio.Env(GDAL_CACHEMAX=64 << 20):
            pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs=4)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--after", nargs=3)
    given = parser.parse_args()
    ms, pan, model, folder = given.files
    options: dict[str, Any] = {"resume": given.resume}
    if given.after:
        blocks, file, text = given.after
        options["progress"] = after(int(blocks), lambda: Path(file).write_text(text))
    try:
        with nothing_cached():
            run(ms, pan, Path(model), Path(folder), **options)
    except Das2fMapError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
