"""Measure the shift of a pair and write the pair aligned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from das2f_map._version import __version__
from das2f_map.errors import InputError, OutputError
from das2f_map.outputs.names import require_local
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.products.aligned_images import write_aligned
from das2f_map.products.shift_figure import draw_shift
from das2f_map.progress import Progress, silent
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.paths import exists, is_dir
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
from das2f_map.scene.request import PairRequest
from das2f_map.scene.survey import thumbnail
from das2f_map.scene.virtual_files import with_sources

NAMES = {"ms": "ms.tif", "pan": "pan.tif", "report": "align.json", "picture": "align.png"}
"""Files in the output folder."""

_SIGNIFICANT = 2.0
"""Standard errors over which a shift is corrected: a smaller one may be noise, not worth a resampling."""


class AlignReport(BaseModel):
    """The findings and actions of `align`."""

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
    pan: str | Path | None = None,
    output: str | Path | None = None,
    *,
    bands: GivenBands | None = None,
    max_shift: float = DEFAULT_MAX_SHIFT,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    reflectance: bool = False,
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
        The image pair; or a product as delivered and ``None``.
    output:
        Folder for ``ms.tif``, ``pan.tif``, ``align.json`` and ``align.png``; made if need be.
    bands:
        The MS bands to measure with, name → number or name in the file; by default all. All are written.
    max_shift:
        PAN pixels over which the pair is refused.
    nodata, mask, reflectance, force:
        As in :func:`das2f_map.classify`. The mask keeps pixels from being matched, and is not applied.
    overwrite:
        Replace existing files in the folder.
    progress:
        Receives the progress of the writing.

    Raises
    ------
    InputError
        The pair or an argument cannot be used, or the pair lies further apart than ``max_shift``; or it is to
        be written, and its shift could not be measured.
    OutputError
        Files exist or cannot be written.
    """
    request = PairRequest.of(
        ms,
        pan,
        bands=bands,
        nodata=nodata,
        mask=mask,
        max_shift=max_shift,
        force=force,
        reflectance=reflectance,
    )
    with request.open() as pair:
        measured = request.select(pair)
        if output is not None:
            return _written(request, pair, measured, Path(output), overwrite=overwrite, progress=progress)
        shift = measure_shift(measured)
        refuse_large_shift(measured, shift, max_shift)
        return _report(measured, shift, max_shift)


def _written(
    request: PairRequest,
    pair: ScenePair,
    measured: ScenePair,
    folder: Path,
    *,
    overwrite: bool,
    progress: Progress,
) -> AlignReport:
    """Measure a pair by some of its bands, and write all of it."""
    outputs = {kind: str(folder / name) for kind, name in NAMES.items()}
    with (
        _made(folder),
        StagedOutputs(inputs=with_sources(request.files), overwrite=overwrite) as staged,
    ):
        paths = {kind: staged.stage(Path(path)) for kind, path in outputs.items()}
        shift = measure_shift(measured)
        decision = _decided(measured, shift, request.max_shift)
        corrected = decision.shift is not None
        aligned = measured.shifted(decision.shift) if corrected else measured
        whole = pair.shifted(decision.shift) if corrected else pair
        Coregistration(aligned, "on", shift, corrected, decision.warnings).log()
        write_aligned(whole, paths["ms"], paths["pan"], progress)
        with writing(paths["picture"]):
            ms_grid = measured.sources[0].grid
            draw_shift(paths["picture"], thumbnail(measured), ms_grid, shift, title=shift.sentence())
        report = _report(aligned, shift, request.max_shift, decision, outputs)
        with writing(paths["report"]):
            paths["report"].write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _decided(pair: ScenePair, report: ShiftReport, max_shift: float) -> Decision:
    """The decision about the shift of a pair that is written: correct it or leave it.

    Raises ``InputError`` where the shift is too large or was not measured reliably.
    """
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
    pair: ScenePair,
    shift: ShiftReport,
    max_shift: float,
    decision: Decision | None = None,
    outputs: dict[str, str] | None = None,
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
        outputs=outputs or {},
    )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The output folder is there; if it was made for this run, it goes away when the run fails."""
    made = False
    require_local(folder)
    if not is_dir(folder):
        if exists(folder):
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
