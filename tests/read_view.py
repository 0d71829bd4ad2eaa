"""Reads all of a pair from its view alone; a module of its own so that another process can import it."""

from __future__ import annotations

from typing import Any

from das2f_map.scene.pair import ScenePair
from das2f_map.scene.request import PairView


def read_pair(pair: ScenePair) -> dict[str, Any]:
    """The arrays of an open pair with halo and filled pixels, its report, and its grid."""
    block = pair.read_block(pair.grids.ms.window, 3, 4, fill=2)
    names = ("ms", "pan", "valid", "invalid")
    return {name: getattr(block, name) for name in names} | {
        "report": pair.report().model_dump_json(),
        "transform": tuple(pair.grids.ms.transform),
    }


def read_view(view: PairView) -> dict[str, Any]:
    """The same of a view that is opened here."""
    with view.open() as pair:
        return read_pair(pair)
