"""Every function of the package that opens a raster or a vector file is a door, or reads a file of its own.

The test reads the syntax tree. A new call of one of the openers below has to go through a door, or needs a
line in OTHERS with the reason.
"""

from __future__ import annotations

import ast
import re
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
    "scene.raster_file:fetch_anew": "reads no pixel: closing it lets GDAL forget what it has fetched",
    "scene.mask:_why_no_raster": "asks whether a mask is a raster; RasterSource or VectorFile reads it",
    "pages.pictures:read_values": "a raster next to a map whose grid the class door has checked",
    "products.renamed_polygons:_layers": "polygons of this package, written again with other names",
    "products.renamed_polygons:_crs": "polygons of this package, written again with other names",
    "products.renamed_polygons:_batches": "polygons of this package, written again with other names",
    "products.renamed_polygons:_rename_parquet": "polygons of this package, written again with other names",
    "products.vector_files:convert": "copies polygons that this run has written",
    "products.vector_files:_convert_to_parquet": "copies polygons that this run has written",
    "products.polygons:write_polygons": "the map that this run has written",
    "products.strips:read_strips": "the map that this run has written",
    "products.map_files:MapWriter._finish_merging": "the map that this run has written",
    "products.mosaic_maps:open_confidence": "a raster of confidence, whose grid has to be that of its map",
    "products.work_raster:WorkRaster.finish": "the map that this run has written",
    "products.stac_item:_value_bands": "a raster of a map that this run has written",
    "products.aligned_images:_AlignedImage.verify": "an image that this run has written",
}

PLAIN_OPENERS = {
    "os.open",
    "os.fdopen",
    "io.open_code",
    "zipfile.ZipFile",
    "zipfile.is_zipfile",
    "tarfile.open",
    "tarfile.is_tarfile",
    "gzip.open",
    "sqlite3.connect",
    "numpy.load",
    "numpy.fromfile",
    "numpy.loadtxt",
    "numpy.genfromtxt",
    "numpy.memmap",
    "torch.load",
    "torch.jit.load",
    "safetensors.safe_open",
    "safetensors.torch.load",
    "safetensors.torch.load_file",
    "onnx.load",
    "onnx.load_from_string",
    "onnxruntime.InferenceSession",
    "json.load",
    "pickle.load",
    "pickle.loads",
    "joblib.load",
    "pandas.read_csv",
    "pandas.read_pickle",
    "pandas.read_json",
    "pandas.read_parquet",
    "xml.etree.ElementTree.parse",
    "urllib.request.urlopen",
    "os.popen",
    "matplotlib.image.imread",
    "mmap.mmap",
}
"""Functions that read files, or bytes of files, of other kinds than geodata."""

PLAIN_METHODS = {"read_text", "read_bytes", "tofile", "readinto"}
"""Methods, of a path and others, that read a file."""

PLAIN_DOORS = {
    "bundle.untrusted:open_plain": "model files, with their sizes checked",
    "bundle.untrusted:open_zip": "model files in a zip, likewise",
    "scene.products.delivery:read_text": "metadata of products, with their sizes checked",
    "scene.products.delivery:_read_zip": "metadata of products in a zip, likewise",
    "scene.products.delivery:_read_tar": "metadata of products in a tar, likewise",
    "scene.products.stac:read_address": "an Item at an address, likewise",
}
"""The doors for models and metadata, which may come from anyone."""

PLAIN_OTHERS = {
    # What a door of models has read or checked.
    "bundle.files:load_bundle": "the bytes that the door has read",
    "bundle.files:require_replaceable": "asks whether a file that is to be replaced is a zip",
    "bundle.onnx_file:_metadata": "the bytes that the door has read",
    "engines.onnx:_session": "the bytes that the door has read",
    "workflows.export:export_onnx": "the bytes that this run has made",
    "workflows.export:_largest_error": "the bytes that this run has made",
    "bundle.published:_load": "the door for checkpoints, when the zip door has checked the sizes",
    # Parts of the doors for geodata.
    "products.class_names:_side_bands": "the part of the class door for .aux.xml",
    "scene.geoparquet:is_parquet": "the first four bytes",
    "scene.archive:_names": "the names of the files in an archive, for a hint",
    "scene.archive:arrow_hint": "the first eight bytes",
    "scene.text_encoding:tell_assumed_encoding": "the .cpg of a Shapefile",
    "scene.text_encoding:wrong_encoding": "the .cpg of a Shapefile",
    "scene.vector_file:_refuse_cut_shapefile": "the header of a Shapefile",
    "assess.sample_design:read_design": "the table with the design, in a GeoPackage that the door has read",
    "scene.virtual_files:_sources": "the beginning of a VRT, for the names of its sources alone",
    "scene.proj_gdal_data:_layout": "the version of a proj.db",
    "assess.sample_design:checksum": "the bytes of a file, of which nothing is understood",
    "scene.fingerprint:sha256_of": "the bytes of a file, of which nothing is understood",
    "scene.fingerprint:_sampled": "the bytes of a file, of which nothing is understood",
    # Lists and settings, with a reader each.
    "cli.configuration:_read": "the door for configuration files",
    "training.scene_list:read_scene_list": "the door for lists of scenes",
    "scene.pair_list:read_pair_list": "the door for lists of scenes to map",
    # Files that this package has written, in folders that it has marked as its own.
    "assess.sample_design:write_design": "a GeoPackage that this run has written",
    "bundle.files:BundleOutput.write": "a bundle that this run writes",
    "outputs.commit:Note.at": "a note of a run",
    "outputs.locks:RunLock._take": "a lock of a run",
    "outputs.private:PrivateFolder.members": "a note of a run",
    "outputs.private:_looks_ours": "the mark of a run",
    "outputs.whole_files:_flush": "a file that this run has written",
    "products.qgis_form:add_form": "a GeoPackage that this run has written",
    "products.qgis:style_vectors": "a GeoPackage that this run has written",
    "products.sieve:Sieve.__init__": "a work file of this run",
    "products.sieve:_Table.__init__": "a work file of this run",
    "running.block_store:BlockStore.__init__": "blocks of a run",
    "running.block_journal:_lines_in": "blocks of a run",
    "running.block_journal:read_journal": "blocks of a run",
    "running.worker:block_here": "a plan that the run has sent to its own workers; no file",
    "scene.registration.kept:_read": "a shift in this package's own cache, with its size checked",
    "training.dataset:PatchReader._keep": "a work file of this run",
    "training.run_files:_read_run": "the state of a training",
    "training.run_files:read_record": "the state of a training",
    "training.run_files:read_answers": "the state of a training",
    "mapping.run:finished_map": "the report of a map, which pydantic checks",
    # No file of a user.
    "running.resources:available_memory": "what the system says about memory",
    "running.resources:resident_memory": "what the system says about memory",
    "cli.streams:open_streams": "the null device",
    "engines.shared_scan.workspace:_huge_pages": "memory without a file",
    "installation:_origin": "pip's record of this package",
    "workflows.doctor:_cpu_name": "the name of the processor",
}
"""Functions that read other files, with the reason why no door is needed."""


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


def calls_in(text: str, module: str) -> Iterator[tuple[str, str, ast.Call]]:
    """``module:function``, the name of the function that it calls, and the call, in a module's text."""
    tree = ast.parse(text)
    names = _imports(tree)

    def visit(node: ast.AST, where: tuple[str, ...]) -> Iterator[tuple[str, str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inside = where
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inside = (*where, child.name)
            if isinstance(child, ast.Call):
                yield f"{module}:{'.'.join(where) or 'module'}", _called(child, names), child
            yield from visit(child, inside)

    yield from visit(tree, ())


def openers_in(text: str, module: str) -> Iterator[tuple[str, str]]:
    """``module:function`` and the opener of geodata that it calls, for each call in a module's text."""
    known = {f"{m}.{f}" for m, some in OPENERS.items() for f in some}
    bare = {"ParquetFile", "read_table", "read_schema"}  # of a module that a function returns
    for where, name, _ in calls_in(text, module):
        if name in known or (name.rpartition(".")[2] in bare and name.rpartition(".")[0]):
            yield where, name


def plain_openers_in(text: str, module: str) -> Iterator[tuple[str, str]]:
    """As :func:`openers_in`, for calls that read a file of any other kind."""
    for where, name, call in calls_in(text, module):
        last, method = name.rpartition(".")[2], isinstance(call.func, ast.Attribute)
        if (
            name in PLAIN_OPENERS
            or (last in PLAIN_METHODS and method)
            or (last == "open" and _reads(name, call))
        ):
            yield where, name


def _reads(name: str, call: ast.Call) -> bool:
    """Whether a call of some ``open`` is Python's own, or that of a path, in a mode that reads."""
    builtin = isinstance(call.func, ast.Name) or name == "io.open"
    place = 1 if builtin else 0
    given = call.args[place:] + [k.value for k in call.keywords if k.arg == "mode"]
    modes = [n.value for one in given for n in ast.walk(one) if isinstance(n, ast.Constant)]
    texts = [m for m in modes if isinstance(m, str) and re.fullmatch(r"[rwaxbt+]{1,4}", m)]
    if not texts:
        # Without a mode it reads; an `open` of another kind has neither a mode nor such keywords.
        return builtin or any(k.arg in ("newline", "encoding", "errors") for k in call.keywords)
    return any("r" in m or "+" in m for m in texts)


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


def test_every_reader_of_other_files_is_a_door_or_has_a_reason() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for where, name in plain_openers_in(path.read_text(encoding="utf-8"), module):
            found.setdefault(where, set()).add(name)
    strange = {w: names for w, names in found.items() if w not in PLAIN_DOORS | PLAIN_OTHERS}
    assert not strange, "\n".join(f'"{w}": "{", ".join(sorted(n))}",' for w, n in sorted(strange.items()))
    gone = {*PLAIN_DOORS, *PLAIN_OTHERS} - {*found}
    assert not gone, f"no such function reads a file: {', '.join(sorted(gone))}"


def test_it_would_find_other_readers() -> None:
    text = (
        "import zipfile as z, numpy as np, sqlite3\nfrom pathlib import Path\nfrom torch import load\n"
        "def a(): open('x')\ndef b(): Path('x').open('rb')\ndef c(p): p.open('wb')\n"
        "def d(): z.ZipFile('x')\ndef e(): np.load('x')\ndef f(p): p.read_text()\ndef g(): load('x')\n"
        "def h(p): p.open(encoding='utf-8')\ndef i(r): r.open()\ndef j(): open('x', 'w')\n"
        "def k(p, kept): p.open('r+b' if kept else 'w+b')\ndef l(): sqlite3.connect('x')\n"
    )
    assert [w for w, _ in plain_openers_in(text, "m")] == [f"m:{c}" for c in "abdefghkl"]
