"""What a planned map will take: blocks, memory, time and disk, from the plan and a short trial."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from das2f_map.running.block_journal import NOTHING_DONE, DoneBefore
from das2f_map.running.blocks import BlockClassifier
from das2f_map.running.memory import MemoryPlan
from das2f_map.running.output_sizes import TYPICAL, Texture, expected_bytes
from das2f_map.running.plan import ClassifyPlan
from das2f_map.running.resources import in_words
from das2f_map.running.trial import TRIAL_BLOCK, trial_run
from das2f_map.scene.grid import Window
from das2f_map.scene.spread import spread_blocks

_LOOKS: Final = 12
"""Blocks that are read for the share of pixels that can be classified."""


_PRODUCT_S: Final = 1.5e-6
"""Seconds that the files take for each pixel."""


class OutputForecast(BaseModel):
    """A file that a run would write."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    path: str
    bytes: int = Field(description="about; it depends on the map")
    exists: bool = Field(description="there already: the run needs --overwrite, unless the map is finished")


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
    finished_blocks: int = Field(
        default=0, description="left by a run that was ended; time and disk are those of the others"
    )
    finished: bool = Field(default=False, description="the map is there, made as asked")
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
    done: DoneBefore = NOTHING_DONE,
    finished: bool = False,
) -> RunForecast:
    """The forecast for a plan whose files are open; classifies a part of the scene for some seconds.

    Parameters
    ----------
    plan, classifier, memory, warnings:
        The map, its pair and engine, its memory, and sentences for its user.
    rate:
        Takes the place of the trial: pixels a second.
    done:
        Blocks that are finished; time and disk are those of the others.
    finished:
        The map is there; nothing is left to do.
    """
    shape = plan.window.height, plan.window.width
    pixels = shape[0] * shape[1]
    left = [w.height * w.width for k, w in enumerate(plan.blocks()) if k not in done.blocks]
    look = _looked_at(plan, classifier, rate, done.blocks if left else frozenset())
    outputs = _outputs(plan, round(pixels * look.valid), look.texture)
    classes, merges = len(plan.bundle.card.legend), bool(plan.options.min_area_m2)
    needed = plan.outputs.work_bytes(pixels, classes, done.stored_bytes, merges=merges)
    work = 0 if finished else sum(needed.values())
    free = _free_disk(plan.outputs.raster)
    disk = 0 if finished else work + sum(o.bytes for o in outputs)
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
        blocks=len(left) + len(done.blocks),
        finished_blocks=len(done.blocks),
        finished=finished,
        block_size=plan.block_size,
        read_ahead=memory.read_ahead,
        workers=plan.resources.workers,
        cluster=plan.resources.cluster,
        memory_bytes=memory.expected_bytes,
        memory_limit_bytes=memory.limit_bytes,
        valid_share=round(look.valid, 4),
        pixels_per_second=None if look.rate is None else round(look.rate, 1),
        seconds=0.0 if finished else _seconds(look, sum(left), pixels),
        outputs=outputs,
        work_bytes=work,
        disk_bytes=disk,
        disk_free_bytes=free,
        key=plan.key,
        warnings=notes,
    )


@dataclass(frozen=True)
class _Look:
    """Some parts of a map: the share of pixels that can be classified, pixels a second, and their texture."""

    valid: float
    rate: float | None
    texture: Texture = TYPICAL


def _seconds(look: _Look, rest: int, pixels: int) -> float | None:
    """Time for a map of some pixels, of which the rest are still to be classified."""
    if rest and look.rate is None:
        return None
    classifying = rest * look.valid / look.rate if rest and look.rate else 0.0
    return round(classifying + pixels * _PRODUCT_S, 1)


def _looked_at(
    plan: ClassifyPlan, classifier: BlockClassifier, rate: float | None, done: frozenset[int]
) -> _Look:
    """Read some parts of a map that are not done yet, and classify the fullest unless the rate is known."""
    # A pixel of a draft has many to read: its blocks are small.
    side = TRIAL_BLOCK if plan.options.every == 1 else min(TRIAL_BLOCK, plan.block_size)
    usable = looked = 0
    fullest: tuple[int, Window] | None = None
    places = (
        place
        for place in spread_blocks(plan.window, side, strata=_LOOKS, seed=0)
        if not (done and _is_done(plan, place, done))
    )
    for place, _ in zip(places, range(_LOOKS), strict=False):
        block = classifier.read(place)
        found = 0 if block is None else int(np.count_nonzero(block.usable))
        usable, looked = usable + found, looked + place.height * place.width
        if fullest is None or found > fullest[0]:
            fullest = found, place
    if fullest is None or fullest[0] == 0:
        return _Look(0.0, None)
    if rate is None:
        trial = trial_run(classifier, fullest[1])
        if trial is None:
            return _Look(usable / looked, None)
        return _Look(usable / looked, trial.rate, trial.texture)
    return _Look(usable / looked, rate)


def _is_done(plan: ClassifyPlan, place: Window, done: frozenset[int]) -> bool:
    """Whether all blocks that a place touches are done."""
    size, per_row = plan.block_size, -(-plan.window.width // plan.block_size)
    inside = place.shifted(-plan.window.row, -plan.window.col)
    rows = range(inside.row // size, (inside.row_stop - 1) // size + 1)
    cols = range(inside.col // size, (inside.col_stop - 1) // size + 1)
    return all(row * per_row + col in done for row in rows for col in cols)


def _outputs(plan: ClassifyPlan, pixels: int, texture: Texture) -> list[OutputForecast]:
    classes = len(plan.bundle.card.legend)
    return [
        OutputForecast(
            kind=kind,
            path=str(path),
            bytes=expected_bytes(kind, path.suffix.lower(), pixels, classes, texture),
            exists=path.exists(),
        )
        for kind, path in plan.outputs.by_kind().items()
    ]


def _free_disk(output: Path) -> int | None:
    try:
        return shutil.disk_usage(output.parent.resolve()).free
    except OSError:  # the folder does not exist
        return None
