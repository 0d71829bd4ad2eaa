"""The package's own resampler and GDAL's WarpedVRT on the same pixels: errors, shifts, nodata, classes, cost.

    python benchmarks/resampling.py [SCENES]

SCENES holds a folder with ms.tif and pan.tif for each real scene, gulf's with labels.gpkg. Without it
the parts that need real scenes are skipped, and their last results stay in the output.

Truth is exact: closed formulas for analytic fields, and for real content the averages of finer pixels. GDAL
gets float32 values, a transformer exact to 1e-4 pixel (rasterio fails with a tolerance of 0) and the true
scale, which it would otherwise guess for each chunk; "as it comes" is GDAL without the last two.

Writes resampling.json and the tables of docs/resampling-evidence.md; into another folder, resampling.md too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import common
import geopandas
import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow
from scipy import ndimage

sys.path.append(str(common.ROOT / "tests"))

from synthetic import Field, pair_grids, scene_field, write_raster

from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.fit import SceneViews
from das2f_map.bundle.model import ModelBundle
from das2f_map.engines import Engine
from das2f_map.engines.choose import EngineChoice, make_engine
from das2f_map.engines.memory import BLOCK_SIZE
from das2f_map.running.blocks import BlockClassifier
from das2f_map.scene import pair as scene_pair
from das2f_map.scene.common_grid.pixel_map import AffineMap, PixelMap
from das2f_map.scene.common_grid.plan import plan_pair
from das2f_map.scene.common_grid.resample import resample
from das2f_map.scene.common_grid.shift import PanShift
from das2f_map.scene.grid import PAN_PER_MS, Grid, Window, blocks_of
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair
from das2f_map.scene.radiometry import sample_scene
from das2f_map.scene.source import RasterSource

NAME: Final = "resampling"
PAGE: Final = common.ROOT / "docs" / "resampling-evidence.md"
UTM: Final = CRS.from_epsg(32632)
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]
Read = Callable[[Window], Float32]
Resampler = Callable[[Read, PixelMap, Window], Float32]


# --- the resamplers --------------------------------------------------------------------------------------


class ByGdal:
    """Windows of a ``WarpedVRT`` on the target grid, called as :func:`resample` is. Close it after use.

    Parameters
    ----------
    method:
        GDAL's resampling method.
    tuned:
        With an exact transformer and the true scale, see the module's note.
    """

    def __init__(self, method: Resampling, *, tuned: bool = True) -> None:
        self._method, self._tuned = method, tuned
        self._open: dict[tuple[str, Affine], Any] = {}
        self._stack = ExitStack()

    def __call__(self, read: Read, mapping: PixelMap, window: Window) -> Float32:
        source: RasterSource = read.__self__  # type: ignore[attr-defined]  # a bound method here
        target = mapping.target  # type: ignore[attr-defined]  # of both kinds made here
        crs, transform = target.crs, target.transform
        if isinstance(mapping, AffineMap):
            # A shift of the contents is in the matrix alone.
            crs, transform = source.grid.crs, source.grid.transform * mapping.matrix
        key = (source.path, transform)
        if key not in self._open:
            file = self._stack.enter_context(rasterio.open(source.path))
            rows, cols = mapping.footprint
            scale = {"tolerance": 1e-4, "XSCALE": min(1.0, 1 / cols), "YSCALE": min(1.0, 1 / rows)}
            self._open[key] = self._stack.enter_context(
                WarpedVRT(
                    file,
                    crs=crs,
                    transform=transform,
                    width=target.width,
                    height=target.height,
                    resampling=self._method,
                    dtype="float32",
                    src_nodata=file.nodata,
                    nodata=np.nan,
                    **(scale if self._tuned else {}),
                )
            )
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        values: Float32 = self._open[key].read(window=place)
        return values

    def close(self) -> None:
        """Close all files."""
        self._open.clear()
        self._stack.close()


def own(read: Read, mapping: PixelMap, window: Window) -> Float32:
    """The package's resampler."""
    return resample(read, mapping, window)


METHODS: Final = {
    "cubic": Resampling.cubic,
    "lanczos": Resampling.lanczos,
    "bilinear": Resampling.bilinear,
    "average": Resampling.average,
}
WAYS: Final = ("own", *METHODS)
AS_IT_COMES: Final = "cubic, as it comes"

KERNEL: Final = 4.5
"""Source pixels that the widest kernel reaches: Lanczos's three, stretched for targets 1.5 times as large."""


@contextmanager
def resampler(way: str) -> Iterator[Resampler]:
    """A resampler by its name in :data:`WAYS`, or :data:`AS_IT_COMES`."""
    if way == "own":
        yield own
        return
    tuned = way != AS_IT_COMES
    with closing(ByGdal(METHODS[way if tuned else "cubic"], tuned=tuned)) as found:
        yield found


# --- figures of one image --------------------------------------------------------------------------------


def figures(
    found: Float64, truth: Float64, slopes: Float64, where: Bool, pan_pixels: float = 1.0
) -> dict[str, float]:
    """Errors and shift of an image against the truth.

    Parameters
    ----------
    found, truth:
        (h, w).
    slopes:
        (2, h, w): derivatives of the truth by row and by column, in pixels.
    where:
        bool (h, w): pixels that count.
    pan_pixels:
        PAN pixels in a pixel, either way.

    Returns
    -------
    ``rms`` and ``largest`` error over the truth's standard deviation, and ``rows`` and ``cols``, the
    least-squares shift in PAN pixels, down and to the right.
    """
    left = (found - truth)[where]
    # An image moved by s down holds f(row - s): its difference to the truth is -s times the slope.
    basis = np.stack([-slopes[0][where], -slopes[1][where], np.ones(left.size)], axis=1)
    rows, cols, _ = np.linalg.lstsq(basis, left, rcond=None)[0]
    contrast = truth[where].std()
    return {
        "rms": float(np.sqrt(np.mean(left**2)) / contrast),
        "largest": float(np.abs(left).max() / contrast),
        "rows": float(rows * pan_pixels),
        "cols": float(cols * pan_pixels),
    }


def inner(images: Sequence[Float64], margin: int) -> Bool:
    """Pixels that are valid in all images, and so is everything within ``margin`` pixels: bool (h, w)."""
    valid = np.logical_and.reduce([np.isfinite(image) for image in images])
    around = np.ones((2 * margin + 1, 2 * margin + 1), dtype=np.bool_)
    return np.asarray(ndimage.binary_erosion(valid, around, border_value=0))


def ground_average(ground: Float64, matrix: Affine, shape: tuple[int, int], steps: int = 12) -> Float64:
    """Averages of ground made of square pixels over the footprints of target pixels, (h, w).

    ``matrix`` takes target ``(col, row)`` to ground ``(col, row)``. ``steps`` × ``steps`` points stand for a
    footprint: exact where an upright target pixel is 1, 2, 3, 4, 6 or 12 whole ground pixels wide, and good
    to a few thousandths of a pixel's area elsewhere. NaN where a footprint leaves the ground.
    """
    total = np.zeros(shape)
    row, col = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    within = (np.arange(steps) + 0.5) / steps
    h, w = ground.shape
    for v in within:
        for u in within:
            x = matrix.a * (col + u) + matrix.b * (row + v) + matrix.c
            y = matrix.d * (col + u) + matrix.e * (row + v) + matrix.f
            c, r = np.floor(x).astype(int), np.floor(y).astype(int)
            on = (r >= 0) & (r < h) & (c >= 0) & (c < w)
            total += np.where(on, ground[r.clip(0, h - 1), c.clip(0, w - 1)], np.nan)
    return total / steps**2


def target_pixels(source_pixels: float, mapping: PixelMap) -> int:
    """Target pixels, rounded up, that cover some source pixels."""
    return int(np.ceil(source_pixels / min(mapping.footprint))) + 1


# --- against analytic footprints -------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An MS and a PAN grid, by the arguments of :func:`pair_grids`.

    ``pan``: CRS, pixel size and rotation of a PAN grid about the middle of MS. ``shift`` is corrected.
    """

    name: str
    grids: Mapping[str, Any] = field(default_factory=dict)
    pan: tuple[str, float, float] | None = None
    shift: PanShift | None = None

    def pair(self) -> tuple[Grid, Grid]:
        """MS and PAN grid."""
        ms, pan = pair_grids(**self.grids)
        if self.pan is None:
            return ms, pan
        crs, pixel, rotation = self.pan
        target = CRS.from_user_input(crs)
        to = Transformer.from_crs(ms.crs.to_wkt(), target.to_wkt(), always_xy=True)
        x, y = to.transform(*ms.pixel_to_map(ms.height / 2, ms.width / 2))
        # As wide as three quarters of MS.
        metres = pixel if target.is_projected else 90_000 * pixel
        n = round(0.75 * ms.height * ms.pixel_size[0] / metres)
        turn = Affine.translation(x, y) * Affine.rotation(rotation) * Affine.scale(pixel, -pixel)
        return ms, Grid(n, n, turn * Affine.translation(-n / 2, -n / 2), target)


LANDSAT: Final = Case("ratio 2, half a PAN pixel off (Landsat)", {"ratio": 2, "offset": (-0.5, -0.5)})
QUARTER: Final = Case("ratio 2, a quarter of a PAN pixel off", {"ratio": 2, "offset": (0.25, -0.25)})
COARSER: Final = Case("ratio 6, a quarter of a PAN pixel off", {"ratio": 6, "offset": (0.25, -0.25)})
FRACTION: Final = Case("ratio 4, a quarter of a PAN pixel off", {"offset": (0.25, -0.25)})
TURNED: Final = Case("ratio 2, PAN turned by 25°", pan=("EPSG:32632", 4.0, 25.0))
ZONE: Final = Case("ratio 2, PAN in the next UTM zone", pan=("EPSG:32633", 4.0, 0.0))
CASES: Final = (
    LANDSAT,
    QUARTER,
    Case("ratio 2, both turned by 25°", {"ratio": 2, "offset": (0.25, -0.25), "rotation": 25}),
    TURNED,
    ZONE,
    Case("ratio 2, PAN in degrees", pan=("EPSG:4326", 4.0 / 90_000, 0.0)),
    Case("ratio 2, shift of 1.29 corrected", QUARTER.grids, shift=PanShift(-0.54, -1.17)),
    Case("ratio 3, turned by 3°", pan=("EPSG:32632", 8 / 3, 3.0)),
    COARSER,
    Case("ratio 4, half a PAN pixel off", {"offset": (0.5, -0.5)}),
    FRACTION,
    Case("ratio 4.00025, shift of 1.29 corrected", {"ratio": 4.00025}, shift=PanShift(-0.54, -1.17)),
)


@dataclass(frozen=True)
class Task:
    """One image to be resampled.

    Attributes
    ----------
    source:
        Its file, open.
    mapping, target:
        Where the pixels of the target grid lie in the source, and that grid.
    content:
        Ground brightness, one band.
    truth:
        The grid whose footprints the resampled pixels should hold: the target's, but for a shift.
    pan_pixels:
        PAN pixels of the common grid in a target pixel.
    """

    source: RasterSource
    mapping: PixelMap
    target: Grid
    content: Field
    truth: Grid
    pan_pixels: int

    def expected(self) -> tuple[Float64, Float64]:
        """Exact footprint averages (h, w), and their derivatives by row and by column (2, h, w)."""
        return self.content.render(self.truth)[0], self.content.render(self.truth, gradient=True)[:, 0]

    def run(self, way: str) -> Float64:
        """The whole target grid, (h, w)."""
        with resampler(way) as by:
            return by(self.source.read, self.mapping, self.target.window)[0].astype(np.float64)


@contextmanager
def prepared(
    case: Case, folder: Path, *, side: int, holes: Sequence[tuple[slice, slice]] = ()
) -> Iterator[Task]:
    """Write the image of a case that is resampled, of ``side`` MS pixels, with nodata in its ``holes``."""
    case = Case(case.name, {**case.grids, "ms_shape": (side, side)}, case.pan, case.shift)
    ms, pan = case.pair()
    plan = plan_pair(ms, pan, shift=case.shift)
    content = scene_field(ms)
    moved = case.shift or PanShift(0.0, 0.0)
    if plan.pan_map is not None:
        grid, mapping, target, content = pan, plan.pan_map, plan.grids.pan, content.panchromatic()
        fine = [PAN_PER_MS * s / r for s, r in zip((moved.rows, moved.cols), plan.axis_ratios, strict=True)]
        truth, pan_pixels = target.moved(*fine), 1
    else:
        assert plan.ms_map is not None  # a case where nothing is resampled shows nothing
        content = Field(*(v[:1] for v in _waves(content)), content.centre, content.crs)
        grid, mapping, target = ms, plan.ms_map, plan.grids.ms
        rows, cols = (s / r for s, r in zip((moved.rows, moved.cols), plan.axis_ratios, strict=True))
        truth, pan_pixels = target.moved(-rows, -cols), PAN_PER_MS
    values = content.render(grid)
    for rows_, cols_ in holes:
        values[:, rows_, cols_] = 0.0
    path = write_raster(folder / "source.tif", values, grid, nodata=0.0)
    with RasterSource(path, "PAN") as source:
        yield Task(source, mapping, target, content, truth, pan_pixels)


def _waves(content: Field) -> tuple[Float64, ...]:
    return content.kx, content.ky, content.phase, content.amplitude, content.mean


def against_analytic(side: int) -> list[dict[str, Any]]:
    """Figures of every case and way, of the pixels that no border touches."""
    results = []
    for case in CASES:
        with TemporaryDirectory() as folder, prepared(case, Path(folder), side=side) as task:
            truth, slopes = task.expected()
            images = {way: task.run(way) for way in WAYS}
            where = inner(list(images.values()), target_pixels(KERNEL, task.mapping))
            scale = task.pan_pixels
            found = {way: figures(image, truth, slopes, where, scale) for way, image in images.items()}
            results.append({"case": case.name, "ways": found})
        common.say(case.name)
    return results


# --- against the averages of finer real pixels -----------------------------------------------------------

SCENES: Final = ("gulf", "caldern", "rotterdam1", "berlin", "zion")
CROP: Final = 640
"""PAN pixels a side of the middle of a scene."""


@dataclass(frozen=True)
class Content:
    """PAN pixels of a real scene as ground: ``source`` × ``source`` of them make a pixel of the image that is
    resampled, ``target`` × ``target`` one of the result, which begins ``offset`` ground pixels in."""

    name: str
    source: int
    target: int
    offset: float = 0.0
    rotation: float = 0.0
    pan_pixels: int = 1


CONTENTS: Final = (
    Content("ratio 2, half a PAN pixel off", 4, 2),
    Content("ratio 2, turned by 25°", 4, 2, rotation=25.0),
    Content("ratio 4, a quarter of an MS pixel off", 4, 4, offset=1.0, pan_pixels=PAN_PER_MS),
    Content("ratio 6", 2, 3),
)


def against_content(scenes: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Figures of every scene, content case and way."""
    results = []
    for name in names:
        with rasterio.open(scenes / name / "pan.tif") as file:
            h, w = (min(CROP, side) for side in file.shape)
            top, left = (file.height - h) // 2, (file.width - w) // 2
            ground = file.read(1, window=RasterioWindow(left, top, w, h)).astype(np.float64)
            assert file.nodata is None or (ground != file.nodata).all()
        for content in CONTENTS:
            results.append({"scene": name, "case": content.name, "ways": _content_figures(ground, content)})
        common.say(f"content of {name}")
    return results


def _content_figures(ground: Float64, content: Content) -> dict[str, dict[str, float]]:
    scale, size = content.source, content.target
    on_map = Affine.translation(*pair_grids()[0].pixel_to_map(0, 0)) * Affine.scale(1, -1)
    h, w = (side // scale for side in ground.shape)
    source = Grid(h, w, on_map * Affine.scale(scale), UTM)
    middle = (ground.shape[1] / 2, ground.shape[0] / 2)
    matrix = Affine.translation(content.offset, content.offset) * Affine.scale(size)
    if content.rotation:
        matrix = Affine.translation(*middle) * Affine.rotation(content.rotation) * Affine.scale(size)
        matrix *= Affine.translation(-middle[0] / size, -middle[1] / size)
    shape = tuple(int((side - content.offset) // size) for side in ground.shape)
    target = Grid(shape[0], shape[1], on_map * matrix, UTM)
    truth = ground_average(ground, matrix, (target.height, target.width))
    averages = ground_average(ground, Affine.scale(scale), (h, w))
    with TemporaryDirectory() as folder:
        path = write_raster(Path(folder) / "source.tif", averages[None], source, nodata=-9999.0)
        with RasterSource(path, "PAN") as file:
            task = Task(file, AffineMap.between(target, source), target, scene_field(source), target, 1)
            images = {way: task.run(way) for way in WAYS}
    where = inner([truth, *images.values()], target_pixels(KERNEL, task.mapping))
    slopes = np.stack(np.gradient(truth))
    pan_pixels = content.pan_pixels
    return {way: figures(image, truth, slopes, where, pan_pixels) for way, image in images.items()}


# --- nodata ----------------------------------------------------------------------------------------------

HOLES: Final = (
    (slice(20, 31), slice(17, 40)),
    *((slice(r, r + 1), slice(c, c + 1)) for r in range(36, 58, 7) for c in range(36, 58, 7)),
    *((slice(8 + k, 9 + k), slice(30 + k, 33 + k)) for k in range(9)),
)
"""Of the image that is resampled: a field, single pixels, a slanted strip."""

NODATA_CASES: Final = (LANDSAT, QUARTER, TURNED, COARSER, FRACTION)


def invalid_pixels(share: Float64, image: Float64) -> dict[str, float]:
    """How the validity of an image compares with the part of each footprint that is nodata, 0..1.

    Returns
    -------
    ``mixed``: pixels with over 5 % nodata and some ground; ``kept``: those that are valid; ``largest``: the
    largest part that is nodata in a valid pixel; ``lost``: invalid pixels with under 1 % nodata.
    """
    valid = np.isfinite(image)
    touched = share > 0.05
    return {
        "mixed": int((touched & (share < 1.0)).sum()),
        "kept": int((valid & touched).sum()),
        "largest": float(share[valid].max()),
        "lost": int((~valid & (share < 0.01)).sum()),
    }


def near_nodata(side: int) -> list[dict[str, Any]]:
    """Validity; and errors within two source pixels of nodata, of the pixels that are valid in all ways."""
    results = []
    for case in NODATA_CASES:
        with TemporaryDirectory() as folder, prepared(case, Path(folder), side=side, holes=HOLES) as task:
            share = _nodata_share(task)
            images = {way: task.run(way) for way in WAYS}
            near = ndimage.maximum_filter(share, 2 * target_pixels(2, task.mapping) + 1) > 0
            where = near & np.logical_and.reduce([np.isfinite(image) for image in images.values()])
            truth, slopes = task.expected()
            ways = {
                way: {**invalid_pixels(share, image), "error": figures(image, truth, slopes, where)}
                for way, image in images.items()
            }
            results.append({"case": case.name, "ways": ways})
        common.say(f"nodata: {case.name}")
    return results


def _nodata_share(task: Task) -> Float64:
    """Part of each target footprint without ground, (h, w): in a hole, or off the image."""
    assert isinstance(task.mapping, AffineMap)
    source, edge = task.source.grid, 4
    holes = np.zeros((source.height, source.width))
    for rows, cols in HOLES:
        holes[rows, cols] = 1.0
    matrix = Affine.translation(edge, edge) * task.mapping.matrix
    size = (task.target.height, task.target.width)
    share = ground_average(np.pad(holes, edge, constant_values=1.0), matrix, size, steps=24)
    return np.where(np.isnan(share), 1.0, share)


# --- reading by windows ----------------------------------------------------------------------------------

BLOCK_WAYS: Final = ("own", "cubic", "lanczos", AS_IT_COMES)


def windows_of(target: Grid, scale: int) -> list[Window]:
    """Blocks of a grid with their halos, as a map is made of them; ``scale`` pixels in an MS pixel."""
    size, before, after = (scale * n for n in (BLOCK_SIZE, 7, 8))
    return [b.padded(before, after).intersection(target.window) for b in blocks_of(target.window, size)]


def by_blocks(side: int) -> list[dict[str, Any]]:
    """How windows differ from the same part of the whole, with nodata in the image."""
    results = []
    for case in (LANDSAT, TURNED, ZONE, COARSER):
        with TemporaryDirectory() as folder, prepared(case, Path(folder), side=side, holes=HOLES) as task:
            spread = float(task.content.render(task.truth.cropped(Window(0, 0, 64, 64))).std())
            ways = {}
            for way in BLOCK_WAYS:
                whole = task.run(way)
                differ, largest, pixels = 0, 0.0, 0
                for window in windows_of(task.target, PAN_PER_MS):
                    with resampler(way) as by:  # as if it were read first
                        part = by(task.source.read, task.mapping, window)[0]
                    expected = whole[window.slices()]
                    other = ~np.isclose(part, expected, rtol=0, atol=0, equal_nan=True)
                    both = np.isfinite(part) & np.isfinite(expected)
                    gap = np.abs(part - expected)[both]
                    differ, pixels = differ + int(other.sum()), pixels + other.size
                    largest = max(largest, float(gap.max(initial=0.0)) / spread)
                ways[way] = {"share": differ / pixels, "largest": largest}
            results.append({"case": case.name, "ways": ways})
        common.say(f"blocks: {case.name}")
    return results


# --- cost ------------------------------------------------------------------------------------------------

SPEED_CASES: Final = (
    Case("PAN to a quarter of MS, ratio 2", LANDSAT.grids),
    Case("the same, PAN turned by 25°", pan=TURNED.pan),
    Case("MS (4 bands) to PAN's grid", FRACTION.grids),
)


def _noise(case: Case, side: int, folder: Path) -> tuple[Path, PixelMap, list[Window]]:
    """An image of noise with the grids of a case, its map to the common grid, and the windows to read."""
    ms, pan = Case(case.name, {**case.grids, "ms_shape": (side, side)}, case.pan).pair()
    plan = plan_pair(ms, pan)
    mapping, grid, bands, windows = plan.pan_map, pan, 1, windows_of(plan.grids.pan, PAN_PER_MS)
    if mapping is None:
        mapping, grid, bands, windows = plan.ms_map, ms, 4, windows_of(plan.grids.ms, 1)
    assert mapping is not None
    values = np.random.default_rng(0).integers(1, 20_000, (bands, grid.height, grid.width))
    path = write_raster(folder / "noise.tif", values, grid, dtype="uint16", nodata=0, tiled=True)
    return path, mapping, windows


def _read_all(way: str, path: Path, mapping: PixelMap, windows: Sequence[Window]) -> int:
    """Resample windows one by one; the number of values."""
    with RasterSource(path, "PAN") as source, resampler(way) as by:
        return sum(by(source.read, mapping, window).size for window in windows)


def speed(side: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of all windows of a scene in turns, files opened anew each time."""
    results = []
    for case in SPEED_CASES:
        with TemporaryDirectory() as folder:
            path, mapping, windows = _noise(case, side, Path(folder))
            ways = {way: partial(_read_all, way, path, mapping, windows) for way in WAYS}
            values = ways["own"]()
            seconds = common.in_turns(ways, rounds, common.torch.device("cpu"))
        results.append({"case": case.name, "values": values, "seconds": seconds})
    return results


MEMORY_WAYS: Final = ("own", "cubic", "lanczos")
MEMORY_SIZES: Final = {"windows of a map": 0, "one window of 4096 × 4096": 4096}


def memory(side: int, options: Any) -> list[dict[str, Any]]:
    """Peak memory of a process that reads a large image, by windows or in one go."""
    results = []
    for name, size in MEMORY_SIZES.items():
        task = {"side": side, "size": size}
        ways = {w: common.in_own_process(__file__, options, {**task, "way": w}) for w in MEMORY_WAYS}
        results.append({"what": name, "ways": ways})
    return results


def _child(task: Mapping[str, Any]) -> dict[str, int]:
    with TemporaryDirectory() as folder:
        path, mapping, windows = _noise(LANDSAT, task["side"], Path(folder))
        windows = [Window(0, 0, task["size"], task["size"])] if task["size"] else windows[:256]
        peak = common.PeakMemory(common.torch.device("cpu"))
        _read_all(task["way"], path, mapping, windows)
        return peak.record()


# --- classes ---------------------------------------------------------------------------------------------

MOVED: Final = "own, moved by 0.1 PAN pixel"
CLASS_WAYS: Final = ("own", MOVED, "cubic", "lanczos")


@dataclass(frozen=True)
class MapPart:
    """Part of a scene that is classified, MS pixels of the common grid.

    Attributes
    ----------
    scene, name, window:
        Its folder, what the table calls it, and where it lies.
    shift:
        Corrected.
    own_statistics:
        Bands are normalised as by ``--radiometry scene``.
    labelled:
        Its labels have the model's classes.
    coarser:
        PAN is averaged to a ratio of 2, and the map of the pair as it is, which nests, is the truth.
    """

    scene: str
    name: str
    window: Window
    shift: PanShift | None = None
    own_statistics: bool = False
    labelled: bool = False
    coarser: bool = False


MIDDLE: Final = Window(48, 40, 48, 48)
PARTS_OF_MAPS: Final = (
    MapPart("gulf", "gulf, in the model's training area", Window(504, 264, 64, 64), labelled=True),
    MapPart("gulf", "gulf, elsewhere", Window(504, 64, 64, 64), labelled=True),
    MapPart("caldern", "caldern", Window(2, 2, 36, 36)),
    MapPart("rotterdam1", "rotterdam1 *", MIDDLE, PanShift(-0.54, -1.17), own_statistics=True),
    MapPart("berlin", "berlin, PAN made coarser *", MIDDLE, own_statistics=True, coarser=True),
    MapPart("zion", "zion, PAN made coarser *", MIDDLE, own_statistics=True, coarser=True),
)


def classes(scenes: Path, names: Sequence[str], side: int) -> list[dict[str, Any]]:
    """Maps of every part and way: pixels that have another class than with the package's resampler, and
    those that have the right one."""
    bundle = load_bundle(common.MODEL)
    engine = make_engine(bundle, EngineChoice(device="cpu", precision="fp32"))
    results = []
    for part in PARTS_OF_MAPS:
        if part.scene not in names:
            continue
        with TemporaryDirectory() as work:
            scene = MappedScene(scenes / part.scene, part, side, bundle, engine)
            truth = scene.truth()
            known = 0 if truth is None else int((truth > 0).sum())
            pan = scene.folder / "pan.tif" if not part.coarser else _coarser(scene.folder, Path(work))
            maps, ways = {}, {}
            for way in CLASS_WAYS:
                begin = time.perf_counter()
                maps[way], spent = scene.map(pan, way)
                differ = float((maps[way] != maps["own"]).mean())
                ways[way] = {"differ": differ, "resampling": spent / (time.perf_counter() - begin)}
                if truth is not None and known:
                    ways[way]["right"] = float((maps[way] == truth)[truth > 0].mean())
                common.say(f"{part.name}: {way}: {100 * differ:.2f} % differ")
        results.append({"part": part.name, "pixels": maps["own"].size, "known": known, "ways": ways})
    return results


@dataclass(frozen=True)
class MappedScene:
    """Maps of a part of a scene, at most ``side`` pixels a side."""

    folder: Path
    part: MapPart
    side: int
    bundle: ModelBundle
    engine: Engine

    def map(self, pan: Path, way: str) -> tuple[UInt8, float]:
        """Classes, (h, w), with a PAN file and a resampler; and the seconds that resampling took."""
        card, spent = self.bundle.card, 0.0
        # A file that is opened in the reading thread can be closed here if both have an environment.
        with rasterio.Env(), resampler("own" if way == MOVED else way) as by:

            def timed(read: Read, mapping: PixelMap, window: Window) -> Float32:
                nonlocal spent
                start = time.perf_counter()
                values = by(read, mapping, window)
                spent += time.perf_counter() - start
                return values

            with replaced_resampler(timed), open_pair(self.folder / "ms.tif", pan) as opened:
                pair = SceneViews(opened).pair_for_model(card).shifted(self.part.shift)
                window = self._window(pair.grids.ms)
                if way == MOVED:
                    corner = pair.grids.ms.cropped(window).pixel_to_map(0, 0)
                    known = self.part.shift or PanShift(0.0, 0.0)
                    pair = pair.shifted(PanShift(known.rows + 0.1, known.cols))
                    row, col = pair.grids.ms.map_to_pixel(*corner)
                    window = Window(round(row), round(col), window.height, window.width)
                own = self.part.own_statistics
                statistics = sample_scene(pair).statistics() if own else card.normalisation
                source = ModelInput(pair, statistics, card.patch)
                classifier = BlockClassifier(source, self.engine, card.legend)
                found = np.zeros((window.height, window.width), dtype=np.uint8)
                with closing(classifier.classify_all(blocks_of(window, BLOCK_SIZE))) as blocks:
                    for block in blocks:
                        w = block.window
                        place = Window(w.row - window.row, w.col - window.col, w.height, w.width)
                        found[place.slices()] = block.classes
        return found, spent

    def truth(self) -> UInt8 | None:
        """Known classes, (h, w), 0 where unknown; ``None`` if there are none."""
        pan = self.folder / "pan.tif"
        if self.part.coarser:
            return self.map(pan, "own")[0]
        if not self.part.labelled:
            return None
        with open_pair(self.folder / "ms.tif", pan) as pair:
            grid = pair.grids.ms.cropped(self._window(pair.grids.ms))
        polygons = geopandas.read_file(self.folder / "labels.gpkg").to_crs(grid.crs.to_wkt())
        ids = {c.name: c.id for c in self.bundle.card.legend.classes}
        shapes = zip(polygons.geometry, polygons["class"].map(ids), strict=True)
        return rasterize(shapes, (grid.height, grid.width), transform=grid.transform, dtype="uint8")

    def _window(self, grid: Grid) -> Window:
        at = self.part.window
        small = Window(at.row, at.col, min(at.height, self.side), min(at.width, self.side))
        return small.intersection(grid.window)


def _coarser(scene: Path, folder: Path) -> Path:
    """PAN of a scene averaged over 2 × 2 pixels."""
    with RasterSource(scene / "pan.tif", "PAN") as source:
        grid, values = source.grid, source.read(source.grid.window)
    h, w = grid.height // 2, grid.width // 2
    averages = values[0, : 2 * h, : 2 * w].reshape(h, 2, w, 2).mean(axis=(1, 3))
    half = Grid(h, w, grid.transform * Affine.scale(2), grid.crs)
    return write_raster(folder / "pan.tif", averages[None], half, nodata=np.nan)


@contextmanager
def replaced_resampler(by: Resampler) -> Iterator[None]:
    """Every pair is read with another resampler meanwhile."""
    before = scene_pair.resample
    scene_pair.resample = by
    try:
        yield
    finally:
        scene_pair.resample = before


# --- tables ----------------------------------------------------------------------------------------------


TABLES: Final = {
    "analytic": "Analytic truth: RMS / largest error, % of the contrast",
    "content": "Real content: RMS / largest error, % of the contrast",
    "shifts": "Shift against the truth, PAN pixels, down / right",
    "nodata": "Near nodata; errors in % of the contrast",
    "blocks": "Values that differ when read by windows: share / largest difference in % of the contrast",
    "classes": "Pixels with another class than with the package's resampler (* with `--radiometry scene`)",
    "cost": "Time over that of the package's resampler, and peak memory",
}
"""Names of their places in the page, and titles."""


def tables(record: dict[str, Any]) -> dict[str, str]:
    """By the names of their places in the page."""
    makers: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
        "analytic": (_errors, ("analytic",)),
        "content": (_errors, ("content",)),
        "shifts": (partial(_shifts, content=record.get("content", [])), ("analytic",)),
        "nodata": (_nodata, ("nodata",)),
        "blocks": (_blocks, ("blocks",)),
        "classes": (_classes, ("classes",)),
        "cost": (_cost, ("speed", "memory")),
    }
    return {
        name: make(*(record[p] for p in parts)) if all(p in record for p in parts) else "Not measured."
        for name, (make, parts) in makers.items()
    }


def _percent(value: float) -> str:
    return "< 0.001" if 0.0 < value < 1e-5 else common.number(100 * value)


def _shift(rows: float, cols: float) -> str:
    # Adding 0.0 takes the sign off a zero.
    return " / ".join(f"{round(v, 3) + 0.0:+.3f}".replace("+0.000", "0.000") for v in (rows, cols))


def _errors(results: list[dict[str, Any]]) -> str:
    words = [word for word in ("scene", "case") if word in results[0]]
    rows = []
    for r in results:
        cells = (f"{_percent(r['ways'][w]['rms'])} / {_percent(r['ways'][w]['largest'])}" for w in WAYS)
        rows.append([*(r[word] for word in words), *cells])
    return common.markdown([*words, *WAYS], rows, words=len(words))


def _shifts(analytic: list[dict[str, Any]], content: list[dict[str, Any]]) -> str:
    rows = [
        [r["case"], *(_shift(r["ways"][w]["rows"], r["ways"][w]["cols"]) for w in WAYS)] for r in analytic
    ]
    for case in dict.fromkeys(r["case"] for r in content):
        of_case = [r["ways"] for r in content if r["case"] == case]
        medians = (
            [common.median([ways[w][axis] for ways in of_case]) for axis in ("rows", "cols")] for w in WAYS
        )
        rows.append([f"real content, median of {len(of_case)}: {case}", *(_shift(*m) for m in medians)])
    return common.markdown(["case", *WAYS], rows)


def _nodata(results: list[dict[str, Any]]) -> str:
    heads = ["case", "way", "valid with over 5 % nodata", "most nodata in a valid pixel"]
    heads += ["invalid with under 1 %", "RMS / largest error within 2 pixels of nodata"]
    rows = []
    for r in results:
        for way in WAYS[:3]:
            one = r["ways"][way]
            kept, error = f"{one['kept']:,} of {one['mixed']:,}", one["error"]
            last = f"{_percent(error['rms'])} / {_percent(error['largest'])}"
            rows.append([r["case"], way, kept, f"{_percent(one['largest'])} %", f"{one['lost']:,}", last])
    return common.markdown(heads, rows, words=2)


def _blocks(results: list[dict[str, Any]]) -> str:
    rows = []
    for r in results:
        ways = [r["ways"][w] for w in BLOCK_WAYS]
        cells = (
            f"{_percent(w['share'])} % / {_percent(w['largest'])}" if w["share"] else "none" for w in ways
        )
        rows.append([r["case"], *cells])
    return common.markdown(["case", *BLOCK_WAYS], rows)


def _cost(timed: list[dict[str, Any]], held: list[dict[str, Any]]) -> str:
    rows = []
    for r in timed:
        medians = {way: common.median(r["seconds"][way]) for way in WAYS}
        each = 1e9 * medians["own"] / r["values"]
        ratios = [f"{medians[way] / medians['own']:.2f}" for way in WAYS if way != "own"]
        rows.append([f"time: {r['case']}", f"1 ({each:.0f} ns a value)", *ratios])
    for r in held:
        ways = {w: max(0, m["peak_bytes"] - m["bytes_before"]) / common.MIB for w, m in r["ways"].items()}
        rows.append([f"MiB: {r['what']}", *(f"{ways[w]:,.0f}" if w in ways else "–" for w in WAYS)])
    return common.markdown(["what", *WAYS], rows)


def _classes(results: list[dict[str, Any]]) -> str:
    rows = []
    for r in results:
        ways = r["ways"]
        differ = (f"{_percent(ways[w]['differ'])} %" if w != "own" else "" for w in CLASS_WAYS)
        rows.append([r["part"], f"{r['pixels']:,}", *differ])
        if r["known"]:
            right = (f"{_percent(ways[w]['right'])} %" for w in CLASS_WAYS)
            rows.append(["– right where the class is known", f"{r['known']:,}", *right])
    return common.markdown(["map", "pixels", *CLASS_WAYS], rows)


def document(record: dict[str, Any]) -> str:
    """All tables, one after the other."""
    made = tables(record)
    parts = [f"## {title}\n\n{made[name]}" for name, title in TABLES.items()]
    return "\n\n".join([*parts, f"{common.machine_text(record['machine'])}.\n"])


PARTS: Final = ("analytic", "content", "nodata", "blocks", "speed", "memory", "classes")


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.set_defaults(device="cpu")
    parser.add_argument("scenes", type=Path, nargs="?", help="folder of real scenes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="keep the other results")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(json.loads(options.child))))
        return
    common.start(options)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{NAME}.json"
    record = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    quick = options.quick
    names = [] if options.scenes is None else [n for n in SCENES if (options.scenes / n / "ms.tif").exists()]
    if not names:
        where = (
            "no folder of real scenes given" if options.scenes is None else f"no scene in {options.scenes}"
        )
        common.say(f"{where}: real content and classes are skipped, their last results stay")
    steps: dict[str, Callable[[], Any]] = {
        "analytic": lambda: against_analytic(40 if quick else 96),
        "nodata": lambda: near_nodata(64),
        "blocks": lambda: by_blocks(80 if quick else 200),
        "speed": lambda: speed(64 if quick else 300, 1 if quick else options.rounds),
        "memory": lambda: memory(128 if quick else 2048, options),
    }
    if names:
        steps["content"] = lambda: against_content(options.scenes, names)
        steps["classes"] = lambda: classes(options.scenes, names, 8 if quick else 80)
    record["machine"] = common.machine(options)
    for part in PARTS:
        if part in steps and part in options.only:
            record[part] = steps[part]()
    common.write_text(target, json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(document(record))
    if folder.resolve() == common.DOCS:
        common.fill(PAGE, tables(record))
    else:
        common.write_text(folder / f"{NAME}.md", document(record))


if __name__ == "__main__":
    main()
