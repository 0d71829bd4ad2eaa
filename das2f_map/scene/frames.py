"""GeoDataFrames where a vector file is taken."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from das2f_map.errors import Das2fMapError, InputError
from das2f_map.scene.paths import given_path

if TYPE_CHECKING:
    import geopandas

    VectorSource: TypeAlias = str | Path | geopandas.GeoDataFrame
    """A path, or a table with geometries."""


@contextmanager
def vector_file(source: VectorSource, argument: str) -> Iterator[str]:
    """The path of a vector file; a GeoDataFrame lies in a temporary GeoPackage within the context.

    Parameters
    ----------
    source:
        A path as text or ``Path``, or a GeoDataFrame.
    argument:
        Name of the argument, for messages. The temporary file has it as its name, but errors name the
        GeoDataFrame instead.

    Raises
    ------
    InputError
        The source is neither, or the GeoDataFrame cannot be written as a GeoPackage.
    """
    if isinstance(source, (str, Path)) or not hasattr(source, "to_file"):
        yield given_path(source, argument)
        return
    with tempfile.TemporaryDirectory(prefix="das2f-map-") as folder:
        path = Path(folder) / f"{argument}.gpkg"
        try:
            source.to_file(path, driver="GPKG", layer=argument)
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise InputError(
                f"{argument}: the GeoDataFrame cannot be used: {' '.join(str(error).split())}",
                "it needs geometries, a CRS and plain columns",
            ) from error
        try:
            yield str(path)
        except Das2fMapError as error:
            # The user does not know the temporary file.
            error.message = error.message.replace(str(path), "the GeoDataFrame")
            error.args = (error.message,)
            raise
