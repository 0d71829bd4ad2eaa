"""Pictures of a map for a page: PNG inside the page, with scale bar, north arrow and CRS as text and SVG."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import rasterio
import rasterio.errors
from numpy.typing import NDArray
from rasterio.coords import BoundingBox
from rasterio.enums import Resampling

from das2f_map.assess.error_places import ErrorPlaces
from das2f_map.errors import InputError
from das2f_map.legend import NODATA_CLASS, Legend
from das2f_map.pages.charts import RIGHT, WRONG, mixed
from das2f_map.pages.elements import Html, el
from das2f_map.products.map_figure import crs_title, ground_of, north_up, pixel_title, round_length
from das2f_map.scene.grid import Grid
from das2f_map.types import Float32, UInt8

_SHARP = 900
"""Pixels of a picture's longer side: smaller ones are enlarged by whole factors, to stay sharp."""

_TALLEST_REM = 40.0
"""Greatest height of a picture on the page, in sizes of its text."""

_SMALL_MAP = 50_000_000
"""Pixels up to which a raster without overviews is averaged; of a larger one single pixels are taken."""

CONFIDENCE_RAMP = ("#40004b", "#762a83", "#9970ab", "#c2a5cf", "#e7d4e8", "#d9f0d3", "#7fbf7b", "#1b7837")
"""Colours of confidence from low to high, the same steps apart; they differ for colour-blind readers."""


@dataclass(frozen=True, eq=False)
class MapPicture:
    """The place of a map's picture on the ground.

    Attributes
    ----------
    grid:
        Of the picture before it is turned north up.
    full:
        The file's grid.
    bounds:
        Of the picture with north up, in CRS units.
    """

    grid: Grid
    full: Grid
    bounds: BoundingBox

    @classmethod
    def of(cls, grid: Grid, full: Grid) -> MapPicture:
        """The place of a picture with a grid."""
        xs, ys = zip(*grid.corners(), strict=True)
        return cls(grid, full, BoundingBox(min(xs), min(ys), max(xs), max(ys)))

    @property
    def ratio(self) -> float:
        """Width over height on the ground."""
        ground, b = ground_of(self.grid), self.bounds
        return float((b.right - b.left) * ground.along_x / ((b.top - b.bottom) * ground.along_y))

    def figure(self, image: UInt8, alt: str, *under: object, over: Html | None = None) -> Html:
        """A picture with its scale bar.

        Parameters
        ----------
        image:
            RGBA uint8 (h, w, 4) on the grid, transparent where there are no data.
        alt:
            The picture in words.
        under:
            The caption.
        over:
            SVG elements in the units of :meth:`position`.
        """
        ratio = min(max(self.ratio, 0.05), 20.0)
        link = _png(north_up(image, self.grid)[0])
        if over is None:
            shape = f"aspect-ratio:{ratio:.5g}"
            picture = el("img", src=link, alt=alt, class_="ground", style=shape)
        else:
            height = 1000 / ratio
            base = el("image", href=link, width="1000", height=f"{height:.2f}", preserveAspectRatio="none")
            picture = el(
                "svg",
                base,
                over,
                viewBox=f"0 0 1000 {height:.2f}",
                class_="ground",
                role="img",
                aria_label=alt,
            )
        frame = el(
            "div",
            picture,
            self._below(),
            class_="frame",
            style=f"width:min(100%,{_TALLEST_REM * ratio:.4g}rem)",
        )
        return el("figure", frame, el("figcaption", *under) if under else None)

    def position(self, row: float, col: float) -> tuple[float, float]:
        """Place of a pixel position of the file in the picture: x from 0 to 1000, y down in the same unit."""
        x, y = self.full.pixel_to_map(row, col)
        b = self.bounds
        return (
            1000 * (x - b.left) / (b.right - b.left),
            1000 / self.ratio * (b.top - y) / (b.top - b.bottom),
        )

    @property
    def words(self) -> str:
        """Size, pixel and CRS of the map."""
        side = " × ".join(f"{n:,}" for n in (self.full.width, self.full.height))
        return f"{side} pixels of {pixel_title(self.full)}, {crs_title(self.full)}"

    def _below(self) -> Html:
        """Scale bar and north arrow. The bar's length is a share of the picture, so it holds at any size."""
        ground, b = ground_of(self.grid), self.bounds
        across = (b.right - b.left) * ground.along_x
        length = round_length(across / 3)
        parts = [
            el("rect", x=25 * k, y="0", width="25", height="7", fill="#1d2731" if k % 2 == 0 else "#ffffff")
            for k in range(4)
        ]
        frame = el(
            "rect",
            x="0",
            y="0",
            width="100",
            height="7",
            fill="none",
            stroke="#1d2731",
            vector_effect="non-scaling-stroke",
        )
        bar = el("svg", *parts, frame, viewBox="0 0 100 7", preserveAspectRatio="none", aria_hidden="true")
        words = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
        turn = math.degrees(ground.north)
        arrow = el(
            "svg",
            el("path", d="M0 -9 L4.5 8 L0 4.5 L-4.5 8 Z", fill="#1d2731", transform=f"rotate({turn:.1f})"),
            viewBox="-10 -10 20 20",
            width="18",
            height="18",
            role="img",
            aria_label="arrow to the north",
        )
        return el(
            "div",
            el("div", bar, words, class_="scale", style=f"width:{100 * length / across:.3f}%"),
            el("div", "N ", arrow),
            class_="below",
        )


def class_picture(classes: UInt8, legend: Legend | None, *, pale: bool = False) -> UInt8:
    """RGBA uint8 (h, w, 4) of a class map, nodata transparent; pale as a ground for marks."""
    colours = np.zeros((256, 4), np.uint8)
    for c in legend.each() if legend else ():
        shown = mixed(c.color, "#ffffff", 0.72) if pale else c.color
        colours[c.id] = (*(int(shown[i : i + 2], 16) for i in (1, 3, 5)), 255)
    return colours[classes]


def value_picture(values: Float32, low: float, high: float) -> UInt8:
    """RGBA uint8 (h, w, 4) of values in the colours of :data:`CONFIDENCE_RAMP`, NaN transparent."""
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / max(high - low, 1e-9)
    step = np.clip(share * len(CONFIDENCE_RAMP), 0, len(CONFIDENCE_RAMP) - 1).astype(np.int64)
    inks = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] + [255] for c in CONFIDENCE_RAMP], np.uint8)
    picture: UInt8 = inks[step]
    picture[~known] = 0
    return picture


def read_values(path: Path, max_pixels: int) -> tuple[Float32, Grid, Grid]:
    """The first band of a raster at reduced size: float32 (h, w) with NaN for nodata, its grid, the file's.

    Raises :class:`InputError` if the file cannot be read.
    """
    try:
        with rasterio.open(path) as dataset:
            full = Grid.from_rasterio(dataset)
            factor = max(1.0, math.sqrt(full.height * full.width / max_pixels))
            height, width = (max(1, math.floor(n / factor)) for n in (full.height, full.width))
            whole = full.height * full.width <= _SMALL_MAP or bool(dataset.overviews(1))
            method = Resampling.average if whole and factor > 1 else Resampling.nearest
            values = dataset.read(1, out_shape=(height, width), resampling=method, masked=True)
    except (rasterio.errors.RasterioIOError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as a raster: {error.__cause__ or error}") from error
    scale = rasterio.Affine.scale(full.width / width, full.height / height)
    found = np.ma.filled(values.astype(np.float32), np.nan)
    return found, Grid(height, width, full.transform * scale, full.crs), full


def places_over(places: ErrorPlaces, picture: MapPicture) -> Html:
    """A circle for each place with reference pixels: its area by their number, its colour by their errors."""
    marks = []
    most = max((p.right + p.wrong for p in places.places), default=1)
    # Many first, so that small circles lie on top; of equal ones, those with errors.
    for p in sorted(places.places, key=lambda p: (-(p.right + p.wrong), p.wrong)):
        x, y = picture.position(p.row, p.col)
        size = 5 + 9 * ((p.right + p.wrong) / most) ** 0.5
        share = p.wrong / (p.right + p.wrong)
        fill = RIGHT if share == 0 else mixed("#f5b400", WRONG, share)
        marks.append(
            el(
                "circle",
                cx=f"{x:.1f}",
                cy=f"{y:.1f}",
                r=f"{size:.1f}",
                fill=fill,
                fill_opacity="0.55" if share == 0 else "0.95",
                stroke="#ffffff" if share == 0 else "#1d2731",
                stroke_width="1.5" if share == 0 else "2",
            )
        )
    return el("g", *marks)


def _png(image: NDArray[np.uint8]) -> str:
    """A picture as the address of itself."""
    factor = max(1, _SHARP // max(image.shape[:2]))
    sharp = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    held = io.BytesIO()
    matplotlib.image.imsave(held, sharp, format="png", metadata={"Software": "das2f-map"})
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def has_nodata(classes: UInt8) -> bool:
    """Whether a picture of classes has pixels without one."""
    return bool((classes == NODATA_CLASS).any())
