"""Models by name: those that ship with the package, and any by path."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from das2f_map.bundle.members import CARD_NAME
from das2f_map.errors import ModelError
from das2f_map.scene.paths import exists

if TYPE_CHECKING:
    from das2f_map.bundle.model import ModelBundle


def bundled_models() -> dict[str, Path]:
    """Name → folder of the models that ship with the package, in alphabetical order.

    In a checkout they are in ``models/`` next to the package; a wheel carries them inside the package.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "models", package.parent / "models"):
        found = {p.parent.name: p.parent for p in sorted(folder.glob(f"*/{CARD_NAME}"))}
        if found:
            return found
    return {}


def find_model(name_or_path: str | Path) -> Path:
    """Path of the model that a user names: a bundled model's name is tried first, then a path.

    Raises :class:`~das2f_map.errors.ModelError`, with the nearest name, when there is neither.
    """
    bundled = bundled_models()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if exists(path):  # False for a path that is too long
        return path
    near = difflib.get_close_matches(str(name_or_path), bundled, n=1, cutoff=0.5)
    known = f"bundled models: {', '.join(bundled) or 'none'}"
    raise ModelError(
        f"no model {str(name_or_path)!r}: neither a bundled model nor a path",
        f"did you mean {near[0]!r}?" if near else known,
    )


def load_model(name_or_path: str | Path) -> ModelBundle:
    """Load a bundled model by name, or any bundle by path.

    Raises :class:`~das2f_map.errors.ModelError` when there is none, or it is damaged.
    """
    from das2f_map.bundle.files import load_bundle  # imports torch, which the list of models does without

    return load_bundle(find_model(name_or_path))
