"""Land-cover maps from multispectral + panchromatic image pairs with the DAS²F network.

    import das2f_map
    das2f_map.classify("ms.tif", "pan.tif", "landcover.tif")

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from das2f_map._version import __version__

if TYPE_CHECKING:
    from das2f_map.workflows.align import align
    from das2f_map.workflows.check_labels import check_labels
    from das2f_map.workflows.classify import classify, classify_pairs, rerun
    from das2f_map.workflows.evaluate import evaluate_map as evaluate
    from das2f_map.workflows.inspect import inspect_pair as inspect
    from das2f_map.workflows.models import load_model
    from das2f_map.workflows.mosaic import mosaic_maps as mosaic
    from das2f_map.workflows.preview import preview
    from das2f_map.workflows.report import report_map as report
    from das2f_map.workflows.report_model import report_model
    from das2f_map.workflows.sample import sample_map as sample
    from das2f_map.workflows.style import style
    from das2f_map.workflows.train import train
    from das2f_map.workflows.vectorize import vectorize

__all__ = [
    "__version__",
    "align",
    "check_labels",
    "classify",
    "classify_pairs",
    "evaluate",
    "inspect",
    "load_model",
    "mosaic",
    "preview",
    "report",
    "report_model",
    "rerun",
    "sample",
    "style",
    "train",
    "vectorize",
]

_HOMES = {
    "align": ("das2f_map.workflows.align", "align"),
    "check_labels": ("das2f_map.workflows.check_labels", "check_labels"),
    "classify": ("das2f_map.workflows.classify", "classify"),
    "classify_pairs": ("das2f_map.workflows.classify", "classify_pairs"),
    "evaluate": ("das2f_map.workflows.evaluate", "evaluate_map"),
    "inspect": ("das2f_map.workflows.inspect", "inspect_pair"),
    "load_model": ("das2f_map.workflows.models", "load_model"),
    "mosaic": ("das2f_map.workflows.mosaic", "mosaic_maps"),
    "preview": ("das2f_map.workflows.preview", "preview"),
    "report": ("das2f_map.workflows.report", "report_map"),
    "report_model": ("das2f_map.workflows.report_model", "report_model"),
    "rerun": ("das2f_map.workflows.classify", "rerun"),
    "sample": ("das2f_map.workflows.sample", "sample_map"),
    "style": ("das2f_map.workflows.style", "style"),
    "train": ("das2f_map.workflows.train", "train"),
    "vectorize": ("das2f_map.workflows.vectorize", "vectorize"),
}


if not TYPE_CHECKING:  # to a type checker an unknown name stays an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
