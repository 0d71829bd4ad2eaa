"""Every function of the package that opens a raster or a vector file is a door, or reads a file of its own.

The test reads the syntax tree. A new call of one of the openers below has to go through a door, or needs a
line in OTHERS with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "das2f_map"

OPENERS = {
    "rasterio": {"open"},
    "rasterio.shutil": {"copy", "copyfiles"},
    "rasterio.vrt": {"WarpedVRT"},
    "pyogrio": {"read_dataframe", "read_arrow", "open_arrow", "read_info", "list_layers", "read_bounds"},
    "pyogrio.raw": {"read", "read_arrow", "open_arrow"},
    "geopandas": {"read_file", "read_parquet", "read_feather", "read_postgis", "list_layers"},
    "gpd": {"read_file", "read_parquet", "read_feather", "list_layers"},
    "pyarrow.parquet": {"ParquetFile", "read_table", "read_schema"},
    "osgeo": {"Open", "OpenEx"},
    "fiona": {"open"},
}
"""Functions that open a file, by module."""

DOORS = {
    "scene.vector_file:VectorFile.open": "vector files",
    "scene.vector_file:VectorFile.read": "vector files",
    "scene.vector_file:_layer_of": "a layer of a vector file",
    "scene.geoparquet:parquet_layer": "the part of the vector door for GeoParquet",
    "scene.geoparquet:read_parquet": "the part of the vector door for GeoParquet",
    "products.class_file:ClassFile.open": "rasters of classes",
    "products.class_names:_described": "the part of the class door for tables that GDAL sees",
    "products.class_names:_vat_dbf": "the part of the class door for ArcGIS's tables",
    "products.class_names:_from_sources": "the part of the class door for the parts of a VRT",
    "scene.raster_file:open_raster": "images and raster masks",
}

OTHERS = {
    "scene.mask:_why_no_raster": "asks whether a mask is a raster; RasterSource or VectorFile reads it",
    "products.vector_files:convert": "copies polygons that this run has written",
    "products.vector_files:_convert_to_parquet": "copies polygons that this run has written",
    "products.polygons:write_polygons": "the map that this run has written",
    "products.strips:read_strips": "the map that this run has written",
    "products.sieve:sieved": "the map that this run has written",
    "products.sieve:_merged": "the map that this run has written",
    "products.work_raster:WorkRaster.finish": "the map that this run has written",
    "products.aligned_images:_Metadata.of": "tags of an image that the image door has open",
    "products.aligned_images:_AlignedImage.verify": "an image that this run has written",
}


def _called(node: ast.Call, names: dict[str, str]) -> str:
    """Full name of the function that a call calls, by the module's imports; empty if it is no such name."""
    parts: list[str] = []
    target: ast.expr = node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    if not isinstance(target, ast.Name):
        return ".".join(reversed(parts))
    return ".".join([names.get(target.id, target.id), *reversed(parts)])


def _imports(tree: ast.Module) -> dict[str, str]:
    """Name in a module → full name, for its imports anywhere."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def openers_in(text: str, module: str) -> Iterator[tuple[str, str]]:
    """``module:function`` and the opener that it calls, for each call in a module's text."""
    tree = ast.parse(text)
    names = _imports(tree)
    known = {f"{m}.{f}" for m, some in OPENERS.items() for f in some}
    bare = {"ParquetFile", "read_table", "read_schema"}  # of a module that a function returns

    def visit(node: ast.AST, where: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inside = where
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inside = (*where, child.name)
            if isinstance(child, ast.Call):
                name = _called(child, names)
                if name in known or (name.rpartition(".")[2] in bare and name.rpartition(".")[0]):
                    yield f"{module}:{'.'.join(where) or 'module'}", name
            yield from visit(child, inside)

    yield from visit(tree, ())


def writes(text: str, module: str, function: str) -> bool:
    """Whether each file that a function opens with rasterio is opened for writing."""
    modes = []
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == function.split(".")[-1]:
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and _called(call, _imports(tree)) == "rasterio.open":
                    mode = call.args[1] if len(call.args) > 1 else None
                    modes.append(isinstance(mode, ast.Constant) and mode.value in ("w", "w+"))
    return bool(modes) and all(modes)


def test_every_opener_is_a_door_or_has_a_reason() -> None:
    found: dict[str, set[str]] = {}
    texts = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        texts[module] = path.read_text(encoding="utf-8")
        for where, name in openers_in(texts[module], module):
            found.setdefault(where, set()).add(name)
    strange = {
        where: names
        for where, names in found.items()
        if where not in DOORS | OTHERS and not writes(texts[where.partition(":")[0]], *where.split(":"))
    }
    assert not strange, "\n".join(f"{where} calls {', '.join(names)}" for where, names in strange.items())
    gone = {*DOORS, *OTHERS} - {*found}
    assert not gone, f"no such function opens a file: {', '.join(sorted(gone))}"


def test_it_would_find_others() -> None:
    text = (
        "import rasterio\nimport geopandas as g\nfrom pyogrio import raw\nfrom rasterio import open as op\n"
        "def a(): rasterio.open('x')\nclass B:\n    def c(self): return g.read_file('y')\n"
        "def d(): raw.read('z')\ndef e(): op('w')\ndef f(): open('text')\n"
        "def h(): rasterio.open('x', 'w')\n"
    )
    assert [w for w, _ in openers_in(text, "m")] == ["m:a", "m:B.c", "m:d", "m:e", "m:h"]
    assert writes(text, "m", "h")
    assert not writes(text, "m", "a")
