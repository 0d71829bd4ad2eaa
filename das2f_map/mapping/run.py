"""A map from its request to its files: planned, computed block by block, written, reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch

from das2f_map._version import __version__
from das2f_map.bundle.reliance import share_warnings
from das2f_map.errors import OutputError
from das2f_map.mapping.planned import PlannedMap, plan_map
from das2f_map.mapping.request import ClassifyRequest
from das2f_map.outputs.recovery import look_at_work, settle
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import require_space
from das2f_map.products.map_files import MapContents, MapPaths, MapWriter
from das2f_map.products.map_record import left_of_the_old_map
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
from das2f_map.running.block_journal import (
    NOTHING_DONE,
    DoneBefore,
    block_size_of,
    finished_blocks,
    stored_bytes,
)
from das2f_map.running.block_store import BlockStore, Compute, stored_or_computed
from das2f_map.running.blocks import ClassifiedBlock, computed_here
from das2f_map.running.cluster import computed_by, dask_client
from das2f_map.running.forecast import RunForecast, forecast
from das2f_map.running.gdal_cache import gdal_cache_for_writing
from das2f_map.running.many import LoadedModels
from das2f_map.running.plan import ClassifyPlan, FileIdentity
from das2f_map.running.recorded import (
    card_digest,
    recorded_inputs,
)
from das2f_map.running.timings import Timings
from das2f_map.running.write_behind import one_behind
from das2f_map.scene.fingerprint import sha256_of

log = logging.getLogger(__name__)

_LEAST_FILLED = 0.5
"""Part of a map that is taken to have classes; a whole satellite scene, turned on its grid, has more."""


def run_classification(
    request: ClassifyRequest, progress: Progress = silent, loaded: LoadedModels | None = None
) -> RunReport:
    """Plan a map, compute its blocks, finish its files; returns and raises as :func:`classify` does.

    ``loaded`` keeps models for other maps.
    """
    timings = Timings()
    request.check()
    made_from = request.parts  # before the run: a file that changes meanwhile differs
    if request.overwrite and (stale := left_of_the_old_map(request.outputs)):
        log.warning(
            "%s: of the map that is replaced; the run writes no new one, and leaves the old one alone",
            ", ".join(map(str, stale)),
        )
    if not (request.resume or request.overwrite):
        refuse_to_drop(request.outputs.raster)
    with StagedOutputs(inputs=request.inputs, overwrite=request.overwrite, resume=request.resume) as outputs:
        staged = request.outputs.staged(outputs)
        work = outputs.work_folder(request.outputs.raster)
        fixed = block_size_of(work, request.options.every) if request.resume else None
        with plan_map(request, timings, block_size=fixed, loaded=loaded) as planned:
            plan = planned.plan
            # Parts without a class take no room, and how many these are shows only later.
            pixels = round(_LEAST_FILLED * plan.window.height * plan.window.width)
            classes, merges = len(plan.bundle.card.legend), bool(plan.options.min_area_m2)
            require_space(plan.outputs.work_bytes(pixels, classes, stored_bytes(work), merges=merges))
            _log(planned)
            with BlockStore(work, plan, resume=request.resume, or_anew=request.overwrite) as store:
                with _kept_if_ended(outputs, store):
                    contents = _write_map(planned, staged, store, progress, timings)
                if contents.is_empty:
                    raise planned.classifier.input.pair.nothing_valid(
                        request.aoi, classified=plan.bundle.card.patch.max_invalid_share < 1
                    )
                with _kept_if_ended(outputs, store, by=(KeyboardInterrupt, SystemExit)):
                    return _finish(request, planned, staged, contents, timings, made_from)


def run_forecast(
    request: ClassifyRequest,
    loaded: LoadedModels | None = None,
    rate: float | None = None,
    *,
    finished: bool = False,
) -> RunForecast:
    """Plan a map and forecast what it will take; returns and raises as :func:`forecast_map` does.

    ``loaded`` keeps models for other maps; ``rate`` is known from another map: pixels a second. ``finished``:
    the map is there already.
    """
    request.check()
    raster, fixed = request.outputs.raster, None
    resume = request.resume and not finished
    if resume:
        fixed = look_at_work(raster, lambda work: block_size_of(work, request.options.every))
    with plan_map(request, Timings(), block_size=fixed, loaded=loaded) as planned:
        _log(planned)
        plan, done = planned.plan, None
        if finished:
            done = DoneBefore(frozenset(range(sum(1 for _ in plan.blocks()))))
        elif resume:
            done = look_at_work(
                raster, lambda work: DoneBefore.left_in(work, plan, or_none=request.overwrite)
            )
        return forecast(
            plan,
            planned.classifier,
            planned.memory,
            planned.warnings,
            rate=rate,
            done=done or NOTHING_DONE,
            finished=finished,
        )


def finished_map(request: ClassifyRequest, *, look_only: bool = False) -> RunReport | None:
    """The report of a map that is there and was made as the request asks; ``None`` if there is none.

    A run that was killed while it put the map into place is settled first, unless ``look_only`` is set.

    Raises
    ------
    OutputError
        There is a map with a report, and it was made otherwise. Not where outputs may be overwritten. Or
        another run writes it.
    """
    paths = request.outputs.by_kind()
    if not look_only:
        settle(request.outputs.raster)
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


def refuse_to_drop(raster: Path) -> None:
    """Raise :class:`OutputError` where a run that was ended has left finished blocks."""
    found = look_at_work(raster, finished_blocks)
    if found:
        raise OutputError(
            f"a run on {raster} was ended after {found:,} block{'s' if found > 1 else ''}",
            "--resume goes on with it, --overwrite begins anew",
        )


@contextmanager
def _kept_if_ended(
    outputs: StagedOutputs,
    store: BlockStore,
    by: type[BaseException] | tuple[type[BaseException], ...] = BaseException,
) -> Iterator[None]:
    """Inside the ``with`` block an error or an end, or one ``by`` name, leaves the finished blocks.

    A line says so.
    """
    try:
        outputs.keep_work()
        yield
        outputs.keep_work(False)
    except BaseException as error:  # an interrupt too, wherever it comes
        kept = isinstance(error, by) and len(store) > 0
        outputs.keep_work(kept)
        if kept and not store.is_there:
            log.warning("The folder with %d finished blocks is gone", len(store))
        elif kept:
            log.warning("Finished blocks are kept (%d); --resume goes on with them", len(store))
        raise


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
        min_area_m2=plan.options.min_area_m2,
        simplify_m=plan.options.simplify_m,
        tags=_draft_tags(plan),
        provenance=Provenance.of_run(plan.bundle.card.name, plan.view.request.arguments),
        progress=progress,
    )

    def write(block: ClassifiedBlock) -> None:
        writer.write(
            block.window.shifted(-window.row, -window.col),
            block.classes,
            block.confidence,
            block.probabilities,
            block.entropy,
        )

    with writer:
        with (
            timings.phase("classify"),
            progress("Classifying", window.height * window.width) as advance,
            _computing(planned) as compute,
            closing(stored_or_computed(plan, store, compute, planned.classifier.classify)) as blocks,
            one_behind(write, thread=planned.memory.read_ahead) as write_soon,
        ):
            for block in blocks:
                write_soon(block)
                advance(block.window.height * block.window.width)
        with timings.phase("products"), gdal_cache_for_writing(plan.cache_bytes):
            return writer.finish()


def _draft_tags(plan: ClassifyPlan) -> dict[str, str]:
    """Metadata items of a draft's rasters."""
    every = plan.options.every
    if every == 1:
        return {}
    return {"draft": f"one pixel of each {every} x {every} classified", "every": str(every)}


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
    scene, window = classifier.input.pair.grids.ms, plan.window
    strange = share_warnings(
        card.shares,
        pixels,
        of="the map" if plan.options.reject is None else "its sure pixels",
        stands_for=plan.options.every**2,
        part=2 * window.height * window.width < scene.height * scene.width,
    )
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
            max_shift=request.pair.max_shift,
            force=request.pair.force,
            **asdict(request.options),
        ),
        draft=request.options.every > 1,
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
