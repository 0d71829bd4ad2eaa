"""An image that GDAL composes of other files while it reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VirtualImage:
    """An image without a file of its own. Can be pickled; any process can open it.

    Attributes
    ----------
    name:
        Name for messages and reports.
    xml:
        GDAL's description of the image, a VRT document. It names the files that the pixels come from.
    """

    name: str
    xml: str

    def __str__(self) -> str:
        return self.name
