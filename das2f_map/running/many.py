"""Many maps one after the other: checks before the first one, and the outcome of each."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from das2f_map._version import __version__
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.fit import Radiometry, SceneViews, choose_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.errors import Das2fMapError, InputError, OutputError
from das2f_map.outputs.names import BOUND_SUFFIXES, is_folder, siblings
from das2f_map.products.map_files import MapPaths
from das2f_map.products.report import RunReport
from das2f_map.running.forecast import RunForecast
from das2f_map.running.resources import resident_memory
from das2f_map.scene.paths import PathText, missing_local_file

log = logging.getLogger(__name__)

R = TypeVar("R")

State = Literal["done", "skipped", "failed", "waiting"]


class LoadedModels:
    """Models and an engine that stay in memory from one map to the next."""

    def __init__(self) -> None:
        self._bundles: dict[Path, ModelBundle] = {}
        self._engine: tuple[tuple[Any, ...], Engine] | None = None
        self._memory: int | None = None

    def bundle(
        self, views: SceneViews, model: str | Path | ModelBundle | None, radiometry: Radiometry
    ) -> ModelBundle:
        """The model for a scene; see :func:`das2f_map.bundle.fit.choose_bundle`."""
        return choose_bundle(views, model, radiometry, load=self._load)

    def engine(self, bundle: ModelBundle, choice: EngineChoice, **options: Any) -> Engine:
        """The engine for a model; see :func:`das2f_map.engines.choose.make_engine`."""
        key = (bundle, choice, *sorted(options.items()))
        if self._engine is None or self._engine[0] != key:
            self._engine = None  # its memory is free before the next one is made
            self._engine = key, make_engine(bundle, choice, **options)
        return self._engine[1]

    def resident_memory(self) -> int:
        """Bytes of memory that this process had when the first map was planned.

        Memory that a map has given back to the allocator still counts as the process's. The next map gets it,
        so it does not count a second time.
        """
        if self._memory is None:
            self._memory = resident_memory()
        return self._memory

    def _load(self, path: Path) -> ModelBundle:
        if path not in self._bundles:
            self._bundles[path] = load_bundle(path)
        return self._bundles[path]


@dataclass(frozen=True)
class MapJob(Generic[R]):
    """A map of many.

    Attributes
    ----------
    place:
        Words for it in messages.
    request:
        The map as a user asks for it.
    arguments:
        The images as a user names them: MS and PAN, or a product.
    outputs:
        Files that are written.
    """

    place: str
    request: R
    arguments: tuple[str, ...]
    outputs: MapPaths


class SceneOutcome(BaseModel):
    """The outcome of one scene of many."""

    model_config = ConfigDict(extra="forbid")

    place: PathText = Field(description="line of the list, or the MS file")
    ms: PathText
    pan: PathText | None = Field(description="null for a product")
    output: PathText
    report: PathText = Field(description="run report of the map")
    state: State = Field(description="skipped: the map was finished before; waiting: the run has ended")
    error: str | None = None
    hint: str | None = None
    exit_code: int = Field(default=0, description="exit status that the scene alone would have led to")
    seconds: float | None = None
    model: str | None = None
    pixels: int | None = Field(default=None, description="pixels with a class")
    areas_m2: dict[str, float] = Field(default_factory=dict, description="class → area in the map")
    warnings: list[str] = Field(default_factory=list)

    def with_report(self, state: State, report: RunReport) -> SceneOutcome:
        """The outcome of a map that is there."""
        return self.model_copy(
            update={
                "state": state,
                "model": report.model.name,
                "pixels": sum(c.pixels for c in report.classes),
                "areas_m2": {c.name: c.area_m2 for c in report.classes},
                "warnings": report.warnings,
            }
        )

    def with_error(self, error: BaseException) -> SceneOutcome:
        """The outcome of a map that could not be made."""
        hint, code, text = None, 70, f"unexpected {type(error).__name__}: {error}"
        if isinstance(error, Das2fMapError):
            text, hint, code = error.message, error.hint, error.exit_code
        return self.model_copy(
            update={
                "state": "failed",
                "error": " ".join(text.split()),
                "hint": hint,
                "exit_code": code,
            }
        )


class PairsReport(BaseModel):
    """The outcome of many scenes."""

    model_config = ConfigDict(extra="forbid")

    report_version: Literal[1] = 1
    software_version: str = __version__
    done: int = 0
    skipped: int = Field(default=0, description="maps that were finished before")
    failed: int = 0
    waiting: int = Field(default=0, description="scenes that the run did not come to")
    seconds: float = 0.0
    scenes: list[SceneOutcome]

    @classmethod
    def of(cls, scenes: Sequence[SceneOutcome], seconds: float) -> PairsReport:
        """The report of outcomes."""
        counts = Counter(scene.state for scene in scenes)
        return cls(
            done=counts["done"],
            skipped=counts["skipped"],
            failed=counts["failed"],
            waiting=counts["waiting"],
            seconds=round(seconds, 3),
            scenes=list(scenes),
        )


def run_each(
    jobs: Sequence[MapJob[R]],
    run: Callable[[R], tuple[State, RunReport]],
    tell: Callable[[PairsReport], None],
) -> PairsReport:
    """Make maps one after the other. One that fails does not stop those after it.

    Parameters
    ----------
    jobs:
        The maps.
    run:
        Makes one, and says whether it was done or skipped.
    tell:
        Gets the report after each map.
    """
    outcomes = [_waiting(job) for job in jobs]
    made, start = PairsReport.of(outcomes, 0.0), time.perf_counter()
    for n, job in enumerate(jobs):
        log.info("Scene %d of %d: %s", n + 1, len(jobs), job.outputs.raster)
        begin = time.perf_counter()
        try:
            state, report = run(job.request)
            outcomes[n] = outcomes[n].with_report(state, report)
            if state == "skipped":
                log.info("%s is finished already", job.outputs.raster)
        except Exception as error:  # a bug, too, costs its own scene alone; the report has it
            outcomes[n] = outcomes[n].with_error(error)
            log.error("%s: %s", job.place, _with_hint(outcomes[n].error, outcomes[n].hint))
            log.debug("%s", job.place, exc_info=error)
        outcomes[n].seconds = round(time.perf_counter() - begin, 3)
        made = PairsReport.of(outcomes, time.perf_counter() - start)
        tell(made)
    return made


def _with_hint(error: str | None, hint: str | None) -> str:
    return f"{error}; hint: {hint}" if hint else str(error)


def _waiting(job: MapJob[R]) -> SceneOutcome:
    ms, *pan = job.arguments
    return SceneOutcome(
        place=job.place,
        ms=ms,
        pan=pan[0] if pan else None,
        output=str(job.outputs.raster),
        report=str(job.outputs.report),
        state="waiting",
    )


class SceneForecast(BaseModel):
    """The plan of one scene of many."""

    model_config = ConfigDict(extra="forbid")

    place: PathText
    output: PathText
    state: Literal["planned", "skipped", "failed"] = Field(description="skipped: the map is finished")
    error: str | None = None
    hint: str | None = None
    plan: RunForecast | None = None


class PairsForecast(BaseModel):
    """The plans of many scenes, and the sums."""

    model_config = ConfigDict(extra="forbid")

    planned: int
    skipped: int
    failed: int
    pixels: int = Field(description="of all maps that are planned")
    seconds: float | None = Field(description="one after the other; null: not known for any")
    memory_bytes: int = Field(description="of the scene that takes most")
    output_bytes: int = Field(description="about")
    work_bytes: int = Field(description="of the scene that takes most, until its run is over")
    existing: int = Field(description="outputs that are there already")
    scenes: list[SceneForecast]


def forecast_each(jobs: Sequence[MapJob[R]], plan: Callable[[R], RunForecast | None]) -> PairsForecast:
    """Forecast maps one after the other; ``plan`` gives ``None`` for one that is finished."""
    scenes = []
    for n, job in enumerate(jobs):
        log.info("Scene %d of %d: %s", n + 1, len(jobs), job.outputs.raster)
        scene = SceneForecast(place=job.place, output=str(job.outputs.raster), state="planned")
        try:
            scene.plan = plan(job.request)
            scene.state = "skipped" if scene.plan is None else "planned"
        except Das2fMapError as error:
            log.error("%s: %s", job.place, _with_hint(error.message, error.hint))
            scene.state, scene.error, scene.hint = "failed", error.message, error.hint
        scenes.append(scene)
    plans = [s.plan for s in scenes if s.plan is not None]
    seconds = [p.seconds for p in plans if p.seconds is not None]
    outputs = [o for p in plans for o in p.outputs]
    return PairsForecast(
        planned=len(plans),
        skipped=sum(s.state == "skipped" for s in scenes),
        failed=sum(s.state == "failed" for s in scenes),
        pixels=sum(p.rows * p.columns for p in plans),
        seconds=round(sum(seconds), 1) if seconds else None,
        memory_bytes=max((p.memory_bytes for p in plans), default=0),
        output_bytes=sum(o.bytes for o in outputs),
        work_bytes=max((p.work_bytes for p in plans), default=0),
        existing=sum(o.exists for o in outputs),
        scenes=scenes,
    )


def refuse_unusable(jobs: Sequence[MapJob[R]], check: Callable[[R], None]) -> None:
    """Refuse scenes that are known to fail before the first one is begun.

    Parameters
    ----------
    jobs:
        The maps.
    check:
        Raises an error for a map that cannot be made.

    Raises
    ------
    Das2fMapError
        One or more cannot be made, or two write the same file. The message has the first reason and the other
        places.
    """
    problems: list[tuple[str, Das2fMapError]] = []
    owners: dict[Path, str] = {}
    for job in jobs:
        try:
            check(job.request)
            for path in job.outputs.by_kind().values():
                if (other := owners.setdefault(path.resolve(), job.place)) != job.place:
                    raise OutputError(
                        f"its output {path} is also that of {other}", "give each scene an output of its own"
                    )
        except Das2fMapError as error:
            problems.append((job.place, error))
    if not problems:
        return
    (place, first), *others = problems
    more = f"; {len(others)} more cannot be used: {_some(p for p, _ in others)}" if others else ""
    first.message = f"{place}: {first.message}{more}"
    raise first


def _some(places: Iterable[str], most: int = 3) -> str:
    """The first few places."""
    listed = list(places)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def require_files(files: Iterable[tuple[str, str | None]]) -> None:
    """Raise :class:`InputError` for a local file that does not exist; (word for it, path) each."""
    for role, path in files:
        if path is not None and missing_local_file(path):
            raise InputError(f"{role} {path} does not exist", "check the path")


def require_place(paths: MapPaths, *, may_exist: bool) -> None:
    """Raise :class:`OutputError` where an output's folder is missing, or where one exists and must not."""
    for path in paths.by_kind().values():
        if not is_folder(path.parent):
            raise OutputError(
                f"output folder {path.parent} does not exist", f"make it first: mkdir -p {path.parent}"
            )
        bound = {path.with_name(path.name + suffix) for suffix in BOUND_SUFFIXES}
        for there in (path, *siblings(path)):
            if not may_exist and there not in bound and os.path.lexists(there):
                raise OutputError(
                    f"output {there} exists already",
                    "--resume skips finished maps, --overwrite replaces them",
                )
