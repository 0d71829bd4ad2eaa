"""Will this pair work? What `das2f-map inspect` tells, from samples and a short trial."""

from __future__ import annotations

import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from das2f_map.bundle.catalogue import bundled_models, find_model
from das2f_map.bundle.files import load_bundle, read_card
from das2f_map.bundle.fit import SceneViews, cautions, choose_model, misfits
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.engines.device import resolve_device
from das2f_map.errors import Das2fMapError, InputError, ModelError, OutputError
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.products.quicklook import draw_quicklook
from das2f_map.running.blocks import BlockClassifier
from das2f_map.scene.bands import GivenBands, UnmatchedBands, roles_of
from das2f_map.scene.grid import Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.radiometry import BandStatistics, SceneSample
from das2f_map.scene.registration import decide, measure_shift
from das2f_map.scene.report import PairReport
from das2f_map.scene.spread import spread_blocks
from das2f_map.scene.survey import Survey, survey_scene, thumbnail
from das2f_map.workflows.inspect_geometry import alignment, overlap, shift, with_shift

_SAMPLE = 150_000
"""MS pixels that are looked at in a large scene."""

_BLOCK = 64
"""MS pixels a side of the largest block of the trial."""

_TRIAL_S = 1.5
"""Seconds that a trial of the engine may take, about."""


class BandReport(BaseModel):
    """A band of a file."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="MS or PAN")
    number: int
    name: str
    role: str | None = Field(description="what its name says it is, in plain words")
    used_as: str | None = Field(description="the model's name for it; null for a band that is not read")
    dtype: str
    values: dict[str, float] | None = Field(description="min, p01, mean, p99, max, std of the sample")


class ModelFit(BaseModel):
    """A model held against the scene."""

    model_config = ConfigDict(extra="forbid")

    name: str
    fits: bool
    fits_rescaled: bool = Field(description="whether it would fit with `--radiometry scene`")
    reasons: list[str] = Field(description="why it does not fit")
    cautions: list[str] = Field(description="what to know though it fits")
    bands: dict[str, int] | None = Field(description="band name → number in the MS file")


class Estimate(BaseModel):
    """What `classify` would take on this machine, from a trial on a part of the scene."""

    model_config = ConfigDict(extra="forbid")

    model: str
    engine: str
    device: str
    precision: str
    pixels: int = Field(description="MS pixels to classify, about")
    trial_pixels: int = Field(description="MS pixels that were classified to find out")
    pixels_per_second: float
    seconds: float
    memory_mb: float | None = Field(description="most memory in use during the trial; it hardly grows")


class Inspection(BaseModel):
    """Everything `inspect` tells."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    scene: PairReport = Field(description="files and common grid")
    overlap: dict[str, float] = Field(description="part of each image in the common grid, and km²")
    alignment: str
    shift: dict[str, Any] | None = Field(
        description="how far the contents are apart, see ShiftReport; `sentence` says it in words, "
        "`action` and `because` what `classify` does about it; null if nothing is valid"
    )
    bands: list[BandReport]
    sampled_pixels: int
    invalid_share: float
    masked_share: float
    models: list[ModelFit]
    estimate: Estimate | None
    notices: list[str]
    verdict: str
    next_command: str
    quicklook: str | None


def inspect_pair(
    ms: str | Path,
    pan: str | Path,
    output: str | Path | None = None,
    *,
    model: str | Path | ModelBundle | None = None,
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    device: str = "auto",
    force: bool = False,
    overwrite: bool = False,
) -> Inspection:
    """Look at a pair of images and say whether it can be classified, with what and in what time.

    Large scenes are sampled; nothing is read as a whole.

    Parameters
    ----------
    ms, pan:
        The image pair.
    output:
        PNG to draw MS and PAN into, with nodata and mask.
    model:
        Held against the scene beside the bundled ones, and tried.
    bands, nodata, mask, device, force:
        As in :func:`das2f_map.classify`.
    overwrite:
        Replace an existing picture.

    Raises
    ------
    InputError, ModelError, OutputError, DeviceError
        The pair cannot be used at all, the model cannot be read, or the picture cannot be written.
    """
    mask_file = MaskFile(mask) if isinstance(mask, (str, Path)) else mask
    resolve_device(device)  # says at once if it is not there
    if output is not None and Path(output).suffix.lower() != ".png":
        raise OutputError(f"output {output} is not a PNG", "give it the extension .png")
    bundle = load_bundle(find_model(model)) if isinstance(model, (str, Path)) else model
    inputs = [str(p) for p in (ms, pan, mask_file and mask_file.path) if p is not None]
    with (
        StagedOutputs(inputs=inputs, overwrite=overwrite) as staged,
        open_pair(ms, pan, force=force, nodata=nodata, mask=mask_file) as pair,
    ):
        picture = None if output is None else staged.stage(Path(output))
        surveys: dict[tuple[int, ...], Survey] = {}

        def sample(part: ScenePair) -> SceneSample:
            survey = surveys[_numbers(part)] = survey_scene(part, max_pixels=_SAMPLE)
            if survey.sample is None:
                raise part.nothing_valid()
            return survey.sample

        views = SceneViews(pair, bands, sample=sample)
        fits, chosen = _models(views, bundle)
        used = pair if chosen is None else views.pair_for(chosen.card)
        survey = surveys.get(_numbers(used)) or survey_scene(used, max_pixels=_SAMPLE)
        estimate, failed = None, None
        if chosen is not None and survey.sample is not None:
            try:
                estimate = _trial(chosen, used, survey, device)
            except Das2fMapError as error:  # what `classify` would come to grief over is to be told
                failed = f"a trial run of model {chosen.card.name} failed: {error.message}"
        if picture is not None:
            with writing(picture):
                draw_quicklook(picture, thumbnail(used), _true_colour(used), pair.ms_path, pair.pan_path)
        said = _said(bands, nodata, mask_file, force)
        unnamed = None if bands else _nameable(pair, fits, bundle)
        verdict, command = _verdict(pair, survey, fits, bundle, unnamed, said)
        if failed is not None:
            verdict = f"{verdict}, but {failed}"
        measured = None if survey.sample is None else measure_shift(used)
        decision = None if measured is None else decide(measured, aligned=used.aligned)
        if measured is not None and decision is not None:
            said = _said(None, nodata, mask_file, force)
            verdict, command = with_shift(verdict, command, pair, measured, decision, said)
            if decision.shift is not None:
                used = used.shifted(decision.shift)
        return Inspection(
            scene=used.report(),
            overlap=overlap(pair),
            alignment=alignment(used, nested=pair.strategy == "native"),
            shift=None if measured is None or decision is None else shift(measured, decision),
            bands=_bands(used, survey, chosen is not None),
            sampled_pixels=survey.pixels,
            invalid_share=survey.invalid,
            masked_share=survey.masked,
            models=fits,
            estimate=estimate,
            notices=[*used.notices, *(() if decision is None else decision.warnings)],
            verdict=verdict,
            next_command=command,
            quicklook=None if output is None else str(output),
        )


def _numbers(pair: ScenePair) -> tuple[int, ...]:
    return tuple(b.number for b in pair.bands)


def _models(views: SceneViews, own: ModelBundle | None) -> tuple[list[ModelFit], ModelBundle | None]:
    """Every model's fit, and the model to try: the given one, the one that would be chosen, or any that
    has its bands here."""
    cards = {} if own is None else {own.card.name: own.card}
    paths = bundled_models()
    cards |= {n: read_card(p) for n, p in paths.items() if n not in cards}
    fits = []
    for name, card in cards.items():
        try:
            pair = views.pair_for(card)
        except UnmatchedBands as error:
            said = [f"{error.message}: {error.hint}" if error.hint else error.message]
            none = ModelFit(name=name, fits=False, fits_rescaled=False, reasons=said, cautions=[], bands=None)
            fits.append(none)
            continue
        try:
            traits = views.traits_for(card)
            reasons, known = misfits(card, traits), cautions(card, traits)
            rescaled = not misfits(card, traits, "scene")
        except InputError as error:  # no valid pixel, which the rest of the screen is about
            reasons, known, rescaled = [error.message], [], False
        numbers = {b.role: b.number for b in pair.bands}
        fits.append(
            ModelFit(
                name=name,
                fits=not reasons,
                fits_rescaled=rescaled,
                reasons=reasons,
                cautions=known,
                bands=numbers,
            )
        )
    if own is not None:
        return fits, own if fits[0].bands is not None else None
    try:
        return fits, load_bundle(choose_model(views))
    except (ModelError, InputError):
        usable = [f.name for f in fits if f.bands is not None]
        return fits, load_bundle(paths[usable[0]]) if usable else None


def _trial(bundle: ModelBundle, pair: ScenePair, survey: Survey, device: str) -> Estimate | None:
    """Classify a little and go by that."""
    engine = make_engine(bundle, EngineChoice(device=device))
    window = pair.grids.ms.window
    part = next(
        (
            w
            for w, _ in zip(spread_blocks(window, _BLOCK, strata=9, seed=0), range(40), strict=False)
            if pair.read_block(w, 0, 0).valid.mean() > 0.5
        ),
        None,
    )
    if part is None:
        return None
    card = bundle.card
    classifier = BlockClassifier(ModelInput(pair, card.normalisation, card.patch), engine, card.legend)
    rate, done, seconds = 0.0, 0, 0.0
    # Small first: engines that share work between pixels show their pace on a whole block only.
    for side in (8, 24, _BLOCK):
        small = Window(part.row, part.col, min(side, part.height), min(side, part.width))
        if done and seconds / done * small.height * small.width > _TRIAL_S:
            break
        start = time.perf_counter()
        done = int((classifier.classify(small).classes > 0).sum())
        seconds = time.perf_counter() - start
        if done:
            rate = done / seconds
    if not rate:
        return None
    pixels = round(window.height * window.width * (1 - survey.invalid - survey.masked))
    return Estimate(
        model=bundle.card.name,
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        pixels=pixels,
        trial_pixels=done,
        pixels_per_second=round(rate, 1),
        seconds=round(pixels / rate, 1),
        memory_mb=_peak_memory_mb(),
    )


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 0)


def _bands(pair: ScenePair, survey: Survey, matched: bool) -> list[BandReport]:
    ms, pan = pair.sources
    statistics: dict[int, dict[str, float]] = {}
    pan_values = None
    if survey.sample is not None:
        known = survey.sample.statistics()
        for choice, s, v in zip(pair.bands, known.ms_bands, survey.sample.ms, strict=True):
            statistics[choice.number] = _values(s, float(v.min()), float(v.max()))
        pan_values = _values(known.pan_band, float(survey.sample.pan.min()), float(survey.sample.pan.max()))
    roles = roles_of([b.name for b in pair.file_bands])
    used = {b.number: b.role for b in pair.bands}
    found = [
        BandReport(
            file="MS",
            number=b.number,
            name=b.name,
            role="alpha" if b.alpha and b.number not in used else role,
            used_as=used.get(b.number) if matched else None,
            dtype=ms.dtype_of(b.number),
            values=statistics.get(b.number),
        )
        for b, role in zip(pair.file_bands, roles, strict=True)
    ]
    first = next(b for b in pan.bands if not b.alpha)
    return [
        *found,
        BandReport(
            file="PAN",
            number=first.number,
            name=first.name,
            role="pan",
            used_as="pan",
            dtype=pan.dtype,
            values=pan_values,
        ),
    ]


def _values(s: BandStatistics, low: float, high: float) -> dict[str, float]:
    return {"min": low, "p01": s.p01, "mean": s.mean, "p99": s.p99, "max": high, "std": s.spread}


def _true_colour(pair: ScenePair) -> tuple[int, ...]:
    """Positions of red, green and blue in what is read; the first band alone if one is missing."""
    roles = [role or "" for role in roles_of([b.role for b in pair.bands])]
    if {"red", "green", "blue"} <= set(roles):
        return tuple(roles.index(c) for c in ("red", "green", "blue"))
    return (0,)


def _said(bands: GivenBands | None, nodata: float | None, mask: MaskFile | None, force: bool) -> str:
    """Options of this run that the next one needs as well, to be pasted into a shell."""
    words: list[str] = []
    if bands:
        words += ["--bands", ",".join(f"{role}={band}" for role, band in bands.items())]
    if nodata is not None:
        words += ["--nodata", f"{nodata:.10g}"]
    if mask is not None:
        words += ["--mask", str(mask.path)]
        words += ["--mask-values", ",".join(map(str, mask.values))] if mask.values else []
        words += ["--mask-bits", ",".join(map(str, mask.bits))] if mask.bits else []
    if force:
        words.append("--force")
    return f" {shlex.join(words)}" if words else ""


def _nameable(pair: ScenePair, fits: list[ModelFit], own: ModelBundle | None) -> list[str] | None:
    """Bands of a model if none finds its own by their names, though the file has as many."""
    if any(f.bands is not None for f in fits):
        return None
    cards = [own.card] if own is not None else [read_card(p) for p in bundled_models().values()]
    images = sum(not b.alpha for b in pair.file_bands)
    for card in cards:
        if len(card.ms_bands) <= images:
            return [b.name for b in card.ms_bands]
    return None


def _verdict(
    pair: ScenePair,
    survey: Survey,
    fits: list[ModelFit],
    own: ModelBundle | None,
    unnamed: list[str] | None,
    said: str,
) -> tuple[str, str]:
    """One sentence, and what to type.

    ``unnamed`` are bands that have to be said number by number, ``said`` options that were given here.
    """
    files = shlex.join([pair.ms_path, pair.pan_path])
    train = f"das2f-map train {files} --labels labels.gpkg -o my-model{said}"
    if survey.sample is None:
        looked = f"in the {survey.pixels:,} pixels looked at"
        return f"nothing to classify: no pixel is valid {looked}", "gdalinfo shows the nodata values"
    if unnamed is not None:
        numbers = ",".join(f"{name}=N" for name in unnamed)
        verdict = "the bands' names do not tell which is which: say it, number by number"
        return verdict, f"das2f-map inspect {files} --bands {numbers}{said}"
    if own is not None:
        named = f"--model {shlex.quote(str(own.path or own.card.name))}"
        verdict = f"model {own.card.name} fits" if fits[0].fits else f"model {own.card.name} does not fit"
        command = f"das2f-map classify {files} -o landcover.tif {named}{said}"
        return verdict, command if fits[0].bands is not None else train
    good = [f for f in fits if f.fits]
    if good:
        return f"model {good[0].name} fits", f"das2f-map classify {files} -o landcover.tif{said}"
    near = [f for f in fits if f.fits_rescaled]
    if near:
        verdict = f"model {near[0].name} fits but for the values, which may be in another unit"
        return verdict, f"das2f-map classify {files} -o landcover.tif{said} --radiometry scene"
    return "no bundled model fits: train one on labels of this kind of scene", train
