"""What a planned map will take: blocks, memory, time and disk, from the plan and a short trial."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.memory import MemoryPlan
from das2f_map.running.plan import ClassifyPlan
from das2f_map.running.resources import in_words
from das2f_map.running.trial import TRIAL_BLOCK, trial_run
from das2f_map.scene.grid import Window
from das2f_map.scene.spread import spread_blocks

_LOOKS: Final = 12
"""Blocks that are read for the share of pixels that can be classified."""

_CLASS_BYTES: Final = 0.3
_VALUE_BYTES: Final = 3.6
_POLYGON_BYTES: Final = 12.0
"""Bytes of a pixel in a class raster, in a band of a raster of values, and in the polygons, overviews and
indices included. Measured: 0.28, 3.4 and 31 in a map of fields of 12 pixels; 0.13, 0.8 and 2 in one of
230."""

_PRODUCT_S: Final = 1.5e-6
"""Seconds that the files take for each pixel."""


class OutputForecast(BaseModel):
    """A file that a run would write."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    path: str
    bytes: int = Field(description="about; it depends on the map")
    exists: bool = Field(description="there already: the run needs --overwrite")


class RunForecast(BaseModel):
    """The plan of a map, and what it will take."""

    model_config = ConfigDict(extra="forbid")

    model: str
    engine: str
    device: str
    precision: str
    scan: str
    turns: int
    every: int = Field(default=1, description="K where one pixel of each K × K is classified")
    rows: int
    columns: int
    blocks: int
    block_size: int = Field(description="pixels of the map a side")
    read_ahead: bool = Field(description="a block is read while another one is computed")
    workers: int | None = Field(description="processes on this machine; null: this one alone")
    cluster: str | None = Field(description="address of the Dask scheduler")
    memory_bytes: int = Field(description="expected on this machine, all processes together")
    memory_limit_bytes: int
    valid_share: float = Field(description="pixels that can be classified, in a sample, 0..1")
    pixels_per_second: float | None = Field(description="of the engine in the trial; null: no trial")
    seconds: float | None = Field(description="for the whole map, on this machine")
    outputs: list[OutputForecast]
    work_bytes: int = Field(description="work files, until the run is over")
    disk_bytes: int = Field(description="needed in all")
    disk_free_bytes: int | None
    key: str = Field(description="the same for runs that compute the same blocks")
    warnings: list[str]


def forecast(
    plan: ClassifyPlan,
    classifier: BlockClassifier,
    memory: MemoryPlan,
    warnings: tuple[str, ...] = (),
    *,
    rate: float | None = None,
) -> RunForecast:
    """The forecast for a plan whose files are open; classifies a part of the scene for some seconds.

    ``rate`` takes the place of this trial: pixels a second.
    """
    shape = plan.window.height, plan.window.width
    pixels = shape[0] * shape[1]
    valid, rate = _trial(plan, classifier, rate)
    outputs = _outputs(plan, round(pixels * valid))
    classes, merges = len(plan.bundle.card.legend), bool(plan.options.min_area_m2)
    work = sum(plan.outputs.work_bytes(pixels, classes, merges=merges).values())
    free = _free_disk(plan.outputs.raster)
    disk = work + sum(o.bytes for o in outputs)
    notes = [*warnings]
    if free is not None and disk > free:
        notes.append(f"about {in_words(disk)} of disk are needed, {in_words(free)} are free")
    engine = classifier.engine
    return RunForecast(
        model=plan.bundle.card.name,
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        scan=engine.scan,
        turns=plan.engine.turns or 1,
        every=plan.options.every,
        rows=shape[0],
        columns=shape[1],
        blocks=sum(1 for _ in plan.blocks()),
        block_size=plan.block_size,
        read_ahead=memory.read_ahead,
        workers=plan.resources.workers,
        cluster=plan.resources.cluster,
        memory_bytes=memory.expected_bytes,
        memory_limit_bytes=memory.limit_bytes,
        valid_share=round(valid, 4),
        pixels_per_second=None if rate is None else round(rate, 1),
        seconds=None if rate is None else round(pixels * (valid / rate + _PRODUCT_S), 1),
        outputs=outputs,
        work_bytes=work,
        disk_bytes=disk,
        disk_free_bytes=free,
        key=plan.key,
        warnings=notes,
    )


def _trial(plan: ClassifyPlan, classifier: BlockClassifier, rate: float | None) -> tuple[float, float | None]:
    """Share of pixels that can be classified, and pixels a second, from some parts of the map."""
    # A pixel of a draft has many to read: its blocks are small.
    side = TRIAL_BLOCK if plan.options.every == 1 else min(TRIAL_BLOCK, plan.block_size)
    usable = looked = 0
    fullest: tuple[int, Window] | None = None
    places = spread_blocks(plan.window, side, strata=_LOOKS, seed=0)
    for place, _ in zip(places, range(_LOOKS), strict=False):
        block = classifier.read(place)
        found = 0 if block is None else int(np.count_nonzero(block.usable))
        usable, looked = usable + found, looked + place.height * place.width
        if fullest is None or found > fullest[0]:
            fullest = found, place
    if fullest is None or fullest[0] == 0:
        return 0.0, None
    if rate is None:
        trial = trial_run(classifier, fullest[1])
        rate = None if trial is None else trial.rate
    return usable / looked, rate


def _bands(plan: ClassifyPlan) -> dict[str, int]:
    """Bands of each raster of values that is written."""
    bands = {"confidence": 1, "probabilities": len(plan.bundle.card.legend), "entropy": 1}
    return {kind: n for kind, n in bands.items() if kind in plan.outputs.by_kind()}


def _outputs(plan: ClassifyPlan, pixels: int) -> list[OutputForecast]:
    sizes = {
        "raster": _CLASS_BYTES * pixels,
        "vectors": _POLYGON_BYTES * pixels,
        "report": 10_000.0,
        "stac": 6_000.0,
    }
    sizes |= {kind: n * _VALUE_BYTES * pixels for kind, n in _bands(plan).items()}
    return [
        OutputForecast(kind=kind, path=str(path), bytes=round(sizes[kind]), exists=path.exists())
        for kind, path in plan.outputs.by_kind().items()
    ]


def _free_disk(output: Path) -> int | None:
    try:
        return shutil.disk_usage(output.parent.resolve()).free
    except OSError:  # the folder does not exist
        return None
