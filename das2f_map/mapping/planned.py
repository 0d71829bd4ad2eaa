"""A map before its first block: model, area, grid, engine and memory, decided from the request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from das2f_map.bundle.fit import SceneViews, fit_model
from das2f_map.bundle.reliance import model_cautions
from das2f_map.engines import Engine
from das2f_map.engines.choose import EngineChoice
from das2f_map.engines.memory import BLOCK_SIZE
from das2f_map.errors import InputError
from das2f_map.mapping.request import ClassifyRequest
from das2f_map.products import simplify
from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.gdal_cache import gdal_cache
from das2f_map.running.many import LoadedModels
from das2f_map.running.memory import Demand, MemoryPlan, plan_memory
from das2f_map.running.plan import ClassifyPlan, FileIdentity
from das2f_map.running.timings import Timings
from das2f_map.scene.area import Area, EmptyArea
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.lattice import Lattice
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.registration import Coregistration
from das2f_map.scene.request import PairView

log = logging.getLogger(__name__)

DRAFT_BLOCK, DRAFT_PIXELS = 1024, 16
"""Most MS pixels a side of a draft's block, and the draft's pixels a side that it should have."""


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
    options = request.options
    lattice = Lattice(options.every)
    models = LoadedModels() if loaded is None else loaded
    with request.pair.open() as opened:
        # An area that cannot be used is refused before the shift is measured.
        area = _area(request, opened.grids.ms)
        with timings.phase("model"):
            views = SceneViews(opened, request.pair.given_bands)
            bundle = models.bundle(views, request.model, request.radiometry)
        cautions = model_cautions(bundle.card, options.reject)
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
            engine = models.engine(bundle, request.engine, every=options.every)
        grid = lattice.cells(pair.grids.ms)
        if grid.window.is_empty:
            raise InputError(
                f"one pixel of each {lattice.step} × {lattice.step} leaves none of the scene's "
                f"{pair.grids.ms.height} × {pair.grids.ms.width}",
                "give a smaller --every",
            )
        window = grid.window if area is None else area.window
        demand = _demand(request, len(bundle.card.legend), fitted.input, engine, window)
        memory = plan_memory(
            demand,
            request.resources,
            _preferred_block(engine, lattice.step),
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
            # With the files behind a VRT: it stays the same where one of them changes.
            files=tuple(
                FileIdentity.of(p) for p in dict.fromkeys((*request.scene_files, *request.read_files))
            ),
            aoi=request.aoi,
            grid=grid,
            window=window,
            block_size=max(1, memory.block_size // lattice.step),
            memory_bytes=engine.memory_bytes(memory.block_size + 2 * (options.smooth or 0)),
            outputs=request.outputs,
            options=options,
            resources=request.resources,
            cache_bytes=memory.cache_bytes,
        )
        classifier = plan.classifier(fitted.input.pair, engine, area)
        pixels = window.height * window.width if area is None else area.pixels
        warnings = (
            *_draft_notices(options.every),
            *cautions,
            *pair.notices,
            *coregistration.warnings,
            *fitted.warnings,
        )
        with gdal_cache(memory.cache_bytes):
            yield PlannedMap(plan, classifier, pixels, memory, coregistration, warnings)


def _preferred_block(engine: Engine, step: int) -> int:
    """MS pixels a side of the blocks that suit an engine best, where every ``step``-th pixel is computed."""
    # An engine with room for larger blocks gets them: less of them is halo.
    preferred = max(BLOCK_SIZE, engine.block_size)
    # A draft's engine has few pixels to compute in a block: it gets more of them at a time.
    return max(preferred, min(DRAFT_BLOCK, DRAFT_PIXELS * step)) if step > 1 else preferred


def _area(request: ClassifyRequest, grid: Grid) -> Area | None:
    """The area of interest on a pair's MS grid, in pixels of the map; ``None`` for the whole scene."""
    lattice = Lattice(request.options.every)
    try:
        return None if request.aoi is None else Area.from_file(request.aoi, lattice.centred(grid))
    except EmptyArea as error:
        if request.options.every == 1:
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
    simplifies = bool(request.options.simplify_m) and request.outputs.vectors is not None
    margin = 2 * (request.options.smooth or 0)
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
