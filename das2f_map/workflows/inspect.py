"""Inspect a pair of images: samples and a short trial tell whether it can be classified."""

from __future__ import annotations

import math
import resource
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from das2f_map.bundle.catalogue import load_model
from das2f_map.bundle.fit import ModelFit, SceneViews, bands_to_name, every_fit, model_to_try
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine
from das2f_map.engines.choice import DEFAULT_DEVICE
from das2f_map.engines.choose import KINDS, EngineChoice, make_engine
from das2f_map.engines.device import resolve_device
from das2f_map.errors import Das2fMapError, OutputError
from das2f_map.network import NetworkConfig
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.products.inspection import (
    Estimate,
    Inspection,
    Overlap,
    ShiftFinding,
    alignment,
    band_reports,
)
from das2f_map.products.quicklook import draw_quicklook, true_colour
from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.trial import TRIAL_BLOCK, trial_run
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.radiometry import SceneSample
from das2f_map.scene.registration import decide, measure_shift
from das2f_map.scene.registration.kept import kept_shift
from das2f_map.scene.request import CLOUDS, PairRequest
from das2f_map.scene.spread import spread_blocks
from das2f_map.scene.survey import Survey, survey_scene, thumbnail
from das2f_map.scene.virtual_files import with_sources

_SAMPLE = 150_000
"""MS pixels of the sample in a large scene."""


def inspect_pair(
    ms: str | Path,
    pan: str | Path | None = None,
    output: str | Path | None = None,
    *,
    model: str | Path | ModelBundle | None = None,
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    reflectance: bool = False,
    device: str = DEFAULT_DEVICE,
    force: bool = False,
    overwrite: bool = False,
) -> Inspection:
    """Findings on a pair of images: whether it can be classified, with which model and in what time.

    Large scenes are sampled, not read as a whole.

    Parameters
    ----------
    ms, pan:
        The image pair; or a product as delivered and ``None``.
    output:
        PNG to draw MS and PAN into, with nodata and mask.
    model:
        Model to compare with the scene, in addition to the bundled ones, and to use for the trial.
    bands, nodata, mask, reflectance, device, force:
        As in :func:`das2f_map.classify`.
    overwrite:
        Replace an existing picture.

    Raises
    ------
    InputError, ModelError, OutputError, DeviceError
        The pair cannot be used at all, the model cannot be read, or the picture cannot be written.
    """
    request = PairRequest.of(
        ms, pan, bands=bands, nodata=nodata, mask=mask, force=force, reflectance=reflectance
    )
    resolve_device(device)  # raises for a bad name before the long work starts
    if output is not None and Path(output).suffix.lower() != ".png":
        raise OutputError(f"output {output} is not a PNG", "give it the extension .png")
    own = load_model(model) if isinstance(model, (str, Path)) else model
    with (
        StagedOutputs(inputs=with_sources(request.files), overwrite=overwrite) as staged,
        request.open() as pair,
    ):
        picture = None if output is None else staged.stage(Path(output))
        surveys = _Surveys()
        views = SceneViews(pair, request.given_bands, sample=surveys.sample)
        fits = every_fit(views, own)
        tried = model_to_try(views, fits, own)
        used = pair if tried is None else views.pair_for(tried.card)
        survey = surveys.of(used)
        trial = _trial_run(tried, used, survey, device)
        if picture is not None:
            with writing(picture):
                draw_quicklook(picture, thumbnail(used), true_colour(used.bands), pair.ms_path, pair.pan_path)
        read = _as_classified(used, survey)
        verdict, command = _advice(request, pair, survey, fits, own)
        if trial.failed is not None:
            verdict = f"{verdict}, but {trial.failed}"
        if read.shift is not None:
            verdict, command = _with_shift(verdict, command, request, read.shift)
        return Inspection(
            scene=read.pair.report(),
            overlap=Overlap.of(pair),
            alignment=alignment(read.pair, nested=pair.strategy == "native"),
            shift=read.shift,
            bands=band_reports(used, survey, matched=tried is not None),
            sampled_pixels=survey.pixels,
            invalid_share=survey.invalid,
            masked_share=survey.masked,
            models=fits,
            estimate=trial.estimate,
            notices=[*read.pair.notices, *read.warnings],
            verdict=verdict,
            next_command=command,
            quicklook=None if output is None else str(output),
        )


class _Surveys:
    """Surveys of a scene, one for each choice of bands."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Survey] = {}

    def of(self, pair: ScenePair) -> Survey:
        """The survey of a pair; the scene is read once for each choice of bands."""
        numbers = tuple(b.number for b in pair.bands)
        if numbers not in self._known:
            self._known[numbers] = survey_scene(pair, max_pixels=_SAMPLE)
        return self._known[numbers]

    def sample(self, pair: ScenePair) -> SceneSample:
        """The survey's values. Raises ``InputError`` if no pixel is valid."""
        survey = self.of(pair)
        if survey.sample is None:
            raise pair.nothing_valid()
        return survey.sample


@dataclass(frozen=True)
class _Trial:
    """A trial run of a model: its estimate, or the reason of its failure; neither if there was no trial."""

    estimate: Estimate | None = None
    failed: str | None = None


def _trial_run(bundle: ModelBundle | None, pair: ScenePair, survey: Survey, device: str) -> _Trial:
    if bundle is None or survey.sample is None:
        return _Trial()
    try:
        return _Trial(estimate=_estimate(bundle, pair, survey, device))
    except Das2fMapError as error:  # `classify` would fail the same way, and the verdict says so
        return _Trial(failed=f"a trial run of model {bundle.card.name} failed: {error.message}")


def _estimate(bundle: ModelBundle, pair: ScenePair, survey: Survey, device: str) -> Estimate | None:
    """An estimate from classifying a small part of the scene; ``None`` if no part has enough valid pixels."""
    engine = make_engine(bundle, EngineChoice(device=device))
    window = pair.grids.ms.window
    part = next(
        (
            w
            for w, _ in zip(spread_blocks(window, TRIAL_BLOCK, strata=9, seed=0), range(40), strict=False)
            if pair.read_block(w, 0, 0).valid.mean() > 0.5
        ),
        None,
    )
    if part is None:
        return None
    card = bundle.card
    source = ModelInput(pair, card.normalisation, card.patch)
    trial = trial_run(BlockClassifier(source, engine, card.legend), part)
    if trial is None:
        return None
    faster = None
    if bf16_is_a_choice(card.network, engine):
        half = make_engine(bundle, EngineChoice(device=device, precision="bf16"))
        faster = trial_run(BlockClassifier(source, half, card.legend), part)
    pixels = round(window.height * window.width * (1 - survey.invalid - survey.masked))
    return Estimate(
        model=bundle.card.name,
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        pixels=pixels,
        trial_pixels=trial.pixels,
        pixels_per_second=round(trial.rate, 1),
        seconds=round(pixels / trial.rate, 1),
        bf16_pixels_per_second=round(faster.rate, 1) if faster and faster.rate > trial.rate else None,
        memory_mb=_peak_memory_mb(),
    )


def bf16_is_a_choice(config: NetworkConfig, engine: Engine) -> bool:
    """Whether ``--precision bf16`` would compute on the CPU with the same engine."""
    if engine.name != "shared" or engine.device != "cpu" or engine.precision != "fp32":
        return False
    return not KINDS["shared"].unavailable(config, torch.device("cpu"), "bf16")


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 0)


@dataclass(frozen=True)
class _AsClassified:
    """A pair as `classify` would read it by default.

    ``shift`` is ``None`` if the sample has no valid pixel; ``warnings`` are about the shift.
    """

    pair: ScenePair
    shift: ShiftFinding | None
    warnings: tuple[str, ...]


def _as_classified(pair: ScenePair, survey: Survey) -> _AsClassified:
    if survey.sample is None:
        return _AsClassified(pair, None, ())
    report = kept_shift(pair, measure_shift)
    decision = decide(report, aligned=pair.aligned)
    read = pair if decision.shift is None else pair.shifted(decision.shift)
    return _AsClassified(read, ShiftFinding.of(report, decision), decision.warnings)


def _advice(
    request: PairRequest, pair: ScenePair, survey: Survey, fits: list[ModelFit], own: ModelBundle | None
) -> tuple[str, str]:
    """A sentence on whether the pair can be classified, and the command to type next."""
    files, options = shlex.join(request.arguments), _options_again(request)
    train = f"das2f-map train {files} --labels labels.gpkg -o my-model{options}"
    classify = f"das2f-map classify {files} -o landcover.tif"
    if survey.sample is None:
        looked = f"in the {survey.pixels:,} pixels looked at"
        return f"nothing to classify: no pixel is valid {looked}", "gdalinfo shows the nodata values"
    unnamed = None if request.bands else bands_to_name(pair, fits, own)
    if unnamed is not None:
        numbers = ",".join(f"{name}=N" for name in unnamed)
        verdict = "the bands' names do not tell which is which: say it, number by number"
        return verdict, f"das2f-map inspect {files} --bands {numbers}{options}"
    if own is not None:
        named = f"--model {shlex.quote(str(own.path or own.card.name))}"
        verdict = f"model {own.card.name} fits" if fits[0].fits else f"model {own.card.name} does not fit"
        return verdict, train if fits[0].bands is None else f"{classify} {named}{options}"
    good = [f.name for f in fits if f.fits]
    if good:
        return f"model {good[0]} fits", f"{classify}{options}"
    near = [f.name for f in fits if f.fits_rescaled]
    if near:
        verdict = f"model {near[0]} fits but for the values, which may be in another unit"
        return verdict, f"{classify}{options} --radiometry scene"
    return "no bundled model fits: train one on labels of this kind of scene", train


def _with_shift(verdict: str, command: str, request: PairRequest, shift: ShiftFinding) -> tuple[str, str]:
    """Verdict and next command, changed if the shift is too large or not known."""
    if shift.action == "refuse" and shift.length is not None:
        files, options = shlex.join(request.arguments), _options_again(request, bands=False)
        return (
            f"PAN lies {shift.length:.1f} PAN pixels from MS, which is too far: classify and train stop. "
            "Check that the files belong together",
            f"das2f-map align {files}{options} --max-shift {math.ceil(shift.length + 0.5)}",
        )
    if shift.verdict != "agree":
        return f"{verdict}; whether MS and PAN show the same at the same place is not known", command
    return verdict, command


def _options_again(request: PairRequest, *, bands: bool = True) -> str:
    """Options of this run that the next command needs too, quoted for a shell."""
    words: list[str] = []
    if request.bands and bands:
        words += ["--bands", ",".join(f"{role}={band}" for role, band in request.bands)]
    if request.nodata is not None:
        words += ["--nodata", f"{request.nodata:.10g}"]
    mask = request.mask
    if mask == CLOUDS:
        words += ["--mask", CLOUDS]
    elif mask is not None:
        words += ["--mask", str(mask.path)]
        words += ["--mask-values", ",".join(map(str, mask.values))] if mask.values else []
        words += ["--mask-bits", ",".join(map(str, mask.bits))] if mask.bits else []
    if request.reflectance:
        words.append("--reflectance")
    if request.force:
        words.append("--force")
    return f" {shlex.join(words)}" if words else ""
