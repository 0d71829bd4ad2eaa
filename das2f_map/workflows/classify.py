"""Classify a scene: from two image files to the finished products.

:func:`plan_map` opens the pair, chooses the model, measures the shift and decides everything else.
:func:`_write_map` computes the blocks of the plan and writes each one at once. :func:`_finish` writes the
report.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from das2f_map.bundle.fit import Radiometry
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.choice import DEFAULT_DEVICE
from das2f_map.engines.choose import EngineChoice
from das2f_map.errors import Das2fMapError, OutputError
from das2f_map.mapping.request import ClassifyRequest
from das2f_map.mapping.run import finished_map, refuse_to_drop, run_classification, run_forecast
from das2f_map.outputs.whole_files import written_whole
from das2f_map.outputs.write_errors import writing
from das2f_map.products.map_files import MapPaths
from das2f_map.products.report import RunReport
from das2f_map.progress import Progress, silent
from das2f_map.running.certainty import Certainty
from das2f_map.running.forecast import RunForecast
from das2f_map.running.many import (
    LoadedModels,
    MapJob,
    PairsForecast,
    PairsReport,
    State,
    forecast_each,
    refuse_unusable,
    require_files,
    require_place,
    run_each,
)
from das2f_map.running.map_options import MapOptions
from das2f_map.running.recorded import RecordedRun
from das2f_map.running.resources import Resources
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.pair_list import listed_scenes
from das2f_map.scene.registration import CoregisterMode
from das2f_map.scene.request import PairRequest
from das2f_map.scene.vector_path import local_file

log = logging.getLogger(__name__)


def classify(
    ms: str | Path,
    pan: str | Path | None,
    output: str | Path,
    *,
    model: str | Path | ModelBundle | None = None,
    vectors: str | Path | Literal[False] | None = None,
    confidence: str | Path | None = None,
    probabilities: str | Path | None = None,
    entropy: str | Path | None = None,
    stac: bool = False,
    reject: float | None = None,
    smooth: int | None = Certainty.smooth,
    aoi: str | Path | None = None,
    aoi_layer: str | None = None,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    reflectance: bool = PairRequest.reflectance,
    radiometry: Radiometry = "model",
    coregistration: CoregisterMode = PairRequest.coregistration,
    max_shift: float = PairRequest.max_shift,
    engine: str = EngineChoice.engine,
    device: str = DEFAULT_DEVICE,
    precision: str = EngineChoice.precision,
    batch_size: int | None = EngineChoice.batch_size,
    turns: int | None = EngineChoice.turns,
    force: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    max_memory: str | int | None = None,
    workers: int | None = Resources.workers,
    cluster: str | None = None,
    every: int = MapOptions.every,
    progress: Progress = silent,
) -> RunReport:
    """Classify every valid MS pixel of a scene and write the map.

    Parameters
    ----------
    ms, pan:
        The image pair; or a product as delivered and ``None``, see :mod:`das2f_map.scene.products`.
    output:
        Class raster, a ``.tif``. A QGIS style (``.qml``), the class names (``.tif.aux.xml``) and the run
        report (``.json``) are written next to it.
    model:
        A bundled model's name, a bundle's path, or a loaded bundle; by default the bundled model whose
        card fits the scene.
    vectors:
        Polygon file; its extension decides the format. By default a GeoPackage next to the raster, ``False``
        for none.
    confidence:
        Raster for the probability of each pixel's class; by default none is kept. It and the next three use
        probabilities that are calibrated where the model's card has a calibration.
    probabilities:
        Raster for the probability of every class, a band each.
    entropy:
        Raster for the Shannon entropy of each pixel's probabilities, from 0 (one class has all) to 1 (all
        classes have the same).
    stac:
        Write a STAC Item (``.stac.json``) next to the raster.
    reject:
        Lowest probability that a pixel's class needs, between 0 and 1. Other pixels get the class ``unsure``.
        By default none does.
    smooth:
        Average each pixel's probabilities over so many pixels around, less across edges that PAN shows,
        before its class is chosen. By default they are those of the pixel alone.
    aoi:
        Vector file with polygons: only pixels whose centre lies inside are classified, and the map is cut
        to their bounding box.
    aoi_layer:
        Layer of this file; by default the only one that has polygons.
    min_area_m2:
        Regions smaller than this, in m², are merged into their neighbours, in the raster and the polygons.
        Confidence, probabilities and entropy stay those of the pixel.
    simplify_m:
        Leave out vertices of the polygons' outlines whose triangle with their neighbours has less than the
        square of this, in metres. Polygons still share their edges. By default outlines are exact.
    bands:
        MS bands of the model: name in the model → number in the file, from 1, or name in the file. Bands that
        are not given are found by name and colour, see :mod:`das2f_map.scene.bands`.
    nodata:
        Nodata value that the files do not declare, for both. An MS pixel is invalid if all bands in use have
        it.
    mask:
        Pixels to leave out: a vector or raster file, a :class:`MaskFile`, or ``"clouds"`` for the quality
        band of a product.
    reflectance:
        Read reflectance, by the scale and offset that a product states.
    radiometry:
        Normalise with the statistics of the ``model``'s card, or with those of the ``scene``, taken once
        from a sample of all of it.
    coregistration, max_shift:
        Treatment of a shift between the contents of the images, and the largest shift that is accepted, in
        PAN pixels; see :func:`das2f_map.scene.registration.coregister`.
    engine, device, precision:
        ``auto``, ``shared``, ``patch`` or ``onnx``; ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto``,
        ``fp32``, ``bf16`` or ``fp16``. The report names the engine, device and precision that were used.
    batch_size:
        Patches at a time; by default as many as suit the engine.
    turns:
        Flips and quarter turns of the images whose logits are averaged, 1, 2, 4 or 8; by default those of the
        model's card. The work grows as much.
    force:
        Accept MS : PAN ratios under 1.5 or over 8.
    overwrite:
        Replace existing outputs, and drop what a run that was ended has left.
    resume:
        Go on with the finished blocks of a run that was ended. It must have had the same inputs and options.
        A map that is finished stays as it is, and its report is returned.
    max_memory:
        Memory that the run may take on this machine: bytes, or a text such as ``"2G"``. By default what is
        free, at most 4 GiB.
    workers:
        Processes on this machine that compute blocks. By default this process does.
    cluster:
        Address of a Dask scheduler, such as ``tcp://host:8786``, whose workers compute the blocks.
    every:
        K for a draft: one MS pixel of each K × K is classified, and stands for them in a map with pixels of
        K times the size.
    progress:
        Receives the progress of the work.

    Returns
    -------
    The run report; the JSON file holds the same.

    Raises
    ------
    InputError, ModelError, OutputError, DeviceError, ClusterError
        The images, the model, an output, the device or the workers cannot be used; the message says why. No
        new file is left then.
    """
    options = {name: value for name, value in locals().items() if name in _OPTIONS}
    request = ClassifyRequest.of(ms, pan, output, **options)
    finished = None
    if resume:
        request.check()
        finished = finished_map(request)
    if finished is not None:
        log.info("%s is finished already, and was made with these options: nothing is done", output)
        return finished
    return run_classification(request, progress)


@dataclass(frozen=True)
class Rerun:
    """A run that was done again.

    Attributes
    ----------
    report:
        Of the new run.
    same, differing:
        Kinds of rasters that are the same as before to the byte, and those that are not. Empty where the
        report of the old run has no checksums, or its map has got other names since.
    """

    report: RunReport
    same: tuple[str, ...]
    differing: tuple[str, ...]


def rerun(
    report: str | Path,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    max_memory: str | int | None = None,
    workers: int | None = Resources.workers,
    cluster: str | None = None,
    progress: Progress = silent,
) -> Rerun:
    """Make a map again from the report of its run, with the same inputs, model and options.

    Parameters
    ----------
    report:
        The run report that :func:`classify` wrote.
    output:
        Class raster to write, with the other files in its folder; by default all are where they were.
    overwrite:
        Replace existing outputs.
    resume, max_memory, workers, cluster, progress:
        As for :func:`classify`; they change no file.

    Raises
    ------
    InputError, ModelError
        The report records no options; an input or the model has changed since; or as :func:`classify`.
    OutputError, DeviceError, ClusterError
        As :func:`classify`.
    """
    run = RecordedRun.read(report)
    run.require_unchanged()
    if output is not None:
        run = run.elsewhere(output)
    made = classify(
        **run.arguments,
        overwrite=overwrite,
        resume=resume,
        max_memory=max_memory,
        workers=workers,
        cluster=cluster,
        progress=progress,
    )
    kinds = [k for k in made.outputs if k not in ("report", "vectors") and k in run.report.checksums]
    if [(c.id, c.name, c.color) for c in made.classes] != [
        (c.id, c.name, c.color) for c in run.report.classes
    ]:
        kinds = []
        log.warning("The map has the model's names and colours again; style changes them")
    same = [k for k in kinds if made.checksums.get(k) == run.report.checksums[k]]
    differing = tuple(k for k in kinds if k not in same)
    if differing:
        log.warning("Not the same as before: %s", ", ".join(made.outputs[k] for k in differing))
    return Rerun(made, tuple(same), differing)


def forecast_map(ms: str | Path, pan: str | Path | None, output: str | Path, **options: Any) -> RunForecast:
    """The plan of a map and what it will take; nothing is written.

    Takes the arguments of :func:`classify` but for ``progress``, and raises its errors, but for those of
    outputs that exist already: the forecast names these.
    """
    if unknown := sorted(options.keys() - _OPTIONS):
        raise TypeError(f"classify has no option {', '.join(unknown)}")
    parameters = inspect.signature(classify).parameters
    given = {name: options.get(name, parameters[name].default) for name in _OPTIONS}
    request = ClassifyRequest.of(ms, pan, output, **given)
    request.check()
    _require_places(request, may_exist=True)
    finished = request.resume and finished_map(request, look_only=True) is not None
    return run_forecast(request, finished=finished)


_OPTIONS: Final = frozenset(inspect.signature(ClassifyRequest.of).parameters) - {"ms", "pan", "output"}
"""The options of :func:`classify`."""


def classify_pairs(
    pairs: str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    summary: str | Path | None = None,
    progress: Progress = silent,
    **options: Any,
) -> PairsReport:
    """Classify many scenes, one after the other. One that fails does not stop those after it.

    Models and engine are loaded once. With ``resume=True`` maps that are finished and were made as asked are
    skipped, and runs that were ended go on.

    Parameters
    ----------
    pairs:
        The path of a CSV file, see :func:`das2f_map.scene.pair_list.read_pair_list`; or a mapping of patterns
        such as ``{"ms": "{date}_ms.tif", "pan": "{date}_pan.tif", "output": "{date}.tif"}``; or a mapping for
        each scene, with ``ms``, ``pan`` or ``scene``, ``output`` and options of :func:`classify`.
    summary:
        JSON file for the outcome of each scene, written anew after each.
    progress:
        Receives the progress of each map.
    options:
        Options of :func:`classify` for all scenes; those of a scene count before them.

    Raises
    ------
    InputError, ModelError, OutputError, DeviceError
        The list cannot be used, or a scene is known to fail before the first one is begun: a file or a folder
        is missing, an output exists, two scenes have the same output. Later errors are in the report.
    """
    jobs = _jobs(pairs, options)
    resume, overwrite = (bool(options.get(name)) for name in ("resume", "overwrite"))
    place = None if summary is None else _place_of_summary(Path(summary), jobs, may_exist=resume or overwrite)
    loaded = LoadedModels()

    def run(request: ClassifyRequest) -> tuple[State, RunReport]:
        finished = finished_map(request) if request.resume else None
        if finished is not None:
            return "skipped", finished
        return "done", run_classification(request, progress, loaded)

    def tell(report: PairsReport) -> None:
        if place is not None:
            with writing(place), written_whole(place) as path:
                path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")

    return run_each(jobs, run, tell)


def forecast_pairs(
    pairs: str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]], **options: Any
) -> PairsForecast:
    """The plans of many maps, and what all of them will take; nothing is written.

    Takes the arguments of :func:`classify_pairs` but for ``summary`` and ``progress``. A scene that cannot be
    planned has its error in the forecast; maps that ``resume`` would skip are left out of the sums.
    """
    loaded, rates = LoadedModels(), dict[Any, float | None]()

    def plan(request: ClassifyRequest) -> RunForecast | None:
        if request.resume and finished_map(request, look_only=True) is not None:
            return None
        # One trial is enough for scenes of one kind.
        kind = (request.model, request.engine, request.options.every)
        found = run_forecast(request, loaded, rates.get(kind))
        rates[kind] = found.pixels_per_second
        return found

    return forecast_each(_jobs(pairs, options, planned=True), plan)


def _jobs(
    pairs: str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    planned: bool = False,
) -> list[MapJob[ClassifyRequest]]:
    """The maps of a list; refuses those that are known to fail, unless they are only planned."""
    parameters = inspect.signature(classify).parameters
    jobs = []
    for scene in listed_scenes(pairs):
        given = {**options, **scene.values}
        ms, pan, output = (given.pop(name) for name in ("ms", "pan", "output"))
        if unknown := sorted(given.keys() - _OPTIONS):
            raise TypeError(f"classify has no option {', '.join(unknown)}")
        values = {name: given.get(name, parameters[name].default) for name in _OPTIONS}
        try:
            request = ClassifyRequest.of(ms, pan, output, **values)
        except Das2fMapError as error:
            error.message = f"{scene.place}: {error.message}"
            raise
        jobs.append(MapJob(scene.place, request, request.pair.arguments, request.outputs))

    def check(request: ClassifyRequest) -> None:
        request.check()
        mask = request.pair.mask
        require_files(
            [
                *zip(("MS", "PAN"), request.pair.arguments, strict=False),
                ("mask", local_file(mask.path) if isinstance(mask, MaskFile) else None),
                ("area file", None if request.aoi is None else local_file(request.aoi)),
            ]
        )
        _require_places(request, may_exist=planned or request.resume or request.overwrite)
        if not (planned or request.resume or request.overwrite):
            refuse_to_drop(request.outputs.raster)

    refuse_unusable(jobs, check)
    return jobs


def _require_places(request: ClassifyRequest, *, may_exist: bool) -> None:
    """Raise :class:`OutputError` where an output is an input, its folder is missing, or it must not exist."""
    if own := {Path(p).resolve() for p in request.inputs} & set(_resolved(request)):
        raise OutputError(f"output {own.pop()} is also an input", "choose another output path")
    require_place(request.outputs, may_exist=may_exist)


def _resolved(request: ClassifyRequest) -> list[Path]:
    return [path.resolve() for path in request.outputs.by_kind().values()]


def _place_of_summary(path: Path, jobs: list[MapJob[ClassifyRequest]], *, may_exist: bool) -> Path:
    """The path of a summary; raises :class:`OutputError` where it cannot be written."""
    if any(path.resolve() in _resolved(job.request) for job in jobs):
        raise OutputError(f"summary {path} is also an output of a scene", "choose another path")
    require_place(MapPaths(path, path), may_exist=may_exist)
    return path
