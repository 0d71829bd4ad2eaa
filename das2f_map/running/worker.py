"""The part of a map's computation that runs in Dask's workers: plans that were sent, and their blocks."""

from __future__ import annotations

import os
import pickle
import threading

from das2f_map.running.blocks import ClassifiedBlock
from das2f_map.running.plan import ClassifyPlan, classify_block, close_plan
from das2f_map.running.sent_plans import dropped, pickled_plan
from das2f_map.scene.grid import Window

_plans: dict[str, ClassifyPlan] = {}
_alone = threading.Lock()


def block_here(key: str, window: Window) -> ClassifiedBlock:
    """The block of a window of the plan with a key, which was sent to this process.

    Raises
    ------
    ClusterError
        This process does not have the plan, or another version of das2f-map.
    """
    with _alone:
        for old in [k for k in _plans if dropped(k)]:
            del _plans[old]
            close_plan()
        if key not in _plans:
            _plans[key] = pickle.loads(pickled_plan(key))
            # GDAL looks at it when it first reads a tile.
            os.environ.setdefault("GDAL_CACHEMAX", str(_plans[key].cache_bytes))
        plan = _plans[key]
    return classify_block(plan, window)
