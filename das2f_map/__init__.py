"""Land-cover maps from multispectral + panchromatic image pairs with the DAS²F network.

    import das2f_map
    das2f_map.classify("ms.tif", "pan.tif", "landcover.tif")

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from das2f_map.mapping.align import align
    from das2f_map.mapping.classify import classify
    from das2f_map.mapping.inspect import inspect_pair as inspect
    from das2f_map.mapping.models import load_model
    from das2f_map.products.preview import preview
    from das2f_map.training.evaluate import evaluate_map as evaluate
    from das2f_map.training.fit import train

__version__ = "0.1.0"

__all__ = ["__version__", "align", "classify", "evaluate", "inspect", "load_model", "preview", "train"]

_HOMES = {
    "align": ("das2f_map.mapping.align", "align"),
    "classify": ("das2f_map.mapping.classify", "classify"),
    "evaluate": ("das2f_map.training.evaluate", "evaluate_map"),
    "inspect": ("das2f_map.mapping.inspect", "inspect_pair"),
    "load_model": ("das2f_map.mapping.models", "load_model"),
    "preview": ("das2f_map.products.preview", "preview"),
    "train": ("das2f_map.training.fit", "train"),
}


if not TYPE_CHECKING:  # to a type checker an unknown name stays an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
