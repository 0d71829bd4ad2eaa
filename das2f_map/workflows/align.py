"""Measure the shift of a pair and write the pair aligned."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.windows
from pydantic import BaseModel, ConfigDict, Field

from das2f_map._version import __version__
from das2f_map.errors import InputError, OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import WRITE_ERRORS, writing
from das2f_map.products.shift_figure import draw_shift
from das2f_map.progress import Progress, silent
from das2f_map.scene.bands import GivenBands, given_bands
from das2f_map.scene.grid import PAN_PER_MS, Window, blocks_of
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ALIGNED_TAG, ScenePair, open_pair
from das2f_map.scene.registration import (
    DEFAULT_MAX_SHIFT,
    Coregistration,
    Decision,
    ShiftReport,
    decide,
    measure_shift,
    refuse_large_shift,
)
from das2f_map.scene.report import PairReport
from das2f_map.scene.source import RasterSource
from das2f_map.scene.survey import thumbnail
from das2f_map.types import Bool

log = logging.getLogger(__name__)

_BLOCK = 256
"""MS pixels a side of a block that is written at once."""

NAMES = {"ms": "ms.tif", "pan": "pan.tif", "report": "align.json", "picture": "align.png"}
"""Files in the output folder."""

_SIGNIFICANT = 2.0
"""Standard errors over which a shift is corrected: what may be none is not worth a resampling."""


class AlignReport(BaseModel):
    """What `align` found and did."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    software_version: str
    scene: PairReport = Field(description="files, bands that were measured with, and common grid")
    shift: ShiftReport
    classify: str = Field(description="what `classify` does about the shift by default")
    corrected: bool = Field(description="whether the written pair is corrected; false where none is written")
    written: str | None = Field(description="what was done about the shift; null where nothing is written")
    warnings: list[str]
    outputs: dict[str, str] = Field(description="kind of output → path")


def align(
    ms: str | Path,
    pan: str | Path,
    output: str | Path | None = None,
    *,
    bands: GivenBands | None = None,
    max_shift: float = DEFAULT_MAX_SHIFT,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> AlignReport:
    """Measure how far the contents of two images are apart; with an output folder, write them aligned.

    The written pair lies on its common grid, 4 × 4 PAN pixels in each MS pixel. An image that is not
    resampled keeps its numbers and type; a resampled one is float32, after scale and offset. A shift of
    less than twice its standard error is not corrected.

    Parameters
    ----------
    ms, pan:
        The image pair.
    output:
        Folder for ``ms.tif``, ``pan.tif``, ``align.json`` and ``align.png``; made if need be.
    bands:
        The MS bands to measure with, name → number or name in the file; by default all. All are written.
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
    ValueError
        ``max_shift`` is not positive.
    """
    if not max_shift > 0:
        raise ValueError(f"max_shift must be positive, got {max_shift}")
    mask_file = MaskFile(mask) if isinstance(mask, (str, Path)) else mask
    with open_pair(ms, pan, force=force, nodata=nodata, mask=mask_file) as pair:
        used = pair if bands is None else pair.with_bands(given_bands(bands, pair.file_bands, pair.ms_path))
        if output is None:
            report = measure_shift(used)
            refuse_large_shift(used, report, max_shift)
            return _report(used, report, max_shift)
        folder = Path(output)
        inputs = [str(p) for p in (ms, pan, mask_file and mask_file.path) if p is not None]
        with _folder(folder), StagedOutputs(inputs=inputs, overwrite=overwrite) as staged:
            paths = {kind: staged.stage(folder / name) for kind, name in NAMES.items()}
            report = measure_shift(used)
            decision = _decided(used, report, max_shift)
            done = Coregistration(
                used if decision.shift is None else used.shifted(decision.shift),
                "on",
                report,
                decision.shift is not None,
                decision.warnings,
            )
            done.log()
            whole = pair if decision.shift is None else pair.shifted(decision.shift)
            _write_pair(whole, paths["ms"], paths["pan"], _token(whole), progress)
            with writing(paths["picture"]):
                title = report.sentence()
                draw_shift(paths["picture"], thumbnail(used), used.sources[0].grid, report, title=title)
            report_of_run = _report(done.pair, report, max_shift, decision)
            report_of_run.outputs = {kind: str(folder / name) for kind, name in NAMES.items()}
            with writing(paths["report"]):
                text = report_of_run.model_dump_json(indent=2)
                paths["report"].write_text(text + "\n", encoding="utf-8")
    return report_of_run


def _decided(pair: ScenePair, report: ShiftReport, max_shift: float) -> Decision:
    """What is done about the shift of a pair that is written."""
    refuse_large_shift(pair, report, max_shift)
    if report.verdict != "agree":
        raise InputError(
            f"{report.sentence()} (MS {pair.ms_path}, PAN {pair.pan_path})",
            "without -o, align shows what the windows say, --json each of them",
        )
    decision = decide(report, "on", max_shift=max_shift)
    length, error = report.length, report.uncertainty
    if decision.shift is None or length is None or error is None or length > _SIGNIFICANT * error:
        return decision
    because = f"{length:.2f} ± {error:.2f} PAN pixels may be none: left as it is"
    return Decision("leave", None, because, decision.warnings)


def _report(
    pair: ScenePair, shift: ShiftReport, max_shift: float, decision: Decision | None = None
) -> AlignReport:
    classify = decide(shift, max_shift=max_shift, aligned=pair.aligned).because
    if max_shift != DEFAULT_MAX_SHIFT:
        classify = f"{classify}, with --max-shift {max_shift:g}"
    return AlignReport(
        software_version=__version__,
        scene=pair.report(),
        shift=shift,
        classify=classify,
        corrected=decision is not None and decision.shift is not None,
        written=None if decision is None else decision.because,
        warnings=[] if decision is None else list(decision.warnings),
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
    except BaseException:  # whatever it was, an interrupt too: tidied up, and raised on
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _token(pair: ScenePair) -> str:
    """The same for one pair of files and shift, and hardly for another."""
    return hashlib.sha256(
        json.dumps(pair.report().model_dump(mode="json"), sort_keys=True).encode()
    ).hexdigest()[:16]


def _write_pair(pair: ScenePair, ms: Path, pan: Path, token: str, progress: Progress) -> None:
    grid = pair.grids.ms
    targets = []
    with (
        progress("Writing", grid.height * grid.width) as advance,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        _Target(ms, pair, 0, token) as ms_target,
        _Target(pan, pair, 1, token) as pan_target,
    ):
        targets += [ms_target, pan_target]
        for window in blocks_of(grid.window, _BLOCK):
            block = pair.read_block(window, 0, 0)
            ms_target.write(window, block.ms)
            pan_target.write(window.refined(PAN_PER_MS), block.pan)
            advance(window.height * window.width)
    for target in targets:
        target.verify()


class _Target:
    """One image of the aligned pair being written.

    Invalid pixels get the nodata value that the file itself declares; NaN in an image of floats that declares
    none. Otherwise there is a mask: GDAL takes a nodata value band by band, so none can be made up for a
    file in which it is a measurement in one band.
    """

    def __init__(self, path: Path, pair: ScenePair, which: int, token: str) -> None:
        self._path = path
        self._source: RasterSource = pair.sources[which]
        self._origin = pair.origins[which]
        self._checksums: list[tuple[rasterio.windows.Window, int, int]] = []
        self._masked = False
        grid = pair.grids.pan if which else pair.grids.ms
        numbers = [b.number for b in self._source.bands if not b.alpha]
        with rasterio.open(self._source.path) as ds:
            declared = [ds.nodatavals[n - 1] for n in numbers]
            descriptions = [ds.descriptions[n - 1] for n in numbers]
            colours = [ds.colorinterp[n - 1] for n in numbers]
            tags, band_tags = ds.tags(), [ds.tags(n) for n in numbers]
            units = [ds.units[n - 1] for n in numbers]
            scales, offsets = [ds.scales[n - 1] for n in numbers], [ds.offsets[n - 1] for n in numbers]
        as_it_is = self._origin is not None
        dtype = np.dtype(self._source.dtype if as_it_is else np.float32)
        self._fill = _common_fill(declared, dtype) if as_it_is else None
        if self._fill is None and dtype.kind == "f":
            self._fill = np.nan
        with writing(path):
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
            try:
                # Of the file as it was: where it lay, and how it was stored.
                self._ds.update_tags(**{k: v for k, v in tags.items() if k not in ("AREA_OR_POINT",)})
                self._ds.update_tags(**{ALIGNED_TAG: token})
                self._ds.colorinterp = colours
                each = enumerate(zip(descriptions, band_tags, units, strict=True), 1)
                for n, (description, own, unit) in each:
                    if description:
                        self._ds.set_band_description(n, description)
                    # Statistics are of the file's own pixels.
                    kept = {k: v for k, v in own.items() if not k.startswith("STATISTICS_")}
                    self._ds.update_tags(n, **kept)
                    if unit:
                        self._ds.set_band_unit(n, unit)
                if as_it_is:
                    self._ds.scales, self._ds.offsets = scales, offsets
            except BaseException:  # whatever it was, an interrupt too: tidied up, and raised on
                with suppress(*WRITE_ERRORS):  # what went wrong first is what is told
                    self._ds.close()
                raise

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
            everywhere = valid.all(axis=0)
            if self._fill is None:
                self._write_mask(place, everywhere)
        shown = np.ones_like(everywhere) if self._fill is not None else everywhere
        self._checksums.append((place, _checksum(values), _checksum(shown)))

    def _write_mask(self, place: rasterio.windows.Window, valid: Bool) -> None:
        if not self._masked and valid.all():
            return
        if not self._masked:
            # A tile of a mask that is not written is all invalid: now the ones before are needed, too.
            for before, _, _ in self._checksums:
                self._ds.write_mask(np.ones((before.height, before.width), np.bool_), window=before)
            self._masked = True
        self._ds.write_mask(valid, window=place)

    def verify(self) -> None:
        """Read the closed file: GDAL reports some failed writes on standard error alone."""
        with writing(self._path), rasterio.open(self._path) as ds:
            for place, values, shown in self._checksums:
                same = _checksum(ds.read(window=place)) == values
                if same and self._fill is None:
                    same = _checksum(ds.read_masks(1, window=place) != 0) == shown
                if not same:
                    raise OSError("it is damaged, it does not hold what was written")

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._ds.close()


def _common_fill(declared: list[float | None], dtype: np.dtype[Any]) -> float | None:
    """The nodata value of all bands, if they share one that the type can hold."""
    value = declared[0]
    if value is None:
        return None
    if any(v != value and not (v is not None and math.isnan(v) and math.isnan(value)) for v in declared):
        return None
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return value if float(value).is_integer() and limits.min <= value <= limits.max else None


def _checksum(values: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).data)
