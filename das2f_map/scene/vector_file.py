"""The door for vector files: labels, reference data, areas of interest and masks are read here alone.

A :class:`VectorFile` finds the layer that is meant, reads its features and leaves out those that cannot be
used: without a geometry, with an outline that does not close, with a vertex that has no place. It logs each
choice and each omission. It gives the reader's own reason where a file cannot be read.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import pyogrio.errors
import pyogrio.raw
import pyproj
import shapely
from pyproj.exceptions import CRSError, ProjError
from rasterio.crs import CRS
from shapely.errors import ShapelyError

from das2f_map.errors import Das2fMapError, InputError
from das2f_map.scene.archive import archive_hint, arrow_hint
from das2f_map.scene.common_grid.relation import area_of_interest
from das2f_map.scene.conversion import tell_accuracy
from das2f_map.scene.geoparquet import is_parquet, parquet_layer, read_parquet
from das2f_map.scene.grid import Grid
from das2f_map.scene.paths import is_local, missing_local_file, vector_path
from das2f_map.scene.text_encoding import tell_assumed_encoding, wrong_encoding
from das2f_map.scene.vector_layer import Layer
from das2f_map.scene.vector_path import VectorPath
from das2f_map.types import Bool, Geometries

log = logging.getLogger(__name__)

_ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.FieldError,
    pyogrio.errors.GeometryError,
    pyogrio.errors.CRSError,
    NotImplementedError,
    OSError,
    ValueError,  # UnicodeDecodeError among them
    LookupError,  # a text encoding that nobody knows
)
_HINTS = (
    (".shx", "copy all parts of the Shapefile, or restore it: SHAPE_RESTORE_SHX=YES ogr2ogr new.shp old.shp"),
    ("locked", "close the program that has the file open, or give a copy"),
    ("malformed", "the file seems to be damaged or cut short"),
    ("duckdb", "GDAL cannot read this format here; a local GeoParquet file is read with pyarrow"),
)
_SQL = re.compile(r"sqlite3_\w+\(.*\) failed: ")
OWN_FIELDS = frozenset({"class_id", "class_name", "area_m2", "confidence"})
"""Fields of the polygons that this package writes, in a GeoPackage with a layer for each class."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a layer that can be used.

    Attributes
    ----------
    shapes:
        Their geometries, in two dimensions, with a place for each vertex, and their CRS.
    values:
        The attribute that was asked for, with the same index; ``None`` without one.
    """

    shapes: geopandas.GeoSeries
    values: pd.Series[Any] | None


class UnreadableVectorError(InputError):
    """A file cannot be read as a vector file.

    Parameters
    ----------
    reason:
        The reader's own words.
    recognised:
        Whether it is a vector file at all, as far as one can tell.
    """

    def __init__(self, message: str, hint: str | None, reason: str, *, recognised: bool) -> None:
        super().__init__(message, hint)
        self.reason = reason
        self.recognised = recognised


class VectorFile:
    """A vector file that can be read. Made by :meth:`open`; holds nothing open."""

    def __init__(
        self,
        path: VectorPath,
        label: str,
        layers: Sequence[Layer],
        error: type[Das2fMapError] = InputError,
        option: str | None = None,
    ) -> None:
        self.path = path
        self.label = label
        self.layers = tuple(layers)
        self._error = error
        self._option = option

    @classmethod
    def open(
        cls,
        path: str | Path,
        label: str,
        *,
        layer: str | None = None,
        option: str | None = None,
        error: type[Das2fMapError] = InputError,
    ) -> VectorFile:
        """Open a vector file.

        Parameters
        ----------
        path:
            Any vector file that GDAL reads, or GeoParquet; a layer may follow, see :meth:`VectorPath.parse`.
        label:
            Words for the file in messages.
        layer:
            Name of the layer that is meant.
        option:
            Flag of the command line that names a layer, for hints; ``None`` if there is none.
        error:
            Class of the errors that are raised, here and later.

        Raises
        ------
        UnreadableVectorError
            GDAL cannot read the file as a vector file.
        Das2fMapError
            The file is missing, or names an encoding that its texts do not have. Of the class ``error``.
        MissingDependencyError
            The file is GeoParquet, and pyarrow is not installed.
        """
        where = VectorPath.parse(path, layer)
        if missing_local_file(where.file):
            raise error(f"{label} does not exist", "check the path")
        _refuse_cut_shapefile(where.file, label, error)
        if is_parquet(where.file):
            return cls(where, label, [parquet_layer(where.file, label, error)], error, option)
        spelled = vector_path(where.file)
        try:
            with _noting_locks(label):
                listed = [(str(n), k) for n, k in pyogrio.list_layers(spelled)]
                layers = [_layer_of(spelled, name, str(kind)) for name, kind in listed if kind is not None]
        except _ERRORS as reason:
            if isinstance(reason, (UnicodeDecodeError, LookupError)):
                raise wrong_encoding(where.file, label, reason, error) from reason
            said = _in_words(reason, where.file)
            known = "not recognized as being in a supported file format" not in said
            convert = None if known else arrow_hint(where.file)
            if convert:
                known, said = True, "it is an Arrow or Feather file, which GDAL cannot read here"
            raise UnreadableVectorError(
                f"{label} cannot be read as a vector file: {said}",
                convert or archive_hint(where.file) or _hint_for(said),
                said,
                recognised=known,
            ) from reason
        return cls(where, label, layers, error, option)

    def choose(self, fits: Callable[[Layer], bool], wanted: str) -> tuple[Layer, ...]:
        """The layer that is meant; all layers of a GeoPackage that this package has written.

        Parameters
        ----------
        fits:
            Whether a layer has what the caller needs.
        wanted:
            What that is, in words: ``polygons``.

        Raises
        ------
        Das2fMapError
            The file has no such layer, or several fit and the user names none.
        """
        names = [layer.name for layer in self.layers]
        listed = ", ".join(names)
        if self.path.layer is not None:
            alike = [n for n in names if n.lower() == self.path.layer.lower()]
            name = self.path.layer if self.path.layer in names else (alike[0] if len(alike) == 1 else None)
            if name is None:
                raise self._error(
                    f"{self.label} has no layer {self.path.layer!r}", f"its layers are: {listed or 'none'}"
                )
            return (self.layers[names.index(name)],)
        if len(self.layers) == 1:
            return self.layers
        if len(self.layers) > 1 and all({*layer.fields} == OWN_FIELDS for layer in self.layers):
            log.info("%s: all %d layers are taken, a class each", self.label, len(names))
            return self.layers
        fitting = [layer for layer in self.layers if fits(layer)]
        if len(fitting) == 1:
            others = ", ".join(n for n in names if n != fitting[0].name)
            log.info(
                "%s: layer %s is taken, the only one with %s; left out: %s",
                self.label,
                fitting[0].name,
                wanted,
                others,
            )
            return (fitting[0],)
        if not self.layers:
            return ()
        example = (fitting or self.layers)[0].name
        by_option = f"{self._option} {example}, or " if self._option else ""
        raise self._error(
            f"{self.label} has several layers, and which one is meant is not clear: {listed}",
            f"name one: {by_option}{self.path.file}|layername={example}",
        )

    def read(
        self, layer: Layer, column: str | None = None, bbox: tuple[float, float, float, float] | None = None
    ) -> Features:
        """Features of a layer; those that cannot be used are left out, and the log says so.

        Parameters
        ----------
        column:
            An attribute to read.
        bbox:
            Left, bottom, right, top in the layer's CRS; features that do not touch it are not read.

        Raises
        ------
        Das2fMapError
            The layer cannot be read, has no CRS, or has features of which none can be used.
        """
        crs = self.crs_of(layer)
        if is_parquet(self.path.file):
            wkb, raw = read_parquet(self.path.file, column, self.label, self._error)
        else:
            with self._reasons():
                _, _, wkb, fields = pyogrio.raw.read(
                    vector_path(self.path.file),
                    layer=layer.name,
                    columns=[] if column is None else [column],
                    force_2d=True,
                    bbox=bbox,
                )
            raw = pd.Series(fields[0]) if column is not None else None
            if raw is not None:
                tell_assumed_encoding(self.path.file, self.label, raw)
        shapes, usable = self._usable(np.asarray(wkb, dtype=object), layer)
        series = geopandas.GeoSeries(shapes[usable], index=np.flatnonzero(usable), crs=crs)
        return Features(series, None if raw is None else raw[usable])

    def crs_of(self, layer: Layer) -> pyproj.CRS:
        """The CRS of a layer.

        Raises
        ------
        Das2fMapError
            The layer has none, or one that PROJ does not understand.
        """
        missing = self._error(
            f"{self.label} has no coordinate reference system",
            "if you know it: ogr2ogr -a_srs EPSG:32616 out.gpkg in.shp",
        )
        if layer.crs is None:
            raise missing
        try:
            crs = pyproj.CRS.from_user_input(layer.crs)
        except CRSError as reason:
            raise self._error(
                f"{self.label} has a coordinate reference system that cannot be understood: {reason}",
                "assign another with ogr2ogr -a_srs",
            ) from reason
        # GeoPackage has two such: for coordinates of an unknown plane, and for unknown degrees.
        if crs.name.lower().startswith(("undefined ", "unknown crs")):
            raise missing
        return crs

    def check_conversion(self, layer: Layer, grid: Grid) -> None:
        """Raise an error unless coordinates of a layer can be converted to a grid's CRS.

        The log says where a grid of a datum shift is missing.
        """
        crs, target = self.crs_of(layer), pyproj.CRS.from_wkt(grid.crs.to_wkt())
        if crs == target or crs.equals(target, ignore_axis_order=True):
            return
        try:
            CRS.from_wkt(crs.to_wkt())
            pyproj.Transformer.from_crs(crs, target, always_xy=True)
            tell_accuracy(crs, target, area_of_interest(grid))
        except (ProjError, CRSError, ValueError) as reason:
            raise self._error(
                f"{self.label} cannot be laid over the scene: its coordinate reference system ({crs.name}) "
                f"cannot be converted to that of the scene ({target.name})",
                "assign the right one, e.g. ogr2ogr -a_srs EPSG:32616 out.gpkg in.gpkg",
            ) from reason

    @cached_property
    def total(self) -> int:
        """Features of all layers, as far as they are known."""
        return sum(max(0, layer.features) for layer in self.layers)

    def _usable(self, wkb: npt.NDArray[np.object_], layer: Layer) -> tuple[Geometries, Bool]:
        """Geometries (n,), and which of them can be used; logs the others."""
        with np.errstate(invalid="ignore"):
            shapes = np.asarray(shapely.from_wkb(wkb, on_invalid="ignore"), dtype=object)
        given = np.array([w is not None for w in wkb], dtype=bool)
        there = ~shapely.is_missing(shapes)
        coordinates, of = shapely.get_coordinates(shapes, return_index=True)
        placed = np.ones(shapes.size, dtype=bool)
        placed[of[~np.isfinite(coordinates).all(axis=1)]] = False
        solid = there & ~shapely.is_empty(shapes)
        broken = given & ~there
        found: list[str] = []
        for bad, reason in (
            (~given | (there & ~solid), "no geometry"),
            (broken, _why_broken(wkb[broken]) if broken.any() else ""),
            (solid & ~placed, "a vertex without coordinates (NaN or infinite)"),
        ):
            if bad.any():
                found.append(f"{int(bad.sum())} with {reason}")
        usable = np.asarray(solid & placed, dtype=np.bool_)
        if found and not usable.any():
            raise self._error(
                f"{self.label} has no feature that can be used: {', '.join(found)}",
                "draw polygons, or mend the file, e.g. ogr2ogr -makevalid out.gpkg in.shp",
            )
        if found:
            log.warning("%s: features left out of layer %s: %s", self.label, layer.name, ", ".join(found))
        return np.asarray(shapely.force_2d(shapes), dtype=object), usable

    @contextmanager
    def _reasons(self) -> Iterator[None]:
        """Turn a reader's error into one with its reason."""
        try:
            yield
        except (UnicodeDecodeError, LookupError) as reason:
            raise wrong_encoding(self.path.file, self.label, reason, self._error) from reason
        except _ERRORS as reason:
            said = _in_words(reason, self.path.file)
            raise self._error(f"{self.label} cannot be read: {said}", _hint_for(said)) from reason


def _layer_of(file: str, name: str, kind: str) -> Layer:
    info = pyogrio.read_info(file, layer=name)
    fields = tuple(str(f) for f in info["fields"])
    subtypes = [str(s) for s in info.get("ogr_subtypes", ())] or [""] * len(fields)
    return Layer(
        name,
        kind,
        None if info["crs"] is None else str(info["crs"]),
        fields,
        tuple(str(d) for d in info["dtypes"]),
        frozenset(f for f, s in zip(fields, subtypes, strict=True) if s == "OFSTBoolean"),
        int(info["features"]),
    )


@contextmanager
def _noting_locks(label: str) -> Iterator[None]:
    """Log if GDAL reads a GeoPackage past another program's lock: it misses what is not yet saved."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if any("locked" in str(w.message) for w in caught):
        log.warning("%s is open in another program; changes that it has not yet saved are missing", label)


def _in_words(reason: Exception, file: str) -> str:
    """A reader's reason on one line: with the user's path, without SQL or advice that is of no use here."""
    said = " ".join(str(reason).replace(vector_path(file), file).split())
    said = _SQL.sub("", said).partition("; It might help")[0]
    return "; ".join(dict.fromkeys(said.split("; ")))


def _hint_for(reason: str) -> str:
    lower = reason.lower()
    return next((hint for word, hint in _HINTS if word in lower), "ogrinfo shows what GDAL sees in it")


def _refuse_cut_shapefile(file: str, label: str, error: type[Das2fMapError]) -> None:
    """Raise an error if a Shapefile is shorter than it says: GDAL gives its last features no geometry."""
    path = Path(file)
    if path.suffix.lower() != ".shp" or not is_local(file) or not path.is_file():
        return
    with path.open("rb") as opened:
        head = opened.read(28)
    size = path.stat().st_size
    if len(head) == 28 and (said := 2 * struct.unpack(">i", head[24:28])[0]) > size:
        raise error(
            f"{label} is cut short: it has {size:,} of the {said:,} bytes that it says", "copy it again"
        )


def _why_broken(wkb: npt.NDArray[np.object_]) -> str:
    """Why a geometry could not be made, in GEOS's words."""
    try:
        shapely.from_wkb(wkb[0])
    except ShapelyError as error:
        said = " ".join(str(error).split()).partition(": ")[2] or str(error)
        if "Unknown WKB type" in said:
            return "a geometry type that is not supported (such as MultiPatch, TIN or PolyhedralSurface)"
        return f"a broken outline ({said})"
    return "a broken outline"
