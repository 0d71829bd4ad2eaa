"""The plan of a map: everything that a process needs to compute any of its blocks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from das2f_map._version import __version__
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.errors import InputError
from das2f_map.legend import Legend
from das2f_map.products.map_files import MapPaths
from das2f_map.running.blocks import BlockClassifier, ClassifiedBlock
from das2f_map.running.certainty import Certainty
from das2f_map.running.map_options import MapOptions
from das2f_map.running.resources import Resources
from das2f_map.scene.area import Area
from das2f_map.scene.grid import Grid, Window, blocks_of
from das2f_map.scene.lattice import Lattice
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.paths import is_local
from das2f_map.scene.radiometry import Normalisation
from das2f_map.scene.request import PairView
from das2f_map.scene.vector_path import local_file

_ENGINE: Final = "engine, device, precision, batch size or turns"
_AREA: Final = "the area of interest"
_EVERY: Final = "--every"
_BLOCK_SIZE: Final = "the block size"

_FOLLOW: Final = {_EVERY: (_ENGINE, _AREA, _BLOCK_SIZE)}
"""Part of a plan → parts that may follow: a draft counts other pixels, and may have another engine."""


@dataclass(frozen=True)
class FileIdentity:
    """A file as it is at one moment.

    Attributes
    ----------
    path:
        As given, with the layer after it; a URL stays as it is, without size and time.
    size, changed:
        Bytes; nanoseconds since the epoch. ``None`` where they are not known.
    """

    path: str
    size: int | None = None
    changed: int | None = None

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """The file as it is now."""
        try:
            found = Path(local_file(path)).stat()
        except OSError:
            return cls(path)
        return cls(path, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class ClassifyPlan:
    """Everything about a map that is decided before its first block is computed. Can be pickled.

    Attributes
    ----------
    view:
        The pair as it is read: bands, shift, mask and nodata.
    bundle:
        The model.
    normalisation:
        Statistics that the pair is normalised with.
    engine:
        Engine, device and precision, none of them ``auto``.
    files:
        The files that are read, as they were when the plan was made.
    aoi:
        Vector file that limits the map; ``None`` for the whole scene.
    grid:
        The common grid's MS grid, or that of a draft's cells.
    window:
        The map's part of it, in its pixels.
    block_size:
        Pixels of this grid a side of a block.
    memory_bytes:
        Estimate of the memory that computing a block takes.
    outputs:
        Files that are written, at their final paths.
    options:
        What is done with probabilities, regions and outlines.
    resources:
        Limit of memory, and the processes that compute the blocks. They change no block.
    cache_bytes:
        GDAL's cache of tiles in each process that computes blocks.
    """

    view: PairView
    bundle: ModelBundle
    normalisation: Normalisation
    engine: EngineChoice
    files: tuple[FileIdentity, ...]
    aoi: str | None
    grid: Grid
    window: Window
    block_size: int
    memory_bytes: int
    outputs: MapPaths
    options: MapOptions = field(default_factory=MapOptions)
    resources: Resources = field(default_factory=Resources)
    cache_bytes: int = 64 << 20

    @property
    def legend(self) -> Legend:
        """The map's legend: the model's, and the class ``unsure`` where pixels may be rejected."""
        own = self.bundle.card.legend
        return own if self.options.reject is None else own.with_unsure()[0]

    @property
    def unsure(self) -> int | None:
        """Id of the class ``unsure``; ``None`` where no pixel is rejected."""
        return None if self.options.reject is None else self.bundle.card.legend.with_unsure()[1]

    @property
    def certainty(self) -> Certainty:
        """Probabilities that the blocks are computed with, and those that the outputs need."""
        return Certainty(
            temperature=self.bundle.card.temperature,
            reject=self.options.reject,
            smooth=self.options.smooth,
            probabilities=self.outputs.probabilities is not None,
            entropy=self.outputs.entropy is not None,
        )

    @property
    def lattice(self) -> Lattice:
        """The MS pixels that are classified."""
        return Lattice(self.options.every)

    @property
    def map_grid(self) -> Grid:
        """The grid of the map."""
        return self.grid.cropped(self.window)

    def blocks(self) -> Iterator[Window]:
        """The blocks, row by row; pixels of :attr:`grid`."""
        return blocks_of(self.window, self.block_size)

    @cached_property
    def key(self) -> str:
        """A hash of everything that the blocks depend on, 32 hex digits.

        Two plans that compute the same blocks of the same files have the same key; other plans have another.
        A file counts as it was when the plan was made, by path, size and time of change.
        """
        return _hash(self.parts)

    @cached_property
    def parts(self) -> dict[str, str]:
        """A hash of each thing that the blocks depend on, by its name in words."""
        return {
            name: _hash(value)
            for name, value in {
                "the version of das2f-map": __version__,
                "bands, mask, nodata or shift of the pair": asdict(self.view),
                "the input files": [asdict(f) for f in self.files],
                "the model's card": self.bundle.card.model_dump(mode="json"),
                "the model's weights": self.bundle.digest(),
                "the normalisation": [b.model_dump() for b in self.normalisation.bands],
                _ENGINE: asdict(self.engine),
                "--reject, --smooth, --probabilities or --entropy": asdict(self.certainty),
                _AREA: asdict(self.window),
                _EVERY: self.options.every,
                _BLOCK_SIZE: self.block_size,
            }.items()
        }

    def differing(self, other: Mapping[str, str]) -> list[str]:
        """The things in which the :attr:`parts` of another plan differ, in the words of the options.

        Things that follow from one that differs are left out.
        """
        found = [name for name, own in self.parts.items() if other.get(name) != own]
        follow = {name for cause in found for name in _FOLLOW.get(cause, ())}
        return [name for name in found if name not in follow]

    @contextmanager
    def open(self) -> Iterator[BlockClassifier]:
        """A classifier with the files opened and the engine made.

        Raises
        ------
        InputError
            A file has changed since the plan was made; or as opening the pair does.
        """
        for file in self.files:
            if FileIdentity.of(file.path) != file:
                raise InputError(f"{file.path} has changed since the map was planned", "plan the map anew")
        with self.view.open() as pair:
            area = None if self.aoi is None else Area.from_file(self.aoi, self.lattice.centred(pair.grids.ms))
            yield self.classifier(pair, make_engine(self.bundle, self.engine), area)

    def elsewhere(self) -> ClassifyPlan:
        """The same plan with whole paths, for processes with another working folder."""
        request = self.view.request
        mask = request.mask
        whole = replace(
            request,
            ms=_whole(request.ms),
            pan=None if request.pan is None else _whole(request.pan),
            mask=replace(mask, path=_whole(str(mask.path))) if isinstance(mask, MaskFile) else mask,
        )
        return replace(
            self,
            view=replace(self.view, request=whole),
            files=tuple(replace(f, path=_whole(f.path)) for f in self.files),
            aoi=None if self.aoi is None else _whole(self.aoi),
        )

    def classifier(self, pair: ScenePair, engine: Engine, area: Area | None) -> BlockClassifier:
        """A classifier of the view's pair, an engine and an area of interest that are open already."""
        return BlockClassifier(
            ModelInput(pair, self.normalisation, self.bundle.card.patch),
            engine,
            self.bundle.card.legend,
            None if area is None else area.mask,
            self.certainty,
            self.lattice,
        )


def classify_block(plan: ClassifyPlan, window: Window) -> ClassifiedBlock:
    """The classified block of a window; it depends on the two arguments alone.

    The files and the engine of a plan stay open in this process until the function is called with another
    plan, or :func:`close_plan` is called. Threads that call it wait for each other.
    """
    return _kept.classify(plan, window)


def close_plan() -> None:
    """Close the files and the engine that :func:`classify_block` keeps open in this process."""
    _kept.close()


class _KeptOpen:
    """The one plan that this process has open. One thread reads a block while another one computes."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._opened: BlockClassifier | None = None
        self._stack = ExitStack()
        # Always taken in this order.
        self._reading, self._computing = threading.RLock(), threading.RLock()

    def classify(self, plan: ClassifyPlan, window: Window) -> ClassifiedBlock:
        with self._reading:
            if self._opened is None or self._key != plan.key:
                self.close()
                self._opened = self._stack.enter_context(plan.open())
                self._key = plan.key
            opened = self._opened
            block = opened.read(window)
        with self._computing:
            return opened.compute(window, block)

    def close(self) -> None:
        with self._reading, self._computing:
            self._opened = self._key = None
            self._stack.close()


_kept = _KeptOpen()


def _whole(path: str) -> str:
    """A local path from the root on; an address stays as it is."""
    return str(Path(path).absolute()) if is_local(path) else path


def _hash(value: Any) -> str:
    """32 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]
