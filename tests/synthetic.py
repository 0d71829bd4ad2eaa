"""Synthetic MS + PAN pairs whose every pixel is known exactly.

A :class:`Field` is a sum of plane waves, so its average over a pixel's footprint, a parallelogram,
has a closed form: the value at the centre times a sinc for each side. Nothing is sampled, and there
is no convention (half pixels!) between the truth and the file but the footprint itself.

Use: ``from synthetic import make_pair``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import CRS as PyprojCRS
from pyproj import Transformer
from rasterio.crs import CRS

from das2f_map.scene.grid import Grid

Float64 = npt.NDArray[np.float64]

ORIGIN = (500_000.0, 5_600_000.0)
"""Upper left corner of the MS image in its CRS, if that is projected."""


@dataclass(frozen=True)
class Field:
    """Ground brightness, a sum of plane waves for each band.

    Attributes
    ----------
    kx, ky, phase, amplitude:
        float64 (bands, waves); angular frequencies per map unit of ``crs``, the same for all bands.
    mean:
        float64 (bands,).
    centre:
        Map position that phases refer to.
    crs:
        Where the waves are plane.
    """

    kx: Float64
    ky: Float64
    phase: Float64
    amplitude: Float64
    mean: Float64
    centre: tuple[float, float]
    crs: CRS

    @classmethod
    def random(
        cls,
        bands: int,
        wavelengths: tuple[float, float],
        centre: tuple[float, float],
        crs: CRS,
        seed: int = 0,
        waves: int = 16,
    ) -> Field:
        """Waves of all directions with wavelengths from shortest to longest, in map units."""
        rng = np.random.default_rng(seed)
        length = np.exp(rng.uniform(*np.log(wavelengths), size=waves))
        direction = rng.uniform(0, np.pi, size=waves)
        k = 2 * np.pi / length
        # Bands share the waves (edges are in the same place) but weigh and place them a little differently.
        amplitude = rng.uniform(0.3, 1.0, size=(bands, waves)) * (length / length.max()) ** 0.5
        amplitude *= 300.0 / np.sqrt((amplitude**2).sum(axis=1, keepdims=True) / 2)
        phase = rng.uniform(0, 2 * np.pi, size=waves) + rng.normal(0, 0.4, size=(bands, waves))
        shape = (bands, waves)
        return cls(
            np.broadcast_to(k * np.cos(direction), shape).copy(),
            np.broadcast_to(k * np.sin(direction), shape).copy(),
            phase,
            amplitude,
            2000.0 + 250.0 * np.arange(bands),
            centre,
            crs,
        )

    def panchromatic(self) -> Field:
        """The mean of the bands, as one band."""
        # The bands share their waves, so each wave's mean is again one wave.
        wave = (self.amplitude * np.exp(1j * self.phase)).mean(axis=0, keepdims=True)
        mean = self.mean.mean(keepdims=True)
        kx, ky = self.kx[:1], self.ky[:1]
        return Field(kx, ky, np.angle(wave), np.abs(wave), mean, self.centre, self.crs)

    def render(self, grid: Grid, *, gradient: bool = False) -> Float64:
        """Exact footprint averages of every pixel of a grid, float64 (bands, h, w).

        In another CRS than the field's, a footprint is the parallelogram about its projected centre.
        With ``gradient``: derivatives by row and by column, in pixels, (2, bands, h, w).
        """
        col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
        x, y = self._to_field(grid, row, col)
        ends = [self._to_field(grid, row + r, col + c) for r, c in ((0, 0.5), (0, -0.5), (0.5, 0), (-0.5, 0))]
        along_col = (ends[0][0] - ends[1][0], ends[0][1] - ends[1][1])
        along_row = (ends[2][0] - ends[3][0], ends[2][1] - ends[3][1])
        bands, waves = self.kx.shape
        out = np.zeros((2, bands, *x.shape) if gradient else (bands, *x.shape))
        for b in range(bands):
            if not gradient:
                out[b] += self.mean[b]
            for w in range(waves):
                kx, ky = self.kx[b, w], self.ky[b, w]
                by_col, by_row = (kx * v[0] + ky * v[1] for v in (along_col, along_row))
                size = self.amplitude[b, w] * np.sinc(by_col / (2 * np.pi)) * np.sinc(by_row / (2 * np.pi))
                angle = kx * x + ky * y + self.phase[b, w]
                if gradient:
                    slope = size * np.cos(angle)
                    out[0, b] += slope * by_row
                    out[1, b] += slope * by_col
                else:
                    out[b] += size * np.sin(angle)
        return out

    def _to_field(self, grid: Grid, row: Float64, col: Float64) -> tuple[Float64, Float64]:
        t = grid.transform
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        if grid.crs != self.crs:
            names = (PyprojCRS.from_wkt(c.to_wkt()) for c in (grid.crs, self.crs))
            x, y = Transformer.from_crs(*names, always_xy=True).transform(x, y)
        return x - self.centre[0], y - self.centre[1]


def write_raster(
    path: Path,
    values: npt.NDArray[np.generic],
    grid: Grid,
    *,
    dtype: str = "float32",
    nodata: float | None = None,
    names: Sequence[str] = (),
    **options: object,
) -> Path:
    """Write (bands, h, w) values as a GeoTIFF; integers are rounded."""
    if np.issubdtype(np.dtype(dtype), np.integer):
        values = np.rint(values)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=len(values),
        dtype=dtype,
        crs=grid.crs,
        transform=grid.transform,
        nodata=nodata,
        **options,
    ) as ds:
        ds.write(values.astype(dtype))
        for n, name in enumerate(names, start=1):
            ds.set_band_description(n, name)
    return path


def pair_grids(
    *,
    ms_shape: tuple[int, int] = (64, 64),
    ratio: float = 4,
    offset: tuple[float, float] = (0.0, 0.0),
    crs: str = "EPSG:32632",
    ms_gsd: float = 8.0,
    rotation: float = 0.0,
    origin: tuple[float, float] = ORIGIN,
) -> tuple[Grid, Grid]:
    """The MS and the PAN grid that :func:`make_pair` would use."""
    turn = Affine.translation(*origin) * Affine.rotation(rotation)
    ms = Grid(*ms_shape, turn * Affine.scale(ms_gsd, -ms_gsd), CRS.from_user_input(crs))
    step = ms_gsd / ratio
    corner = turn * Affine.translation(offset[1] * step, -offset[0] * step)
    size = (round(ms_shape[0] * ratio), round(ms_shape[1] * ratio))
    return ms, Grid(*size, corner * Affine.scale(step, -step), ms.crs)


def scene_field(ms: Grid, *, bands: int = 4, smooth: bool = False, seed: int = 0) -> Field:
    """The field of a pair: detail down to 5 MS pixels, or 16 if smooth."""
    unit = ms.pixel_size[0]
    wavelengths = (16 * unit, 60 * unit) if smooth else (5 * unit, 40 * unit)
    return Field.random(bands, wavelengths, ms.pixel_to_map(0, 0), ms.crs, seed)


def make_pair(
    folder: Path,
    *,
    ms_shape: tuple[int, int] = (64, 64),
    ratio: float = 4,
    bands: int = 4,
    offset: tuple[float, float] = (0.0, 0.0),
    crs: str = "EPSG:32632",
    ms_gsd: float = 8.0,
    rotation: float = 0.0,
    origin: tuple[float, float] = ORIGIN,
    pan_grid: Grid | None = None,
    nodata: float | None = None,
    ms_invalid: Sequence[tuple[slice, slice]] = (),
    pan_invalid: Sequence[tuple[slice, slice]] = (),
    dtype: str = "uint16",
    names: Sequence[str] = ("blue", "green", "red", "nir"),
    smooth: bool = False,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write ``ms.tif`` and ``pan.tif``, exact renderings of one analytic field, into a folder.

    Parameters
    ----------
    folder:
        Must exist.
    ms_shape:
        Rows and columns of MS; PAN is ``ratio`` times as many.
    ratio:
        MS over PAN pixel size.
    bands:
        MS bands; PAN is their mean.
    offset:
        Rows down and columns right, PAN pixels, from the MS corner to the PAN corner.
    crs, ms_gsd, rotation, origin:
        Of both; map units, degrees counter-clockwise, map position of the MS corner.
    pan_grid:
        In place of the PAN grid that follows from the above: any grid in any CRS.
    nodata:
        Declared in both files, and written into ``ms_invalid`` (all bands) and ``pan_invalid``:
        index expressions of each image's rows and columns.
    dtype:
        Of both files; integers round the exact values (about 1000 to 4000).
    names:
        Band descriptions, as many as there are bands.
    smooth:
        No detail under 16 MS pixels, where interpolation errors should be negligible.
    seed:
        Of the field.

    Returns
    -------
    tuple of Path
        MS and PAN file.
    """
    ms, pan = pair_grids(
        ms_shape=ms_shape,
        ratio=ratio,
        offset=offset,
        crs=crs,
        ms_gsd=ms_gsd,
        rotation=rotation,
        origin=origin,
    )
    pan = pan if pan_grid is None else pan_grid
    field = scene_field(ms, bands=bands, smooth=smooth, seed=seed)
    ms_values, pan_values = field.render(ms), field.panchromatic().render(pan)
    for values, places in ((ms_values, ms_invalid), (pan_values, pan_invalid)):
        if places and nodata is None:
            raise ValueError("invalid places need a nodata value")
        for rows, cols in places:
            values[:, rows, cols] = nodata
    ms_path = write_raster(folder / "ms.tif", ms_values, ms, dtype=dtype, nodata=nodata, names=names[:bands])
    pan_path = write_raster(folder / "pan.tif", pan_values, pan, dtype=dtype, nodata=nodata, names=["pan"])
    return ms_path, pan_path


def shift_between(out: npt.NDArray[np.float32], field: Field, grid: Grid) -> tuple[float, float]:
    """Least-squares shift (rows down, columns right; pixels of the grid) of an image against the truth."""
    truth, (by_row, by_col) = field.render(grid), field.render(grid, gradient=True)
    ok = np.isfinite(out)
    # An image moved by s down holds f(row - s): the difference to the truth is -s times the slope.
    slopes = np.stack([-by_row[ok], -by_col[ok], np.ones(ok.sum())], axis=1)
    solution = np.linalg.lstsq(slopes, out[ok] - truth[ok], rcond=None)[0]
    return float(solution[0]), float(solution[1])


def errors(out: npt.NDArray[np.float32], field: Field, grid: Grid) -> Float64:
    """Differences to the truth over the field's spread, at valid pixels."""
    truth = field.render(grid)
    ok = np.isfinite(out)
    result: Float64 = (out - truth)[ok] / truth.std()
    return result
