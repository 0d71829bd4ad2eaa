"""Look at labels before they cost a training: ``das2f-map labels check``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from das2f_map.errors import LabelError, OutputError
from das2f_map.labels import class_values, vector
from das2f_map.labels.features import LabelFeatures, read_features
from das2f_map.labels.files import open_labels
from das2f_map.labels.labelled_pixels import LabelTable, by_block, gather, limit_blocks
from das2f_map.labels.likeness import Likeness, likeness
from das2f_map.outputs.staging import StagedOutputs
from das2f_map.outputs.write_errors import writing
from das2f_map.progress import Progress, silent
from das2f_map.scene import vector_file as vector_file_module
from das2f_map.scene.bands import GivenBands
from das2f_map.scene.frames import vector_file
from das2f_map.scene.grid import Grid, Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import sample_statistics
from das2f_map.scene.request import PairRequest
from das2f_map.scene.vector_file import UnreadableVectorError, VectorFile
from das2f_map.training.dataset import BLOCK, PatchReader
from das2f_map.training.label_check import LabelCheck, LabelFinding, judge_labels
from das2f_map.training.label_findings import Doubts, class_findings, feature_findings, pixel_findings
from das2f_map.training.label_pixels import PixelTable, checked_classes, expected_hold_out, squares
from das2f_map.training.prepare import MAX_BLOCKS

if TYPE_CHECKING:
    from das2f_map.scene.frames import VectorSource

_STATISTICS_PIXELS = 20_000

MOST_SQUARES = 100_000
"""Doubtful pixels that are written; more are thinned evenly."""


def check_labels(
    ms: str | Path,
    pan: str | Path | None,
    labels: VectorSource,
    output: str | Path | None = None,
    *,
    class_field: str | None = None,
    layer: str | None = None,
    bands: GivenBands | None = None,
    nodata: float | None = None,
    mask: str | Path | MaskFile | None = None,
    reflectance: bool = False,
    force: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> LabelCheck:
    """Look for faults in the labels of a scene.

    Parameters
    ----------
    ms, pan:
        The image pair; ``None`` for PAN where ``ms`` is a product as delivered.
    labels:
        Polygons, points or a raster of classes; or a GeoDataFrame.
    output:
        GeoPackage to write the doubtful features and pixels into, for a look in QGIS.
    class_field, layer:
        Attribute with the class; layer of the file. By default the only ones that fit.
    bands, nodata, mask, reflectance, force:
        As in :func:`das2f_map.train`.
    overwrite:
        Replace an existing GeoPackage.

    Raises
    ------
    InputError, LabelError
        The images or the labels cannot be read, or it is not clear which field has the class.
    OutputError
        The GeoPackage exists, or cannot be written.
    """
    request = PairRequest.of(
        ms, pan, bands=bands, nodata=nodata, mask=mask, reflectance=reflectance, force=force
    )
    if output is not None and Path(output).suffix.lower() != ".gpkg":
        raise OutputError(f"output {output} is not a GeoPackage", "give it the extension .gpkg")
    named = "the GeoDataFrame" if hasattr(labels, "to_file") else str(labels)
    with vector_file(labels, "labels") as path:
        inputs = [*request.files, *([path] if named == path else [])]
        with (
            StagedOutputs(inputs=inputs, overwrite=overwrite) as staged,
            request.open() as opened,
            _said_once(),
        ):
            place = None if output is None else staged.stage(Path(output))
            pair = request.select(opened)
            found = _check(pair, path, named, class_field, layer, progress)
            if place is not None:
                with writing(place):
                    _write(found, place)
            return found


class _Once(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in self._seen:
            return False
        self._seen.add(message)
        return True


@contextmanager
def _said_once() -> Iterator[None]:
    """Within it, the readers of labels say each thing once, though features and pixels are read in turn."""
    once = _Once()
    loggers = [logging.getLogger(module.__name__) for module in (vector, vector_file_module, class_values)]
    for logger in loggers:
        logger.addFilter(once)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(once)


def _check(
    pair: ScenePair, path: str, named: str, class_field: str | None, layer: str | None, progress: Progress
) -> LabelCheck:
    grid = pair.grids.ms
    features = _features(path, grid, class_field, layer)
    if features is not None and not features.inside.any():
        return _elsewhere(features, named)
    with open_labels(path, grid, class_field=class_field, layer=layer) as source:
        table = limit_blocks(gather(source, grid, named, progress=progress), BLOCK, MAX_BLOCKS, 0)
        legend = source.legend
    pixels = _with_values(pair, table, features, progress)
    like = _likeness(pixels)
    reader_input = ModelInput(pair, sample_statistics(pair, max_pixels=_STATISTICS_PIXELS), PatchGeometry())
    with PatchReader(reader_input) as reader:
        hold_out, tested = expected_hold_out(pixels, reader)
        classes = checked_classes(pixels, like, features, tested, legend, reader.reach)
    doubts = None if features is None else Doubts(features)
    findings = [] if features is None or doubts is None else feature_findings(features, doubts)
    findings += pixel_findings(pixels, like, features, doubts)
    findings += class_findings(classes)
    doubtful = _no_features(grid) if doubts is None else doubts.frame()
    usable, verdict = judge_labels(classes, findings, hold_out, 0 if doubts is None else doubts.used)
    return LabelCheck(
        labels=named,
        classes=classes,
        findings=tuple(sorted(findings, key=lambda f: not f.serious)),
        hold_out=hold_out,
        usable=usable,
        verdict=verdict,
        doubtful=doubtful,
        doubtful_pixels=_doubtful_pixels(pixels, like, grid),
    )


def _features(path: str, grid: Grid, class_field: str | None, layer: str | None) -> LabelFeatures | None:
    """The features of a vector file; ``None`` for a raster."""
    try:
        file = VectorFile.open(path, f"labels {path}", layer=layer, option="--layer", error=LabelError)
    except UnreadableVectorError:
        return None  # a raster, or an error that opening the labels tells
    return read_features(file, grid, class_field) if file.layers else None


def _with_values(
    pair: ScenePair, table: LabelTable, features: LabelFeatures | None, progress: Progress
) -> PixelTable:
    """The pixels with their values, read block by block."""
    grid = pair.grids.ms
    values = np.full((len(table), len(pair.bands) + 1), np.nan, np.float32)
    valid = np.zeros(len(table), bool)
    feature = np.full(len(table), -1, np.int64)
    blocks = by_block(table.rows, table.cols, BLOCK)
    with progress("Reading labelled pixels", len(blocks)) as advance:
        for block_row, block_col, members in blocks:
            top, left = block_row * BLOCK, block_col * BLOCK
            window = Window(top, left, min(BLOCK, grid.height - top), min(BLOCK, grid.width - left))
            block = pair.read_block(window, 0, 0)
            r, c = table.rows[members] - top, table.cols[members] - left
            pan = block.pan[0].reshape(window.height, 4, window.width, 4).mean(axis=(1, 3))
            values[members, :-1] = block.ms[:, r, c].T
            values[members, -1] = pan[r, c]
            valid[members] = block.valid[r, c]
            if features is not None:
                feature[members] = features.at(window)[r, c]
            advance(1)
    return PixelTable(table, values, valid, feature)


def _likeness(pixels: PixelTable) -> Likeness:
    """How far the valid pixels look like their class; nothing is said of the others."""
    n = len(pixels.table)
    at = np.flatnonzero(pixels.valid)
    # Of a raster, pixels of one block were labelled together, as far as one can tell.
    table = pixels.table
    block = table.rows.astype(np.int64) // 16 * (1 << 32) + table.cols // 16
    groups = np.where(pixels.feature >= 0, pixels.feature, -1 - block)
    found = likeness(pixels.values[at], pixels.positions[at], groups[at], len(pixels.table.legend))
    distance, unlike = np.full(n, np.nan), np.zeros(n, bool)
    looks_like = np.full(n, -1, np.int64)
    distance[at], unlike[at], looks_like[at] = found.distance, found.unlike, found.looks_like
    return Likeness(distance, unlike, looks_like)


def _doubtful_pixels(pixels: PixelTable, like: Likeness, grid: Grid) -> gpd.GeoDataFrame:
    at = np.flatnonzero(like.unlike | ~pixels.valid)
    if at.size > MOST_SQUARES:
        at = at[np.linspace(0, at.size - 1, MOST_SQUARES).astype(np.int64)]
    names = np.array([*pixels.table.legend.names, ""], object)
    return gpd.GeoDataFrame(
        {
            "class": names[pixels.positions[at]],
            "reason": np.where(pixels.valid[at], "unlike its class", "no data or masked"),
            "distance": np.round(like.distance[at], 1),
            "looks_like": names[like.looks_like[at]],
        },
        geometry=squares(grid, pixels.table.rows[at], pixels.table.cols[at]),
        crs=grid.crs,
    )


def _no_features(grid: Grid) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {"reasons": [], "class": [], "feature": [], "layer": []}, geometry=[], crs=grid.crs
    )


def _elsewhere(features: LabelFeatures, named: str) -> LabelCheck:
    """The check of labels that do not touch the scene, with a guess at the reason."""
    doubts = Doubts(features)
    findings = feature_findings(features, doubts)
    text = "No feature touches the scene: " + _why_elsewhere(features)
    findings = [LabelFinding("wrong place", len(features), "features", text, serious=True), *findings]
    return LabelCheck(
        labels=named,
        classes=(),
        findings=tuple(findings),
        hold_out=None,
        usable=False,
        verdict="no training is possible: the labels lie outside the images",
        doubtful=doubts.frame(),
        doubtful_pixels=_no_features(features.grid).iloc[:0],
    )


def _why_elsewhere(features: LabelFeatures) -> str:
    """The likely fault of labels elsewhere: another CRS than the file claims, or swapped axes."""
    raw = shapely.box(*features.bounds)
    grid = features.grid
    xs, ys = zip(*grid.corners(), strict=True)
    left, bottom, right, top = min(xs), min(ys), max(xs), max(ys)
    own, claimed = pyproj.CRS.from_wkt(grid.crs.to_wkt()), features.crs
    if not claimed.equals(own, ignore_axis_order=True) and raw.intersects(
        shapely.box(left, bottom, right, top)
    ):
        return (
            f"its coordinates fit the scene's own CRS ({own.name}), but the file claims {claimed.name}. "
            "Assign the right one, for instance ogr2ogr -a_srs."
        )
    lonlat = pyproj.Transformer.from_crs(own, "EPSG:4326", always_xy=True)
    west, south, east, north = lonlat.transform_bounds(left, bottom, right, top)
    if not claimed.is_geographic and raw.intersects(shapely.box(west, south, east, north)):
        return (
            f"its coordinates are degrees that fit the scene, but the file claims {claimed.name}. "
            "Assign EPSG:4326."
        )
    swapped = [shapely.box(south, west, north, east), shapely.box(bottom, left, top, right)]
    if raw.intersects(shapely.union_all(swapped)):
        return "its x and y look swapped. Swap them, for instance in QGIS: Swap X and Y coordinates."
    return "check that labels and images show the same place, and that the label file's CRS is right."


def _write(found: LabelCheck, path: Path) -> None:
    """Write the doubtful features and pixels as two layers."""
    for layer, frame in (("features", found.doubtful), ("pixels", found.doubtful_pixels)):
        frame.to_file(path, layer=layer, driver="GPKG", engine="pyogrio", VERSION="1.2")
