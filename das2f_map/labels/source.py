"""The interface that every kind of label file has: classes of a window of a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from das2f_map.errors import LabelError
from das2f_map.legend import Legend
from das2f_map.scene.grid import Window
from das2f_map.types import UInt8


@dataclass(frozen=True)
class LabelBlock:
    """Classes of a window.

    ``classes`` is uint8 ``(height, width)``, 0 where unlabelled; ``contested`` counts the pixels
    that are 0 because different classes claim them, ``zeros`` those that are 0 because the file has the
    value 0 there without a word that it is nodata.
    """

    classes: UInt8
    contested: int
    zeros: int = 0


class LabelSource(ABC):
    """An open label file, read as windows of the grid it was opened for."""

    legend: Legend
    """Classes in the file; those without a name are called ``class 1`` and so on."""

    codes: dict[int, int] | None
    """The file's own numbers and the class id of each; ``None`` if it has names alone."""

    unlabelled: tuple[int, ...] = (0,)
    """Values that count as no label though the file does not declare them as nodata."""

    @abstractmethod
    def read(self, window: Window) -> LabelBlock:
        """The classes of a window of the grid."""

    @abstractmethod
    def windows(self, candidates: Iterable[Window]) -> Iterator[Window]:
        """The windows among ``candidates`` that can hold labels."""

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Release the file."""

    def __enter__(self) -> LabelSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def outside_scene(label: str) -> LabelError:
    """The error for labels elsewhere; ``label`` are words for the file."""
    return LabelError(
        f"{label} lie outside the images",
        "check that they show the same place and that the label file's CRS is right",
    )
