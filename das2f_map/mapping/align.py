"""Measure the shift of a pair and write the pair aligned."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pydantic import BaseModel, ConfigDict, Field

import das2f_map
from das2f_map.errors import InputError, OutputError
from das2f_map.products.shift_figure import draw_shift
from das2f_map.products.staging import StagedOutputs, writing
from das2f_map.progress import Progress, silent
from das2f_map.scene.grid import PAN_PER_MS, Window, blocks_of
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.registration import (
    DEFAULT_MAX_SHIFT,
    Coregistration,
    ShiftReport,
    coregister,
    decide,
    measure_shift,
    refuse_large_shift,
)
from das2f_map.scene.source import RasterSource
from das2f_map.scene.survey import thumbnail

log = logging.getLogger(__name__)

_BLOCK = 256
"""MS pixels a side of a block that is written at once."""

NAMES = {"ms": "ms.tif", "pan": "pan.tif", "report": "align.json", "picture": "align.png"}
"""Files in the output folder."""


class AlignReport(BaseModel):
    """What `align` found and did."""

    model_config = ConfigDict(extra="forbid")

    software_version: str
    scene: dict[str, Any] = Field(description="files and common grid, see ScenePair.describe")
    shift: ShiftReport
    classify: str = Field(description="what `classify` does about the shift by default")
    corrected: bool = Field(description="whether the written pair is corrected; false where none is written")
    warnings: list[str]
    outputs: dict[str, str] = Field(description="kind of output → path")


def align(
    ms: str | Path,
    pan: str | Path,
    output: str | Path | None = None,
    *,
    max_shift: float = DEFAULT_MAX_SHIFT,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> AlignReport:
    """Measure how far the contents of two images are apart; with an output folder, write them aligned.

    The written pair lies on its common grid, 4 × 4 PAN pixels in each MS pixel. An image that is not
    resampled keeps its numbers and type; a resampled one is float32, after scale and offset.

    Parameters
    ----------
    ms, pan:
        The image pair.
    output:
        Folder for ``ms.tif``, ``pan.tif``, ``align.json`` and ``align.png``; made if need be.
    max_shift:
        PAN pixels over which the pair is refused.
    nodata, mask, force:
        As in :func:`das2f_map.classify`. The mask keeps pixels from being matched, and is not applied.
    overwrite:
        Replace existing files in the folder.
    progress:
        Told how the writing goes on.

    Raises
    ------
    InputError
        The pair cannot be used, or lies further apart than ``max_shift``; or it is to be written, and its
        shift could not be measured.
    OutputError
        Files exist or cannot be written.
    """
    mask_file = MaskFile(mask) if isinstance(mask, (str, Path)) else mask
    with open_pair(ms, pan, force=force, nodata=nodata, mask=mask_file) as pair:
        if output is None:
            report = measure_shift(pair)
            refuse_large_shift(pair, report, max_shift)
            return _report(pair, report, False, [], max_shift)
        folder = Path(output)
        inputs = [str(p) for p in (ms, pan, mask_file and mask_file.path) if p is not None]
        with _folder(folder), StagedOutputs(inputs=inputs, overwrite=overwrite) as staged:
            paths = {kind: staged.stage(folder / name) for kind, name in NAMES.items()}
            done = _coregistered(pair, max_shift)
            done.log()
            assert done.report is not None  # measured, as the mode is not off
            _write_pair(done.pair, paths["ms"], paths["pan"], nodata, progress)
            title = done.report.sentence()
            with writing(paths["picture"]):
                draw_shift(paths["picture"], thumbnail(pair), pair.sources[0].grid, done.report, title=title)
            report_of_run = _report(done.pair, done.report, done.corrected, list(done.warnings), max_shift)
            report_of_run.outputs = {kind: str(folder / name) for kind, name in NAMES.items()}
            with writing(paths["report"]):
                text = report_of_run.model_dump_json(indent=2)
                paths["report"].write_text(text + "\n", encoding="utf-8")
    return report_of_run


def _coregistered(pair: ScenePair, max_shift: float) -> Coregistration:
    done = coregister(pair, "on", max_shift=max_shift)
    if done.report is not None and done.report.verdict != "agree":
        raise InputError(
            f"{done.report.sentence()} (MS {pair.ms_path}, PAN {pair.pan_path})",
            "without -o, align shows what the windows say, --json each of them",
        )
    return done


def _report(
    pair: ScenePair, shift: ShiftReport, corrected: bool, warnings: list[str], max_shift: float
) -> AlignReport:
    return AlignReport(
        software_version=das2f_map.__version__,
        scene=pair.describe(),
        shift=shift,
        classify=decide(shift, max_shift=max_shift).because,
        corrected=corrected,
        warnings=warnings,
        outputs={},
    )


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """The output folder is there; if it was made for this run, it goes away when the run fails."""
    made = False
    if not folder.is_dir():
        if folder.exists():
            raise OutputError(f"output {folder} is not a folder", "choose another one with -o")
        try:
            folder.mkdir()
        except OSError as error:
            raise OutputError(
                f"output folder {folder} cannot be made: {error.strerror}", "check the path"
            ) from error
        made = True
    try:
        yield
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _write_pair(pair: ScenePair, ms: Path, pan: Path, nodata: float | None, progress: Progress) -> None:
    grid = pair.grids.ms
    with (
        progress("Writing", grid.height * grid.width) as advance,
        _Target(ms, pair, 0, nodata) as ms_target,
        _Target(pan, pair, 1, nodata) as pan_target,
    ):
        for window in blocks_of(grid.window, _BLOCK):
            block = pair.read_block(window, 0, 0)
            ms_target.write(window, block.ms)
            pan_target.write(window.refined(PAN_PER_MS), block.pan)
            advance(window.height * window.width)


class _Target:
    """One image of the aligned pair being written."""

    def __init__(self, path: Path, pair: ScenePair, which: int, nodata: float | None) -> None:
        self._path = path
        self._source: RasterSource = pair.sources[which]
        self._origin = pair.origins[which]
        grid = pair.grids.pan if which else pair.grids.ms
        numbers = [b.number for b in self._source.bands if not b.alpha]
        with rasterio.open(self._source.path) as ds:
            declared = ds.nodatavals[numbers[0] - 1]
            descriptions = [ds.descriptions[n - 1] for n in numbers]
            colours = [ds.colorinterp[n - 1] for n in numbers]
            tags, band_tags = ds.tags(), [ds.tags(n) for n in numbers]
            units = [ds.units[n - 1] for n in numbers]
            scales, offsets = [ds.scales[n - 1] for n in numbers], [ds.offsets[n - 1] for n in numbers]
        as_it_is = self._origin is not None
        dtype = np.dtype(self._source.dtype if as_it_is else np.float32)
        given = declared if declared is not None else nodata
        self._fill = given if as_it_is and given is not None else np.nan if dtype.kind == "f" else None
        with writing(path):
            self._env = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
            self._env.__enter__()
            self._ds = rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=grid.height,
                width=grid.width,
                count=len(numbers),
                dtype=dtype,
                crs=grid.crs,
                transform=grid.transform,
                nodata=self._fill,
                tiled=True,
                blockxsize=256,
                blockysize=256,
                compress="deflate",
                predictor=3 if dtype.kind == "f" else 2 if dtype.itemsize <= 4 else 1,
                BIGTIFF="IF_SAFER",
            )
            # Of the file as it was: where it lay, and how it was stored.
            self._ds.update_tags(**{k: v for k, v in tags.items() if k not in ("AREA_OR_POINT",)})
            self._ds.colorinterp = colours
            for n, (description, own, unit) in enumerate(zip(descriptions, band_tags, units, strict=True), 1):
                if description:
                    self._ds.set_band_description(n, description)
                # Statistics are of the file's own pixels.
                self._ds.update_tags(n, **{k: v for k, v in own.items() if not k.startswith("STATISTICS_")})
                if unit:
                    self._ds.set_band_unit(n, unit)
            if as_it_is:
                self._ds.scales, self._ds.offsets = scales, offsets

    def write(self, window: Window, values: np.ndarray) -> None:
        """Values as read (NaN where invalid); an image that is not resampled is read in its own numbers."""
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        valid = np.isfinite(values)
        if self._origin is not None:
            at = Window(
                window.row + self._origin.row, window.col + self._origin.col, window.height, window.width
            )
            raw, valid = self._source.read_raw(at)
            values = raw.astype(self._ds.dtypes[0])
        if self._fill is not None and not valid.all():
            values = np.where(valid, values, np.asarray(self._fill, dtype=values.dtype))
        with writing(self._path):
            self._ds.write(values, window=place)
            if self._fill is None and not valid.all():
                self._ds.write_mask(valid.all(axis=0), window=place)

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._ds.close()
        self._env.__exit__()
