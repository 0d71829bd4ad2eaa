"""A training as a user asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from das2f_map.bundle.card import card_text, require_card_texts
from das2f_map.scene.request import PairRequest
from das2f_map.training.settings import AUTO, TrainingSettings


@dataclass(frozen=True)
class LabelRequest:
    """Labels as a user asks for them.

    Attributes
    ----------
    path:
        Polygons, points or a raster; see :func:`das2f_map.labels.labelled_pixels.read_labels`.
    class_field:
        Attribute with the class; ``None`` for the only plausible one.
    skip_classes:
        Names of classes to leave out.
    layer:
        Layer of a vector file; ``None`` for the only one that fits.
    """

    path: str
    class_field: str | None = None
    skip_classes: tuple[str, ...] = ()
    layer: str | None = None


@dataclass(frozen=True)
class SceneRequest:
    """A labelled scene as a user asks for it.

    Attributes
    ----------
    pair:
        The images.
    labels:
        The labels.
    """

    pair: PairRequest
    labels: LabelRequest


@dataclass(frozen=True)
class CardTexts:
    """Texts of a user for the model card.

    Attributes
    ----------
    name:
        ``None`` for the bundle folder's name.
    description:
        Purpose of the model.
    data:
        Where images and labels come from; ``None`` for the names of the files.
    licence:
        Licence of the weights.

    Raises
    ------
    InputError
        A text has control characters.
    """

    name: str | None = None
    description: str = ""
    data: str | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        require_card_texts(**asdict(self))


@dataclass(frozen=True)
class TrainRequest:
    """A training as a user asks for it.

    Attributes
    ----------
    scenes:
        The labelled scenes, at least one.
    output:
        Bundle folder to make.
    settings:
        How and where to train.
    card:
        Texts of the model card.
    start:
        Name or path of the model to start from, ``auto`` or ``none``; see :func:`training.start.find_start`.
    network:
        Fields of :class:`NetworkConfig` to change, for experiments.
    resume:
        Continue an interrupted training of the same ``output`` and settings.
    overwrite:
        Replace an existing bundle, or an unfinished training of it.
    """

    scenes: tuple[SceneRequest, ...]
    output: Path
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    card: CardTexts = field(default_factory=CardTexts)
    start: str = AUTO
    network: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    overwrite: bool = False

    @property
    def data(self) -> str:
        """Images and labels of the training in words, for the model card."""
        named = []
        for scene in self.scenes:
            images = " + ".join(Path(p).name for p in scene.pair.arguments)
            named.append(f"{images}, labels {Path(scene.labels.path).name}")
        return self.card.data or card_text("; ".join(named))
