"""Pixels, area and confidence of each class of a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.products.areas import PixelAreas
from das2f_map.products.class_file import ClassFile
from das2f_map.products.strips import Strip, read_strips, strip_rows
from das2f_map.progress import Progress, silent
from das2f_map.scene.compiled_pixels import add_by_class, add_known_by_class, count_values
from das2f_map.scene.grid import Window
from das2f_map.types import Int64


@dataclass(frozen=True)
class ClassArea:
    """The part of a map, or of its polygons, that one class has.

    Attributes
    ----------
    pixels:
        Pixel count.
    area_m2:
        Ground area on the ellipsoid, m².
    polygons:
        Number of polygons; 0 where none were made.
    mean_confidence:
        Over the pixels, 0..1; ``None`` where it is not known.
    drawn_m2:
        Ground area of the polygons as they are simplified; ``None`` where they are exact.
    """

    pixels: int
    area_m2: float
    polygons: int = 0
    mean_confidence: float | None = None
    drawn_m2: float | None = None


class ClassSums:
    """Pixels, area and confidence of each class, added up strip by strip.

    Pixels are added one by one in the map's order, so that the sums do not depend on where strips end.
    """

    def __init__(self) -> None:
        self._pixels, self._areas, self._confidence, self._known = (np.zeros(256) for _ in range(4))

    def add(self, strip: Strip) -> None:
        """Add the pixels of the next strip."""
        self._pixels += count_values(strip.classes)
        add_by_class(strip.classes, strip.areas, self._areas)
        if strip.confidence is not None:
            add_known_by_class(strip.classes, strip.confidence, self._confidence, self._known)

    @property
    def ids(self) -> Int64:
        """Values that occur, nodata included."""
        return np.flatnonzero(self._pixels)

    @property
    def nodata_pixels(self) -> int:
        """Pixels without a class."""
        return int(self._pixels[NODATA_CLASS])

    def of(self, legend: Legend) -> dict[int, ClassArea]:
        """The sums of each class of a legend, by its id."""
        return {
            i: ClassArea(
                int(self._pixels[i]),
                float(self._areas[i]),
                mean_confidence=float(self._confidence[i] / self._known[i]) if self._known[i] else None,
            )
            for i in legend.ids
        }


def class_areas(
    class_raster: Path,
    legend: Legend,
    *,
    confidence_raster: Path | None = None,
    progress: Progress = silent,
) -> tuple[dict[int, ClassArea], int]:
    """Pixels, area and confidence of every class of the legend in a map, and the count of nodata pixels.

    Reads the files once, a strip at a time.

    Raises
    ------
    InputError
        A file cannot be read, or holds values that the legend does not know.
    """
    sums = ClassSums()
    for strip in read_strips(class_raster, confidence_raster, progress, "Measuring"):
        sums.add(strip)
    check_ids(sums.ids, legend, class_raster)
    return sums.of(legend), sums.nodata_pixels


def value_areas(file: ClassFile, progress: Progress = silent) -> dict[int, ClassArea]:
    """Pixels and area of every value of a raster of classes, whatever the values mean; nodata is left out.

    Raises
    ------
    Das2fMapError
        The file is damaged, or holds no class numbers.
    """
    grid = file.grid
    areas = PixelAreas(grid)
    pixels: dict[int, int] = {}
    ground: dict[int, float] = {}
    rows = strip_rows(grid)
    with progress("Measuring", grid.height) as advance:
        for row in range(0, grid.height, rows):
            window = Window(row, 0, min(rows, grid.height - row), grid.width)
            codes, valid = file.codes(window)
            found, place = np.unique(codes[valid], return_inverse=True)
            counts = np.bincount(place, minlength=found.size)
            sums = np.bincount(place, areas.of(window)[valid], minlength=found.size)
            for code, count, area in zip(found.tolist(), counts.tolist(), sums.tolist(), strict=True):
                pixels[code] = pixels.get(code, 0) + count
                ground[code] = ground.get(code, 0.0) + area
            advance(window.height)
    return {code: ClassArea(pixels[code], ground[code]) for code in sorted(pixels)}


def check_ids(ids: Int64, legend: Legend, raster: Path) -> None:
    """Raise :class:`InputError` for values of a map that its legend lacks."""
    if unknown := sorted({*ids.tolist()} - {NODATA_CLASS, *legend.ids}):
        raise InputError(
            f"{raster.name} holds values that the legend does not know: {', '.join(map(str, unknown))}",
            "give the legend that belongs to this map",
        )
