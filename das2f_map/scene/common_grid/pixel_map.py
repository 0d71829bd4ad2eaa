"""Where the pixels of one grid lie in another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from affine import Affine
from pyproj import Transformer
from pyproj.enums import TransformDirection

from das2f_map.scene.antimeridian import moved_beside, near
from das2f_map.scene.grid import Grid, Window
from das2f_map.types import Float64

_LATTICE = 16
"""Target pixels between exactly projected points. The bilinear error between them, in target pixels, is
about ``_LATTICE**2 * pixel size / (8 * Earth's radius)``: 1e-4 for 30 m."""


class PixelMap(Protocol):
    """Where target pixels lie in the source: both in pixels, whole grid, pixel edges at integers."""

    @property
    def source(self) -> Grid:
        """The grid that is read."""

    @property
    def separable(self) -> AxisMaps | None:
        """The two axes by themselves if rows depend on rows only; else ``None``."""

    @property
    def footprint(self) -> tuple[float, float]:
        """Height and width, in source pixels, of the upright box that stands for a target's footprint."""

    @property
    def bounding(self) -> tuple[float, float]:
        """Height and width, in source pixels, of the upright box that holds a target's footprint."""

    @property
    def local(self) -> tuple[Affine, ...]:
        """Target ``(col, row)`` to source ``(col, row)``, as affine maps that hold in parts of the grid."""

    def positions(self, row: Float64, col: Float64) -> tuple[Float64, Float64]:
        """Source row and column of target positions (arrays of equal shape); NaN where undefined."""

    def centres(self, window: Window) -> tuple[Float64, Float64]:
        """Source row and column, float64 (height, width), of the centres of target pixels."""


@dataclass(frozen=True)
class AxisMaps:
    """``source = scale * target + start`` for rows and for columns."""

    row_scale: float
    row_start: float
    col_scale: float
    col_start: float


@dataclass(frozen=True)
class AffineMap:
    """Target and source grids in one CRS.

    Parameters
    ----------
    matrix:
        Target ``(col, row)`` to source ``(col, row)``.
    target, source:
        The grids; the target's size decides whether a rotation matters.
    """

    matrix: Affine
    target: Grid
    source: Grid

    @classmethod
    def between(cls, target: Grid, source: Grid) -> AffineMap:
        """The map from ``target`` to ``source`` by their transforms, and around the world if need be."""
        source = moved_beside(source, target)
        return cls(~source.transform * target.transform, target, source)

    @property
    def separable(self) -> AxisMaps | None:
        m = self.matrix
        drift = max(abs(m.b) * self.target.height, abs(m.d) * self.target.width)
        if drift > 1e-3 or m.a <= 0 or m.e <= 0:
            return None
        return AxisMaps(m.e, m.f, m.a, m.c)

    @property
    def footprint(self) -> tuple[float, float]:
        m = self.matrix
        return math.hypot(m.d, m.e), math.hypot(m.a, m.b)

    @property
    def bounding(self) -> tuple[float, float]:
        m = self.matrix
        return abs(m.d) + abs(m.e), abs(m.a) + abs(m.b)

    @property
    def local(self) -> tuple[Affine, ...]:
        return (self.matrix,)

    def positions(self, row: Float64, col: Float64) -> tuple[Float64, Float64]:
        m = self.matrix
        return m.d * col + m.e * row + m.f, m.a * col + m.b * row + m.c

    def centres(self, window: Window) -> tuple[Float64, Float64]:
        row = np.arange(window.row, window.row_stop, dtype=np.float64)[:, None] + 0.5
        col = np.arange(window.col, window.col_stop, dtype=np.float64)[None, :] + 0.5
        return self.positions(row, col)


@dataclass(frozen=True)
class ProjectedMap:
    """Target and source grids in different CRSs.

    Parameters
    ----------
    target, source:
        The grids.
    transformer:
        Between the two CRSs, x before y.
    direction:
        ``INVERSE`` for a transformer from the source's CRS to the target's.
    """

    target: Grid
    source: Grid
    transformer: Transformer
    direction: TransformDirection = TransformDirection.FORWARD

    @property
    def separable(self) -> AxisMaps | None:
        return None

    @property
    def footprint(self) -> tuple[float, float]:
        return AffineMap(self._jacobian(), self.target, self.source).footprint

    @property
    def bounding(self) -> tuple[float, float]:
        return AffineMap(self._jacobian(), self.target, self.source).bounding

    @property
    def local(self) -> tuple[Affine, ...]:
        corners = [(r, c) for r in (0, self.target.height) for c in (0, self.target.width)]
        found = [self._jacobian(), *(local_affine(self, row, col) for row, col in corners)]
        # A corner may lie where the projection is not defined.
        return tuple(m for m in found if math.isfinite(m.determinant))

    @cached_property
    def _middle(self) -> float:
        """x of the target grid's middle in the source's CRS, within half a turn of the source's middle."""
        x, y = self.target.pixel_to_map(self.target.height / 2, self.target.width / 2)
        there = float(self.transformer.transform(x, y, direction=self.direction)[0])
        centre = self.source.pixel_to_map(self.source.height / 2, self.source.width / 2)[0]
        return float(near(there, centre, self.source.crs)) if math.isfinite(there) else centre

    def _jacobian(self) -> Affine:
        """Affine approximation about the middle of the target grid."""
        return local_affine(self, self.target.height / 2, self.target.width / 2)

    def positions(self, row: Float64, col: Float64) -> tuple[Float64, Float64]:
        t, inverse = self.target.transform, ~self.source.transform
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        x, y = self.transformer.transform(x, y, direction=self.direction)
        # About the middle: neighbours stay neighbours, also over the seam of a source around the world.
        x = near(x, self._middle, self.source.crs)
        with np.errstate(invalid="ignore"):
            u = inverse.a * x + inverse.b * y + inverse.c
            v = inverse.d * x + inverse.e * y + inverse.f
        bad = ~(np.isfinite(u) & np.isfinite(v))
        return np.where(bad, np.nan, v), np.where(bad, np.nan, u)

    def centres(self, window: Window) -> tuple[Float64, Float64]:
        rows = np.arange(window.row // _LATTICE, -(-window.row_stop // _LATTICE) + 1)
        cols = np.arange(window.col // _LATTICE, -(-window.col_stop // _LATTICE) + 1)
        node_row, node_col = np.meshgrid(rows * float(_LATTICE), cols * float(_LATTICE), indexing="ij")
        nodes = self.positions(node_row, node_col)
        r = (np.arange(window.row, window.row_stop) + 0.5) / _LATTICE
        c = (np.arange(window.col, window.col_stop) + 0.5) / _LATTICE
        r0, c0 = np.floor(r).astype(int), np.floor(c).astype(int)
        fr, fc = (r - r0)[:, None], (c - c0)[None, :]
        ri, ci = r0 - rows[0], c0 - cols[0]

        def between(node: Float64) -> Float64:
            along = node[:, ci] * (1.0 - fc) + node[:, ci + 1] * fc
            result: Float64 = along[ri] * (1.0 - fr) + along[ri + 1] * fr
            return result

        return between(nodes[0]), between(nodes[1])


def local_affine(mapping: ProjectedMap, row: float, col: float) -> Affine:
    """Affine approximation of a projected map about a target position, target to source ``(col, row)``."""
    h = 0.5
    v, u = mapping.positions(np.array([row, row, row - h, row + h]), np.array([col - h, col + h, col, col]))
    a, d = float(u[1] - u[0]), float(v[1] - v[0])
    b, e = float(u[3] - u[2]), float(v[3] - v[2])
    at_row, at_col = float(v[:2].mean()), float(u[:2].mean())
    return Affine(a, b, at_col - a * col - b * row, d, e, at_row - d * col - e * row)
