"""The parts of a bundle that are read before its weights: what kind of file it is, and its card.

No torch is imported here, so that the list of models appears at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from das2f_map.bundle.card_parts import ListedCard
from das2f_map.bundle.untrusted import read_member
from das2f_map.scene.paths import is_dir

if TYPE_CHECKING:  # the list of models does without all of the card
    from das2f_map.bundle.card import ModelCard

CARD_NAME: Final = "model.json"
WEIGHTS_NAME: Final = "model.safetensors"
ONNX_SUFFIX: Final = ".onnx"

CARD_LIMIT: Final = 4 << 20
"""Most bytes of a card. Cards with every figure of a training have some 20 kB."""


def is_onnx(path: Path) -> bool:
    """Whether a path names an ONNX file."""
    return path.suffix.lower() == ONNX_SUFFIX and not is_dir(path)


def read_card(path: Path) -> ModelCard:
    """The card of a bundle or an ONNX file, without its weights.

    Raises :class:`~das2f_map.errors.ModelError` when it is missing, damaged, foreign, too large, or written
    by a newer version; :class:`~das2f_map.errors.MissingDependencyError` for ONNX without onnxruntime.
    """
    if is_onnx(path):
        from das2f_map.bundle.onnx_file import load_onnx

        return load_onnx(path).card
    from das2f_map.bundle.card import parse_card

    return parse_card(read_member(path, CARD_NAME, CARD_LIMIT), path, CARD_NAME)


def read_listed(path: Path) -> ListedCard | ModelCard:
    """The entries of a bundle's card that a list of models shows; raises as :func:`read_card` does."""
    try:
        return ListedCard.model_validate_json(read_member(path, CARD_NAME, CARD_LIMIT))
    except ValidationError:
        return read_card(path)  # which names the fault
