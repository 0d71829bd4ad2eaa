"""Classify a scene: from two image files to the finished products.

:func:`plan_map` opens the pair, chooses the model, measures the shift and decides everything else.
:func:`_write_map` computes the blocks of the plan and writes each one at once. :func:`_finish` writes the
report.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import torch

from das2f_map._version import __version__
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import bundle_files
from das2f_map.bundle.fit import Radiometry, SceneViews, fit_model
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.reliance import model_cautions, share_warnings
from das2f_map.bundle.stac_parts import ITEM_SUFFIX, require_pystac
from das2f_map.engines import Engine
from das2f_map.engines.choice import DEFAULT_DEVICE
from das2f_map.engines.choose import EngineChoice, check_choice
from das2f_map.engines.device import resolve_device
from das2f_map.engines.memory import BLOCK_SIZE
from das2f_map.errors import Das2fMapError, InputError, OutputError
from das2f_map.outputs.recovery import look_at_work
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.whole_files import written_whole
from das2f_map.outputs.write_errors import require_space, writing
from das2f_map.products import simplify
from das2f_map.products.map_files import MapContents, MapPaths, MapWriter
from das2f_map.products.polygons import check_tolerance, check_vector_path
from das2f_map.products.provenance import Provenance
from das2f_map.products.report import (
    ClassifySettings,
    GridReport,
    ModelReport,
    RadiometryReport,
    RunReport,
    class_reports,
)
from das2f_map.products.stac_item import write_item
from das2f_map.progress import Progress, silent
from das2f_map.running.block_store import (
    BlockStore,
    Compute,
    block_size_of,
    finished_blocks,
    stored_bytes,
    stored_or_computed,
)
from das2f_map.running.blocks import BlockClassifier, computed_here
from das2f_map.running.certainty import Certainty
from das2f_map.running.cluster import computed_by, dask_client, require_dask
from das2f_map.running.forecast import RunForecast, forecast
from das2f_map.running.gdal_cache import gdal_cache, gdal_cache_for_writing
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
from das2f_map.running.memory import Demand, MemoryPlan, plan_memory
from das2f_map.running.plan import ClassifyPlan, FileIdentity
from das2f_map.running.recorded import (
    RecordedRun,
    card_digest,
    recorded_arguments,
    recorded_inputs,
)
from das2f_map.running.resources import Resources, bytes_of
from das2f_map.running.timings import Timings
from das2f_map.scene.area import Area
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.fingerprint import sha256_of
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.lattice import Lattice
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair_list import listed_scenes
from das2f_map.scene.paths import given_path, is_local, readable
from das2f_map.scene.registration import CoregisterMode, Coregistration
from das2f_map.scene.request import PairRequest, PairView
from das2f_map.scene.vector_path import local_file
from das2f_map.scene.virtual_files import with_sources

log = logging.getLogger(__name__)

_LEAST_FILLED = 0.5
"""Part of a map that is taken to have classes; a whole satellite scene, turned on its grid, has more."""

DRAFT_BLOCK, DRAFT_PIXELS = 1024, 16
"""Most MS pixels a side of a draft's block, and the draft's pixels a side that it should have."""

RASTER_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class ClassifyRequest:
    """A map as a user asks for it.

    Attributes
    ----------
    pair:
        The images.
    outputs:
        Files to write.
    model:
        A bundled model's name, a bundle's path, or a loaded bundle; ``None`` for the one that fits.
    radiometry:
        Source of the statistics that values are normalised with: the model's card or the scene.
    engine:
        How to compute.
    aoi:
        Vector file that limits the map, with its layer as in ``a.gpkg|layername=b``; ``None`` for the whole
        scene.
    min_area_m2:
        Regions smaller than this are merged into their neighbours; ``None`` for none.
    simplify_m:
        Polygons are simplified by so many metres; ``None`` for exact outlines.
    reject:
        Pixels whose class has a lower probability get the class ``unsure``; ``None`` for none.
    smooth:
        Probabilities are averaged over so many pixels around; ``None`` for none.
    overwrite:
        Replace existing outputs.
    resume:
        Go on with a run on the same outputs that was ended.
    resources:
        Limit of memory, and the processes that compute the blocks.
    given:
        The arguments that the request is made of, for the report; empty where it is made otherwise.
    every:
        K for a draft: one MS pixel of each K × K is classified; 1 for all.
    """

    pair: PairRequest
    outputs: MapPaths
    model: str | Path | ModelBundle | None = None
    radiometry: Radiometry = "model"
    engine: EngineChoice = field(default_factory=EngineChoice)
    aoi: str | None = None
    min_area_m2: float | None = None
    simplify_m: float | None = None
    reject: float | None = None
    smooth: int | None = None
    overwrite: bool = False
    resume: bool = False
    resources: Resources = field(default_factory=Resources)
    given: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1

    @classmethod
    def of(
        cls,
        ms: str | Path,
        pan: str | Path | None,
        output: str | Path,
        *,
        model: str | Path | ModelBundle | None,
        vectors: str | Path | Literal[False] | None,
        confidence: str | Path | None,
        probabilities: str | Path | None,
        entropy: str | Path | None,
        stac: bool,
        reject: float | None,
        smooth: int | None,
        aoi: str | Path | None,
        aoi_layer: str | None,
        min_area_m2: float | None,
        simplify_m: float | None,
        bands: GivenBands | None,
        nodata: float | None,
        mask: str | Path | MaskFile | None,
        reflectance: bool,
        radiometry: Radiometry,
        coregistration: CoregisterMode,
        max_shift: float,
        engine: str,
        device: str,
        precision: str,
        batch_size: int | None,
        turns: int | None,
        force: bool,
        overwrite: bool,
        resume: bool,
        max_memory: str | int | None,
        workers: int | None,
        cluster: str | None,
        every: int,
    ) -> ClassifyRequest:
        """The request of the arguments of :func:`classify`, which explains them and has the defaults.

        Raises
        ------
        InputError, OutputError
            A value cannot be used.
        """
        given = recorded_arguments(locals())
        output = Path(output)
        if not output.name:
            raise OutputError(f"output {output} is a folder", "give the path of a file")
        for option, path in (
            ("vectors", vectors),
            ("confidence", confidence),
            ("probabilities", probabilities),
            ("entropy", entropy),
        ):
            # `Path("")` is the working folder.
            if path is not None and path is not False and not Path(path).name:
                raise OutputError(
                    f"--{option} names no file: its path is {'empty' if str(path) in ('', '.') else path}",
                    "give the path of a file, or leave the option out",
                )
        vector_path = None if vectors is False else Path(vectors) if vectors else output.with_suffix(".gpkg")
        return cls(
            PairRequest.of(
                ms,
                pan,
                bands=bands,
                nodata=nodata,
                mask=mask,
                coregistration=coregistration,
                max_shift=max_shift,
                force=force,
                reflectance=reflectance,
            ),
            MapPaths(
                output,
                output.with_suffix(".json"),
                vector_path,
                confidence=_path(confidence),
                probabilities=_path(probabilities),
                entropy=_path(entropy),
                stac=output.with_suffix(ITEM_SUFFIX) if stac else None,
            ),
            model=model,
            radiometry=radiometry,
            engine=EngineChoice(engine, device, precision, batch_size, turns),
            aoi=None if aoi is None else _with_layer(given_path(aoi, "aoi"), aoi_layer),
            min_area_m2=min_area_m2,
            simplify_m=simplify_m,
            reject=reject,
            smooth=smooth,
            overwrite=overwrite,
            resume=resume,
            resources=Resources(bytes_of(max_memory), workers, cluster),
            given=given,
            every=every,
        )

    def check(self) -> None:
        """Check everything that can be checked without opening a file.

        Raises
        ------
        InputError, OutputError, DeviceError, MissingDependencyError
            The smallest area, the tolerance or the lowest probability is no such number; an output's
            extension, an engine or a device is unknown; or a package is missing.
        """
        for raster in self.outputs.rasters():
            if raster.suffix.lower() not in RASTER_SUFFIXES:
                raise OutputError(f"output {raster} is not a GeoTIFF", "give it the extension .tif")
        if self.outputs.vectors is not None:
            check_vector_path(self.outputs.vectors)
        if self.outputs.stac is not None:
            require_pystac()
        if self.min_area_m2 is not None and not 0 <= self.min_area_m2 < math.inf:
            raise InputError(
                f"a smallest area of {self.min_area_m2:g} m² cannot be used", "give a number from 0 on"
            )
        check_tolerance(self.simplify_m)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"every {self.every!r} cannot be used", "give a whole number from 1 on")
        Certainty(reject=self.reject, smooth=self.smooth)
        if self.smooth is not None and self.every > 1:
            raise InputError(
                "a draft cannot be smoothed: its pixels are not next to each other", "leave out --smooth"
            )
        if self.resources.spread:
            require_dask()
        check_choice(self.engine.engine, self.engine.precision)
        if isinstance(self.engine.device, str):
            resolve_device(self.engine.device)

    @cached_property
    def parts(self) -> dict[str, str]:
        """A hash of each thing that the map depends on, by its name in words.

        Files count by path, size and time of change. How and where the blocks are computed does not count.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("pair", "outputs", "overwrite", "resume", "resources", "model", "given"):
            del own[name]
        whole = [str(Path(p).resolve()) if is_local(p) else p for p in self.inputs]
        model = self.model.digest() if isinstance(self.model, ModelBundle) else self.model
        pair = {f.name: getattr(self.pair, f.name) for f in fields(self.pair) if f.name not in ("ms", "pan")}
        # Paths count among the input files, wherever the command runs.
        if isinstance(self.pair.mask, MaskFile):
            pair["mask"] = replace(self.pair.mask, path="")
        own["aoi"] = None if self.aoi is None else Path(self.aoi).name
        things = {
            "the version of das2f-map": __version__,
            "the input files": [asdict(FileIdentity.of(p)) for p in whole],
            "the model": model,
            "the kinds of outputs": sorted(self.outputs.by_kind()),
            "bands, nodata, mask or shift of the pair": pair,
            "engine, device, precision, batch size or turns": own.pop("engine"),
            **{f"--{name.replace('_m2', '').replace('_', '-')}": value for name, value in own.items()},
        }
        return {name: hashlib.sha256(repr(value).encode()).hexdigest()[:32] for name, value in things.items()}

    @property
    def scene_files(self) -> tuple[str, ...]:
        """Paths of the images, the mask and the area of interest."""
        return (*self.pair.files, *(() if self.aoi is None else (self.aoi,)))

    @property
    def recorded(self) -> dict[str, Any] | None:
        """The arguments for the report; ``None`` where they are not known."""
        if not self.given:
            return None
        paths = self.outputs.by_kind()
        kinds = ("vectors", "confidence", "probabilities", "entropy")
        files: dict[str, Any] = {kind: readable(paths.get(kind)) for kind in kinds}
        files["vectors"] = files["vectors"] or False
        pair = {"ms": readable(self.pair.ms), "pan": readable(self.pair.pan)}
        return {**self.given, **pair, "output": readable(self.outputs.raster), **files}

    @property
    def read_files(self) -> list[str]:
        """Paths of all files that are read but for the model's, those behind a VRT too."""
        return with_sources(local_file(path) for path in self.scene_files)

    @property
    def inputs(self) -> list[str]:
        """Paths of all files that are read, those behind a VRT too."""
        paths = self.read_files
        if isinstance(self.model, (str, Path)):
            paths += [str(p) for p in bundle_files(find_model(self.model))]
        return paths


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
    every: int = ClassifyRequest.every,
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
    return run_classification(ClassifyRequest.of(ms, pan, output, **options), progress)


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
    max_memory, workers, cluster, progress:
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
    return run_forecast(ClassifyRequest.of(ms, pan, output, **given))


_OPTIONS: Final = frozenset(inspect.signature(ClassifyRequest.of).parameters) - {"ms", "pan", "output"}
"""The options of :func:`classify`."""


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _with_layer(path: str, layer: str | None) -> str:
    return path if layer is None else f"{local_file(path)}|layername={layer}"


def run_classification(
    request: ClassifyRequest, progress: Progress = silent, loaded: LoadedModels | None = None
) -> RunReport:
    """Plan a map, compute its blocks, finish its files; returns and raises as :func:`classify` does.

    ``loaded`` keeps models for other maps.
    """
    timings = Timings()
    request.check()
    made_from = request.parts  # before the run: a file that changes meanwhile differs
    if not (request.resume or request.overwrite):
        _refuse_to_drop(request.outputs.raster)
    with StagedOutputs(inputs=request.inputs, overwrite=request.overwrite, resume=request.resume) as outputs:
        staged = request.outputs.staged(outputs)
        work = outputs.work_folder(request.outputs.raster)
        fixed = block_size_of(work) if request.resume else None
        with plan_map(request, timings, block_size=fixed, loaded=loaded) as planned:
            plan = planned.plan
            # Parts without a class take no room, and how many these are shows only later.
            pixels = round(_LEAST_FILLED * plan.window.height * plan.window.width)
            classes, merges = len(plan.bundle.card.legend), bool(plan.min_area_m2)
            require_space(plan.outputs.work_bytes(pixels, classes, stored_bytes(work), merges=merges))
            _log(planned)
            with BlockStore(work, plan, resume=request.resume) as store:
                with _kept_if_ended(outputs, store):
                    contents = _write_map(planned, staged, store, progress, timings)
                if contents.is_empty:
                    raise planned.classifier.input.pair.nothing_valid(
                        request.aoi, classified=plan.bundle.card.patch.max_invalid_share < 1
                    )
                return _finish(request, planned, staged, contents, timings, made_from)


def run_forecast(
    request: ClassifyRequest, loaded: LoadedModels | None = None, rate: float | None = None
) -> RunForecast:
    """Plan a map and forecast what it will take; returns and raises as :func:`forecast_map` does.

    ``loaded`` keeps models for other maps; ``rate`` is known from another map: pixels a second.
    """
    request.check()
    with plan_map(request, Timings(), loaded=loaded) as planned:
        _log(planned)
        return forecast(planned.plan, planned.classifier, planned.memory, planned.warnings, rate=rate)


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
        if request.resume and finished_map(request) is not None:
            return None
        # One trial is enough for scenes of one kind.
        kind = (request.model, request.engine, request.every)
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
        if own := {Path(p).resolve() for p in request.inputs} & set(_resolved(request)):
            raise OutputError(f"output {own.pop()} is also an input", "choose another output path")
        require_place(request.outputs, may_exist=planned or request.resume or request.overwrite)
        if not (planned or request.resume or request.overwrite):
            _refuse_to_drop(request.outputs.raster)

    refuse_unusable(jobs, check)
    return jobs


def _resolved(request: ClassifyRequest) -> list[Path]:
    return [path.resolve() for path in request.outputs.by_kind().values()]


def _place_of_summary(path: Path, jobs: list[MapJob[ClassifyRequest]], *, may_exist: bool) -> Path:
    """The path of a summary; raises :class:`OutputError` where it cannot be written."""
    if any(path.resolve() in _resolved(job.request) for job in jobs):
        raise OutputError(f"summary {path} is also an output of a scene", "choose another path")
    require_place(MapPaths(path, path), may_exist=may_exist)
    return path


def finished_map(request: ClassifyRequest) -> RunReport | None:
    """The report of a map that is there and was made as the request asks; ``None`` if there is none.

    Raises
    ------
    OutputError
        There is a map with a report, and it was made otherwise. Not where outputs may be overwritten.
    """
    paths = request.outputs.by_kind()
    try:
        report = RunReport.model_validate_json(paths["report"].read_bytes())
    except (OSError, ValueError):
        return None
    if not all(path.is_file() for path in paths.values()):
        return None
    differing = [name for name, own in request.parts.items() if report.made_from.get(name) != own]
    if not differing:
        return report
    if request.overwrite:
        return None
    raise OutputError(
        f"{paths['raster']} was made otherwise: it differs in {'; '.join(differing)}",
        "--overwrite with --resume makes such maps anew",
    )


def _refuse_to_drop(raster: Path) -> None:
    """Raise :class:`OutputError` where a run that was ended has left finished blocks."""
    found = look_at_work(raster, finished_blocks)
    if found:
        raise OutputError(
            f"a run on {raster} was ended after {found:,} block{'s' if found > 1 else ''}",
            "--resume goes on with it, --overwrite begins anew",
        )


@contextmanager
def _kept_if_ended(outputs: StagedOutputs, store: BlockStore) -> Iterator[None]:
    """Inside the ``with`` block an error or an end leaves the finished blocks, and a line says so."""
    outputs.keep_work()
    try:
        yield
    except BaseException:  # an interrupt too
        if len(store) and not store.is_there:
            log.warning("The folder with %d finished blocks is gone", len(store))
        elif len(store):
            log.warning("Finished blocks are kept (%d); --resume goes on with them", len(store))
        else:
            outputs.keep_work(False)
        raise
    outputs.keep_work(False)


@dataclass(frozen=True, eq=False)
class PlannedMap:
    """A plan, with its files open and the findings that go into the report.

    Attributes
    ----------
    plan:
        The plan.
    classifier:
        Computes its blocks in this process.
    pixels:
        Pixels of the map, inside the area of interest if there is one.
    memory:
        How the run keeps its limit of memory.
    coregistration:
        The shift that was found, and its treatment.
    warnings:
        Sentences that a user of the map should know.
    """

    plan: ClassifyPlan
    classifier: BlockClassifier
    pixels: int
    memory: MemoryPlan
    coregistration: Coregistration
    warnings: tuple[str, ...]


@contextmanager
def plan_map(
    request: ClassifyRequest,
    timings: Timings,
    *,
    block_size: int | None = None,
    loaded: LoadedModels | None = None,
) -> Iterator[PlannedMap]:
    """Decide everything about a map; its files stay open inside the ``with`` block.

    Parameters
    ----------
    request:
        The map as a user asks for it.
    timings:
        Gets the time of each phase.
    block_size:
        Pixels of the map a side of the blocks of a run that goes on; ``None`` chooses them.
    loaded:
        Keeps models for other maps; by default nothing is kept.

    Raises
    ------
    InputError, ModelError, DeviceError
        The pair, the area of interest, the model or the device cannot be used, or the limit of memory is too
        small.
    """
    lattice = Lattice(request.every)
    models = LoadedModels() if loaded is None else loaded
    with request.pair.open() as opened:
        # An area that cannot be used is refused before the shift is measured.
        area = _area(request, opened.grids.ms)
        with timings.phase("model"):
            views = SceneViews(opened, request.pair.given_bands)
            bundle = models.bundle(views, request.model, request.radiometry)
        cautions = model_cautions(bundle.card, request.reject)
        for caution in cautions:
            log.warning("%s", caution)
        # Only the bands in use count: others may have nodata elsewhere, or be no images at all.
        with timings.phase("coregistration"):
            coregistration = request.pair.coregister(views.pair_for_model(bundle.card))
        coregistration.log()
        pair = coregistration.pair
        if pair.grids.ms != opened.grids.ms:
            area = _area(request, pair.grids.ms)
        with timings.phase("model"):
            if coregistration.corrected:
                views = SceneViews(pair, request.pair.given_bands)
            fitted = fit_model(views, bundle, request.radiometry)
            engine = models.engine(bundle, request.engine, every=request.every)
        grid = lattice.cells(pair.grids.ms)
        if grid.window.is_empty:
            raise InputError(
                f"one pixel of each {lattice.step} × {lattice.step} leaves none of the scene's "
                f"{pair.grids.ms.height} × {pair.grids.ms.width}",
                "give a smaller --every",
            )
        window = grid.window if area is None else area.window
        demand = _demand(request, len(bundle.card.legend), fitted.input, engine, window)
        # An engine with room for larger blocks gets them: less of them is halo.
        preferred = max(BLOCK_SIZE, engine.block_size)
        if lattice.step > 1:
            # A draft's engine has few pixels to compute in a block: it gets more of them at a time.
            preferred = max(preferred, min(DRAFT_BLOCK, DRAFT_PIXELS * lattice.step))
        memory = plan_memory(
            demand,
            request.resources,
            preferred,
            fixed=None if block_size is None else block_size * lattice.step,
            resident=None if loaded is None else loaded.resident_memory(),
        )
        plan = ClassifyPlan(
            view=PairView.of(request.pair, fitted.input.pair),
            bundle=bundle,
            normalisation=fitted.input.normalisation,
            engine=EngineChoice(
                engine.name,
                engine.device,
                engine.precision,
                request.engine.batch_size,
                bundle.card.turns if request.engine.turns is None else request.engine.turns,
            ),
            files=tuple(FileIdentity.of(p) for p in request.scene_files),
            aoi=request.aoi,
            grid=grid,
            window=window,
            block_size=max(1, memory.block_size // lattice.step),
            memory_bytes=engine.memory_bytes(memory.block_size + 2 * (request.smooth or 0)),
            outputs=request.outputs,
            min_area_m2=request.min_area_m2,
            simplify_m=request.simplify_m,
            reject=request.reject,
            smooth=request.smooth,
            resources=request.resources,
            cache_bytes=memory.cache_bytes,
            every=request.every,
        )
        classifier = plan.classifier(fitted.input.pair, engine, area)
        pixels = window.height * window.width if area is None else area.pixels
        warnings = (
            *_draft_notices(request.every),
            *cautions,
            *pair.notices,
            *coregistration.warnings,
            *fitted.warnings,
        )
        with gdal_cache(memory.cache_bytes):
            yield PlannedMap(plan, classifier, pixels, memory, coregistration, warnings)


def _area(request: ClassifyRequest, grid: Grid) -> Area | None:
    """The area of interest on a pair's MS grid, in pixels of the map; ``None`` for the whole scene."""
    lattice = Lattice(request.every)
    try:
        return None if request.aoi is None else Area.from_file(request.aoi, lattice.centred(grid))
    except InputError as error:
        if request.every == 1:
            raise
        raise InputError(error.message, f"{error.hint}; or a smaller --every, or none") from error


def _draft_notices(every: int) -> tuple[str, ...]:
    if every == 1:
        return ()
    return (f"this map is a draft: one pixel of each {every} × {every} was classified and stands for all",)


def _demand(
    request: ClassifyRequest, classes: int, source: ModelInput, engine: Engine, window: Window
) -> Demand:
    """The memory that a map takes, by the size of its blocks."""
    on_cpu = str(engine.device).startswith("cpu")
    results = 2 + (request.outputs.entropy is not None)
    if request.outputs.probabilities is not None:
        results += classes
    simplifies = bool(request.simplify_m) and request.outputs.vectors is not None
    margin = 2 * (request.smooth or 0)
    if margin:
        # Probabilities, their sums, and a product of both.
        results += 3 * classes
    return Demand(
        width=window.width,
        pixels=window.height * window.width,
        bands=source.pair.ms_band_count,
        halo=margin + (2 * source.radius if engine.all_turns else source.patch.size - 1),
        results=results,
        engine_bytes=(lambda size: engine.memory_bytes(size + margin)) if on_cpu else lambda size: 0,
        simplify_bytes=simplify.memory_bytes(window.height, window.width) if simplifies else 0,
    )


def _log(planned: PlannedMap) -> None:
    plan, engine = planned.plan, planned.classifier.engine
    log.info(
        "%s pixels%s (%d × %d) with %s, engine %s on %s in %s (scan: %s)",
        f"{planned.pixels:,}",
        "" if plan.aoi is None else " inside the area",
        plan.window.width,
        plan.window.height,
        plan.bundle.card.name,
        engine.name,
        engine.device,
        engine.precision,
        engine.scan,
    )
    if (plan.engine.turns or 1) > 1:
        log.info(
            "Logits are averaged over %d turns of the images; --turns 1 is as many times faster",
            plan.engine.turns,
        )


def _write_map(
    planned: PlannedMap, staged: MapPaths, store: BlockStore, progress: Progress, timings: Timings
) -> MapContents:
    """Compute the blocks of a plan, but for those that are stored, and write them in their order."""
    plan, window = planned.plan, planned.plan.window
    writer = MapWriter(
        staged,
        plan.map_grid,
        plan.legend,
        unsure=plan.unsure,
        min_area_m2=plan.min_area_m2,
        simplify_m=plan.simplify_m,
        tags=_draft_tags(plan),
        provenance=Provenance.of_run(plan.bundle.card.name, plan.view.request.arguments),
        progress=progress,
    )
    with writer:
        with (
            timings.phase("classify"),
            progress("Classifying", window.height * window.width) as advance,
            _computing(planned) as compute,
            closing(stored_or_computed(plan, store, compute, planned.classifier.classify)) as blocks,
        ):
            for block in blocks:
                writer.write(
                    block.window.shifted(-window.row, -window.col),
                    block.classes,
                    block.confidence,
                    block.probabilities,
                    block.entropy,
                )
                advance(block.window.height * block.window.width)
        with timings.phase("products"), gdal_cache_for_writing(plan.cache_bytes):
            return writer.finish()


def _draft_tags(plan: ClassifyPlan) -> dict[str, str]:
    """Metadata items of a draft's rasters."""
    if plan.every == 1:
        return {}
    return {"draft": f"one pixel of each {plan.every} x {plan.every} classified", "every": str(plan.every)}


@contextmanager
def _computing(planned: PlannedMap) -> Iterator[Compute]:
    """Computes blocks in this process, or on the workers that the plan asks for."""
    if not planned.plan.resources.spread:
        yield computed_here(planned.classifier, read_ahead=planned.memory.read_ahead)
        return
    with dask_client(planned.plan) as client:
        yield computed_by(client, planned.plan)


def _finish(
    request: ClassifyRequest,
    planned: PlannedMap,
    staged: MapPaths,
    contents: MapContents,
    timings: Timings,
    made_from: dict[str, str],
) -> RunReport:
    """Warn of classes whose share of the map is strange, and write the run report."""
    plan, classifier = planned.plan, planned.classifier
    card, engine = plan.bundle.card, classifier.engine
    pixels = {c.name: contents.areas[c.id].pixels for c in card.legend.each()}
    strange = share_warnings(card.shares, pixels, of="the map" if plan.reject is None else "its sure pixels")
    changed = [f"{f.path} has changed during the run" for f in plan.files if FileIdentity.of(f.path) != f]
    for warning in (*strange, *changed):
        log.warning("%s", warning)
    report = RunReport(
        software_version=__version__,
        torch_version=torch.__version__,
        scene=classifier.input.pair.report(),
        aoi=plan.aoi,
        model=ModelReport(
            name=card.name,
            path=None if plan.bundle.path is None else str(plan.bundle.path),
            temperature=None if card.calibration is None else card.temperature,
            weights_sha256=plan.bundle.digest(),
            card_sha256=card_digest(plan.bundle),
        ),
        radiometry=RadiometryReport(
            statistics=request.radiometry,
            ms=plan.normalisation.ms_bands,
            pan=plan.normalisation.pan_band,
        ),
        coregistration=planned.coregistration.summary(),
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        scan=engine.scan,
        turns=plan.engine.turns or 1,
        settings=ClassifySettings(
            engine=request.engine.engine,
            device=str(request.engine.device),
            precision=request.engine.precision,
            batch_size=request.engine.batch_size,
            turns=request.engine.turns,
            min_area_m2=request.min_area_m2,
            simplify_m=request.simplify_m,
            reject=request.reject,
            smooth=request.smooth,
            max_shift=request.pair.max_shift,
            force=request.pair.force,
            every=request.every,
        ),
        draft=request.every > 1,
        made_from=made_from,
        warnings=[*planned.warnings, *strange, *changed],
        grid=GridReport.of(plan.map_grid),
        classes=class_reports(plan.legend, contents.areas, contents.polygons),
        unsure=plan.unsure,
        nodata_pixels=contents.nodata_pixels,
        merged_pixels=contents.merged_pixels,
        seconds=timings.seconds,
        outputs={kind: str(path) for kind, path in plan.outputs.by_kind().items()},
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        folder=str(Path.cwd()),
        request=request.recorded,
        inputs=recorded_inputs(request.read_files),
        checksums={
            kind: sha256_of(path) for kind, path in staged.by_kind().items() if kind not in ("report", "stac")
        },
    )
    staged.report.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if staged.stac is not None and plan.outputs.stac is not None:
        files = {kind: path for kind, path in staged.by_kind().items() if kind != "stac"}
        write_item(report, plan.outputs.stac, files, staged.stac)
    return report
