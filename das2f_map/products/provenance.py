"""Model, software and source of a map, as its rasters and polygons hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from das2f_map._version import __version__
from das2f_map.legend import odd_characters
from das2f_map.scene.paths import readable

_SOFTWARE: Final = "TIFFTAG_SOFTWARE"
_DESCRIPTION: Final = "TIFFTAG_IMAGEDESCRIPTION"


@dataclass(frozen=True)
class Provenance:
    """Where a map comes from; texts are empty where that is not known.

    Attributes
    ----------
    model:
        Name of the model.
    source:
        Names of the images, or of the product that they come from.
    software:
        Name and version of the program that classified.
    """

    model: str = ""
    source: str = ""
    software: str = ""

    @classmethod
    def of_run(cls, model: str, sources: Sequence[str]) -> Provenance:
        """The provenance of a map that this version makes from the images at some paths."""
        names = [PurePosixPath(readable(path.split("?")[0].rstrip("/")) or "").name for path in sources]
        return cls(_plain(model), _plain(" and ".join(n for n in names if n)), f"das2f-map {__version__}")

    @classmethod
    def of_map(cls, tags: Mapping[str, str], sources: Sequence[str]) -> Provenance:
        """The provenance of an existing map, from its metadata items and the images that its report names."""
        named = cls.of_run("", sources)
        return cls(tags.get("model", ""), named.source, tags.get("software", ""))

    def items(self) -> dict[str, str]:
        """Metadata items, without those that are not known."""
        found = {"model": self.model, "software": self.software, "source": self.source}
        return {name: text for name, text in found.items() if text}

    def tags(self) -> dict[str, str]:
        """Model and software for a GeoTIFF, with the two items that every reader of TIFF knows.

        The source is left out: the map of a product as delivered is that of its two files, to the byte.
        """
        known = replace(self, source="")
        own = {_SOFTWARE: self.software, _DESCRIPTION: known.sentence("Land-cover map")}
        return {**known.items(), **{name: text for name, text in own.items() if text}}

    def sentence(self, subject: str) -> str:
        """A description: ``Land-cover map by model m from ms.tif and pan.tif, with das2f-map 1.0``."""
        by = f" by model {self.model}" if self.model else ""
        source = f" from {self.source}" if self.source else ""
        with_ = f", with {self.software}" if self.software else ""
        return f"{subject}{by}{source}{with_}".rstrip(",")


UNKNOWN: Final = Provenance()


def _plain(text: str) -> str:
    """A text that XML and TIFF can hold."""
    return "".join("?" if odd_characters(c) else c for c in text)
