"""A layer of a vector file, as its reader describes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A layer of a vector file.

    Attributes
    ----------
    name:
        Its name.
    geometry:
        GDAL's geometry type, such as ``Polygon`` or ``Unknown``.
    crs:
        As pyogrio gives it; ``None`` if there is none.
    fields, dtypes:
        Names of the attributes, and NumPy's types.
    booleans:
        Fields of truth values, also where the type says otherwise.
    features:
        Number of features; -1 if it is not known.
    """

    name: str
    geometry: str
    crs: str | None
    fields: tuple[str, ...]
    dtypes: tuple[str, ...]
    booleans: frozenset[str]
    features: int

    def dtype_of(self, field: str) -> str:
        """NumPy's type of an attribute."""
        return self.dtypes[self.fields.index(field)]

    @property
    def holds_areas(self) -> bool:
        """Whether the layer may hold polygons."""
        return "Line" not in self.geometry and "Point" not in self.geometry and self.features != 0

    @property
    def holds_areas_or_points(self) -> bool:
        """Whether the layer may hold polygons or points."""
        return "Line" not in self.geometry and self.features != 0
