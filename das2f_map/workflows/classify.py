"""Classify a scene: from two image files to the finished products.

:func:`plan_map` opens the pair, chooses the model, measures the shift and decides everything else.
:func:`_write_map` computes the blocks of the plan and writes each one at once. :func:`_finish` writes the
report.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from das2f_map._version import __version__
from das2f_map.bundle.catalogue import find_model
from das2f_map.bundle.files import bundle_files
from das2f_map.bundle.fit import Radiometry, SceneViews, choose_bundle, fit_model
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.reliance import model_cautions, share_warnings
from das2f_map.engines import Engine
from das2f_map.engines.choice import DEFAULT_DEVICE
from das2f_map.engines.choose import EngineChoice, check_choice, make_engine
from das2f_map.engines.device import resolve_device
from das2f_map.engines.memory import BLOCK_SIZE
from das2f_map.errors import InputError, OutputError
from das2f_map.outputs.recovery import look_at_work
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import require_space
from das2f_map.products.map_files import MapContents, MapPaths, MapWriter
from das2f_map.products.polygons import check_vector_path
from das2f_map.products.report import (
    ClassifySettings,
    GridReport,
    ModelReport,
    RadiometryReport,
    RunReport,
    class_reports,
)
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
from das2f_map.running.gdal_cache import gdal_cache
from das2f_map.running.memory import Demand, MemoryPlan, plan_memory
from das2f_map.running.plan import ClassifyPlan, FileIdentity
from das2f_map.running.resources import Resources, bytes_of
from das2f_map.running.timings import Timings
from das2f_map.scene.area import Area
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.grid import Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.paths import given_path
from das2f_map.scene.registration import CoregisterMode, Coregistration
from das2f_map.scene.request import PairRequest, PairView
from das2f_map.scene.vector_path import local_file
from das2f_map.scene.virtual_files import with_sources

log = logging.getLogger(__name__)

_LEAST_FILLED = 0.5
"""Part of a map that is taken to have classes; a whole satellite scene, turned on its grid, has more."""

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
        Polygons smaller than this are merged into their neighbours; ``None`` for none.
    reject:
        Pixels whose class has a lower probability get the class ``unsure``; ``None`` for none.
    overwrite:
        Replace existing outputs.
    resume:
        Go on with a run on the same outputs that was ended.
    resources:
        Limit of memory, and the processes that compute the blocks.
    """

    pair: PairRequest
    outputs: MapPaths
    model: str | Path | ModelBundle | None = None
    radiometry: Radiometry = "model"
    engine: EngineChoice = field(default_factory=EngineChoice)
    aoi: str | None = None
    min_area_m2: float | None = None
    reject: float | None = None
    overwrite: bool = False
    resume: bool = False
    resources: Resources = field(default_factory=Resources)

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
        reject: float | None,
        aoi: str | Path | None,
        aoi_layer: str | None,
        min_area_m2: float | None,
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
    ) -> ClassifyRequest:
        """The request of the arguments of :func:`classify`, which explains them and has the defaults.

        Raises
        ------
        InputError, OutputError
            A value cannot be used.
        """
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
                *(None if path is None else Path(path) for path in (confidence, probabilities, entropy)),
            ),
            model=model,
            radiometry=radiometry,
            engine=EngineChoice(engine, device, precision, batch_size, turns),
            aoi=None if aoi is None else _with_layer(given_path(aoi, "aoi"), aoi_layer),
            min_area_m2=min_area_m2,
            reject=reject,
            overwrite=overwrite,
            resume=resume,
            resources=Resources(bytes_of(max_memory), workers, cluster),
        )

    def check(self) -> None:
        """Check everything that can be checked without opening a file.

        Raises
        ------
        InputError, OutputError, DeviceError, MissingDependencyError
            The smallest area or the lowest probability is no such number; an output's extension, an engine
            or a device is unknown; or a package is missing.
        """
        for raster in self.outputs.rasters():
            if raster.suffix.lower() not in RASTER_SUFFIXES:
                raise OutputError(f"output {raster} is not a GeoTIFF", "give it the extension .tif")
        if self.outputs.vectors is not None:
            check_vector_path(self.outputs.vectors)
        if self.min_area_m2 is not None and not 0 <= self.min_area_m2 < math.inf:
            raise InputError(
                f"a smallest area of {self.min_area_m2:g} m² cannot be used", "give a number from 0 on"
            )
        Certainty(reject=self.reject)
        if self.resources.spread:
            require_dask()
        check_choice(self.engine.engine, self.engine.precision)
        if isinstance(self.engine.device, str):
            resolve_device(self.engine.device)

    @property
    def scene_files(self) -> tuple[str, ...]:
        """Paths of the images, the mask and the area of interest."""
        return (*self.pair.files, *(() if self.aoi is None else (self.aoi,)))

    @property
    def inputs(self) -> list[str]:
        """Paths of all files that are read, those behind a VRT too."""
        paths = with_sources(local_file(path) for path in self.scene_files)
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
    reject: float | None = None,
    aoi: str | Path | None = None,
    aoi_layer: str | None = None,
    min_area_m2: float | None = None,
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
    reject:
        Lowest probability that a pixel's class needs, between 0 and 1. Other pixels get the class ``unsure``.
        By default none does.
    aoi:
        Vector file with polygons: only pixels whose centre lies inside are classified, and the map is cut
        to their bounding box.
    aoi_layer:
        Layer of this file; by default the only one that has polygons.
    min_area_m2:
        Polygons smaller than this, in m², are merged into their neighbours; the raster stays as it is.
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


def _with_layer(path: str, layer: str | None) -> str:
    return path if layer is None else f"{local_file(path)}|layername={layer}"


def run_classification(request: ClassifyRequest, progress: Progress = silent) -> RunReport:
    """Plan a map, compute its blocks, finish its files; returns and raises as :func:`classify` does."""
    timings = Timings()
    request.check()
    if not (request.resume or request.overwrite):
        _refuse_to_drop(request.outputs.raster)
    with StagedOutputs(inputs=request.inputs, overwrite=request.overwrite, resume=request.resume) as outputs:
        staged = request.outputs.staged(outputs)
        work = outputs.work_folder(request.outputs.raster)
        fixed = block_size_of(work) if request.resume else None
        with plan_map(request, timings, block_size=fixed) as planned:
            plan = planned.plan
            # Parts without a class take no room, and how many these are shows only later.
            pixels = round(_LEAST_FILLED * plan.window.height * plan.window.width)
            require_space(plan.outputs.work_bytes(pixels, len(plan.bundle.card.legend), stored_bytes(work)))
            _log(planned)
            with BlockStore(work, plan, resume=request.resume) as store:
                with _kept_if_ended(outputs, store):
                    contents = _write_map(planned, staged, store, progress, timings)
                if contents.is_empty:
                    raise planned.classifier.input.pair.nothing_valid(
                        request.aoi, classified=plan.bundle.card.patch.max_invalid_share < 1
                    )
                return _finish(request, planned, staged, contents, timings)


def run_forecast(request: ClassifyRequest) -> RunForecast:
    """Plan a map and forecast what it will take; returns and raises as :func:`forecast_map` does."""
    request.check()
    with plan_map(request, Timings()) as planned:
        _log(planned)
        return forecast(planned.plan, planned.classifier, planned.memory, planned.warnings)


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
    request: ClassifyRequest, timings: Timings, *, block_size: int | None = None
) -> Iterator[PlannedMap]:
    """Decide everything about a map; its files stay open inside the ``with`` block.

    Parameters
    ----------
    request:
        The map as a user asks for it.
    timings:
        Gets the time of each phase.
    block_size:
        MS pixels a side of the blocks of a run that goes on; ``None`` chooses them.

    Raises
    ------
    InputError, ModelError, DeviceError
        The pair, the area of interest, the model or the device cannot be used, or the limit of memory is too
        small.
    """
    with request.pair.open() as opened:
        # An area that cannot be used is refused before the shift is measured.
        area = None if request.aoi is None else Area.from_file(request.aoi, opened.grids.ms)
        with timings.phase("model"):
            views = SceneViews(opened, request.pair.given_bands)
            bundle = choose_bundle(views, request.model, request.radiometry)
        cautions = model_cautions(bundle.card, request.reject)
        for caution in cautions:
            log.warning("%s", caution)
        # Only the bands in use count: others may have nodata elsewhere, or be no images at all.
        with timings.phase("coregistration"):
            coregistration = request.pair.coregister(views.pair_for_model(bundle.card))
        coregistration.log()
        pair = coregistration.pair
        if request.aoi is not None and pair.grids.ms != opened.grids.ms:
            area = Area.from_file(request.aoi, pair.grids.ms)
        with timings.phase("model"):
            if coregistration.corrected:
                views = SceneViews(pair, request.pair.given_bands)
            fitted = fit_model(views, bundle, request.radiometry)
            engine = make_engine(bundle, request.engine)
        window = pair.grids.ms.window if area is None else area.window
        demand = _demand(request, len(bundle.card.legend), fitted.input, engine, window)
        # An engine with room for larger blocks gets them: less of them is halo.
        preferred = max(BLOCK_SIZE, engine.block_size)
        memory = plan_memory(demand, request.resources, preferred, fixed=block_size)
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
            grid=pair.grids.ms,
            window=window,
            block_size=memory.block_size,
            memory_bytes=engine.memory_bytes(memory.block_size),
            outputs=request.outputs,
            min_area_m2=request.min_area_m2,
            reject=request.reject,
            resources=request.resources,
            cache_bytes=memory.cache_bytes,
        )
        classifier = plan.classifier(fitted.input.pair, engine, area)
        pixels = window.height * window.width if area is None else area.pixels
        warnings = (*cautions, *pair.notices, *coregistration.warnings, *fitted.warnings)
        with gdal_cache(memory.cache_bytes):
            yield PlannedMap(plan, classifier, pixels, memory, coregistration, warnings)


def _demand(
    request: ClassifyRequest, classes: int, source: ModelInput, engine: Engine, window: Window
) -> Demand:
    """The memory that a map takes, by the size of its blocks."""
    on_cpu = str(engine.device).startswith("cpu")
    results = 2 + (request.outputs.entropy is not None)
    if request.outputs.probabilities is not None:
        results += classes
    return Demand(
        width=window.width,
        pixels=window.height * window.width,
        bands=source.pair.ms_band_count,
        halo=2 * source.radius if engine.all_turns else source.patch.size - 1,
        results=results,
        engine_bytes=engine.memory_bytes if on_cpu else lambda size: 0,
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
        tags={"model": plan.bundle.card.name, "software": f"das2f-map {__version__}"},
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
        with timings.phase("products"):
            return writer.finish()


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
) -> RunReport:
    """Warn of classes whose share of the map is strange, and write the run report."""
    plan, classifier = planned.plan, planned.classifier
    card, engine = plan.bundle.card, classifier.engine
    pixels = {c.name: contents.areas[c.id].pixels for c in card.legend.each()}
    strange = share_warnings(card.shares, pixels, of="the map" if plan.reject is None else "its sure pixels")
    for warning in strange:
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
            reject=request.reject,
            max_shift=request.pair.max_shift,
            force=request.pair.force,
        ),
        warnings=[*planned.warnings, *strange],
        grid=GridReport.of(plan.map_grid),
        classes=class_reports(plan.legend, contents.areas, contents.polygons),
        unsure=plan.unsure,
        nodata_pixels=contents.nodata_pixels,
        seconds=timings.seconds,
        outputs={kind: str(path) for kind, path in plan.outputs.by_kind().items()},
    )
    staged.report.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report
