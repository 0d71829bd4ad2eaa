"""Whatever is wrong with what a user gives: one clear line, the documented exit code, nothing left behind."""

from __future__ import annotations

import errno
import functools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
import torch
from command import COMMAND, ENVIRONMENT, Outcome, Run, listing, subprocess_run
from parity import published_state_dict
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from synthetic import make_pair, pair_grids, write_raster
from tiny import NAMES, tiny_bundle

from das2f_map.legend import Legend
from das2f_map.scene.grid import Grid

INPUT, LABELS, MODEL, OUTPUT, MISSING, DEVICE, USAGE = 3, 4, 5, 6, 7, 8, 2
"""The documented exit codes."""


class Files:
    """Sound and bad input files, each made when first asked for; and a folder for outputs."""

    def __init__(self, folder: Path, scene: tuple[Path, Path], model: Path) -> None:
        self.inputs, self.out = folder / "inputs", folder / "out"
        self.inputs.mkdir()
        self.out.mkdir()
        self.ms, self.pan = (Path(shutil.copy(p, self.inputs)) for p in scene)
        self.model = model
        self.map = self.out / "map.tif"

    @property
    def grid(self) -> Grid:
        with rasterio.open(self.ms) as src:
            return Grid(src.height, src.width, src.transform, src.crs)

    def text(self, name: str = "notes.tif", content: str = "not what the name says\n") -> Path:
        path = self.inputs / name
        path.write_text(content)
        return path

    def ms_like(self, name: str, **changes: object) -> Path:
        """The MS file with another profile."""
        with rasterio.open(self.ms) as src:
            values, profile = src.read(), src.profile
        with rasterio.open(self.inputs / name, "w", **{**profile, **changes}) as dst:
            dst.write(values)
        return self.inputs / name

    def virtual(self, source: Path) -> Path:
        """A VRT of another file."""
        path = source.with_suffix(f"{source.suffix}.vrt")
        rasterio.shutil.copy(source, path, driver="VRT")
        return path

    def cut_short(self, *, directory_in_front: bool) -> Path:
        """PAN with its last third missing; with the directory in front it can still be opened."""
        whole, path = self.pan, self.inputs / "cut.tif"
        if directory_in_front:
            whole = self.inputs / "whole.tif"
            with rasterio.open(self.pan) as src:
                rasterio.shutil.copy(src, whole, driver="COG", BLOCKSIZE=128)
        data = whole.read_bytes()
        path.write_bytes(data[: 2 * len(data) // 3])
        return path

    def cut_map(self) -> Path:
        """A map whose directory and position are there, but not its pixels in full size."""
        path = self.inputs / "cut.tif"
        with rasterio.open(self.ms) as src:
            profile = {**src.profile, "count": 1, "dtype": "uint8", "width": 640, "height": 640}
        classes = np.random.default_rng(0).integers(1, 4, (1, 640, 640), dtype=np.uint8)
        whole = self.inputs / "whole.tif"
        with rasterio.open(whole, "w", **{**profile, "driver": "COG", "blocksize": 128}) as dst:
            dst.write(classes)
        data = whole.read_bytes()
        path.write_bytes(data[: len(data) // 6])
        return path

    def pair(self, name: str, **how: object) -> tuple[Path, Path]:
        folder = self.inputs / name
        folder.mkdir()
        return make_pair(folder, ms_shape=(24, 28), **how)

    def boxes(
        self,
        name: str = "labels.gpkg",
        *,
        shift: float = 0.0,
        pixels: float = 6,
        field: str = "class",
        names: tuple[str, ...] = NAMES,
        lines: bool = False,
    ) -> Path:
        """Squares in the scene, one for each name, `pixels` MS pixels a side, moved by `shift` metres."""
        grid = self.grid
        shapes: list[shapely.Geometry] = []
        for i in range(len(names)):
            x, y = grid.pixel_to_map(6, 5 + 8 * i)
            box = shapely.box(x + shift, y - pixels * 8, x + shift + pixels * 8, y)
            shapes.append(shapely.LineString(box.exterior.coords) if lines else box)
        frame = geopandas.GeoDataFrame({field: list(names)}, geometry=shapes, crs=grid.crs)
        frame.to_file(self.inputs / name)
        return self.inputs / name

    def bundle(self, name: str, change: Callable[[Path], None]) -> Path:
        """A changed copy of the model."""
        shutil.copytree(self.model, self.inputs / name)
        change(self.inputs / name)
        return self.inputs / name

    def weights(self, name: str, **changes: torch.Tensor) -> Path:
        def change(folder: Path) -> None:
            path = folder / "model.safetensors"
            save_file(load_file(path) | {k.replace("__", "."): v for k, v in changes.items()}, path)

        return self.bundle(name, change)

    def class_raster(self, name: str = "landcover.tif", names: tuple[str, ...] = NAMES) -> Path:
        """A map of the scene as `classify` writes it, without waiting for one."""
        from das2f_map.products.class_raster import ClassRasterWriter

        legend, grid = Legend.from_names(names), self.grid
        classes = np.ones((grid.height, grid.width), np.uint8)
        classes[:, 9:18], classes[:, 18:] = 2, len(names)
        with ClassRasterWriter(self.inputs / name, grid, legend) as writer:
            writer.write(grid.window, classes, np.ones(classes.shape, np.float32))
        return self.inputs / name


@pytest.fixture
def files(tmp_path: Path, scene: tuple[Path, Path], model: Path) -> Files:
    return Files(tmp_path, scene, model)


Arguments = list["str | Path"]


def classify(f: Files, *more: str | Path, ms: str | Path = "", pan: str | Path = "") -> Arguments:
    return ["classify", ms or f.ms, pan or f.pan, "-o", f.map, "--model", f.model, *more]


def train(f: Files, labels: str | Path, *more: str | Path) -> Arguments:
    return ["train", f.ms, f.pan, "--labels", labels, "-o", f.out / "model", *more]


def load(f: Files, path: str | Path) -> Arguments:
    return ["classify", f.ms, f.pan, "-o", f.map, "--model", path]


def imported(f: Files, checkpoint: Path) -> Arguments:
    return ["models", "import", checkpoint, "--ms", f.ms, "--pan", f.pan, "-o", f.out / "bundle"]


def evaluate(f: Files, landcover: Path, reference: Path, *more: str | Path) -> Arguments:
    return ["evaluate", landcover, "--reference", reference, *more]


def _checkpoint(f: Files, content: object) -> Path:
    torch.save(content, f.inputs / "net.pth")
    return f.inputs / "net.pth"


@dataclass(frozen=True)
class Case:
    """A fault: its name, the command, the exit code, and words that error and hint must contain."""

    name: str
    command: Callable[[Files], Arguments]
    code: int
    says: tuple[str, ...]
    hints: str = ""


def _write_card(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.json").write_text(text) and None


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def _newer(folder: Path) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"format_version": 99}))


def _elsewhere(f: Files) -> Path:
    return f.pair("far", origin=(700_000.0, 5_000_000.0))[1]


def _no_data(f: Files) -> tuple[Path, Path]:
    return f.pair("black", nodata=0, ms_invalid=[(slice(None), slice(None))])


NAN = torch.full((3,), float("nan"))

CASES = (
    # images
    Case(
        "missing MS", lambda f: classify(f, ms="nowhere.tif"), INPUT, ("MS file nowhere.tif does not exist",)
    ),
    Case("missing PAN", lambda f: classify(f, pan="no.tif"), INPUT, ("PAN file no.tif does not exist",)),
    Case(
        "not a raster", lambda f: classify(f, ms=f.text()), INPUT, ("notes.tif cannot be opened as a raster",)
    ),
    Case(
        "a folder", lambda f: classify(f, ms=f.inputs), INPUT, ("inputs is a folder",), "name the image file"
    ),
    Case(
        "no CRS",
        lambda f: classify(f, ms=f.ms_like("plain.tif", crs=None)),
        INPUT,
        ("plain.tif has no coordinate reference system",),
        "gdal_edit.py -a_srs",
    ),
    Case(
        "no overlap",
        lambda f: classify(f, pan=_elsewhere(f)),
        INPUT,
        ("do not overlap", "ms.tif", "far/pan.tif"),
    ),
    Case(
        "MS and PAN swapped",
        lambda f: classify(f, ms=f.pan, pan=f.ms),
        INPUT,
        ("look swapped", "ms.tif", "pan.tif"),
        "multispectral file first",
    ),
    Case("two MS files", lambda f: classify(f, pan=f.ms), INPUT, ("ms.tif has 4 bands",), "gdal_translate"),
    Case(
        "bands unlike the model's",
        lambda f: ["classify", *f.pair("three", bands=3), "-o", f.map, "--model", f.model],
        MODEL,
        ("'tiny' does not fit", "needs 4 MS bands (blue, green, red, nir)", "three/ms.tif has 3"),
    ),
    Case(
        "bands that are not there",
        lambda f: [*classify(f), "--bands", "nir=9"],
        INPUT,
        ("ms.tif has no band 9 for nir: it has 4",),
    ),
    Case(
        "bands the model does not know",
        lambda f: [*classify(f), "--bands", "swir=4"],
        MODEL,
        ("'tiny' does not fit", "no band 'swir', it takes blue, green, red, nir"),
    ),
    Case(
        "ratio far from 4",
        lambda f: ["classify", *f.pair("wide", ratio=10), "-o", f.map, "--model", f.model],
        INPUT,
        ("10", "wide/ms.tif", "wide/pan.tif"),
        "--force",
    ),
    Case(
        "all nodata",
        lambda f: ["classify", *_no_data(f), "-o", f.map, "--model", f.model],
        INPUT,
        ("no pixel is valid in both", "black/ms.tif", "black/pan.tif"),
        "gdalinfo",
    ),
    Case(
        "all nodata, no model given",
        lambda f: ["classify", *_no_data(f), "-o", f.map],
        INPUT,
        ("no pixel is valid in both", "black/ms.tif"),
    ),
    Case(
        "image cut short at its directory",
        lambda f: classify(f, pan=f.cut_short(directory_in_front=False)),
        INPUT,
        ("PAN file", "cut.tif cannot be opened"),
    ),
    Case(
        "image cut short in its data",
        lambda f: classify(f, pan=f.cut_short(directory_in_front=True)),
        INPUT,
        ("PAN file", "cut.tif cannot be read"),
        "damaged or cut short",
    ),
    # areas of interest
    Case("missing area", lambda f: classify(f, "--aoi", "aoi.gpkg"), INPUT, ("aoi.gpkg does not exist",)),
    Case(
        "area elsewhere",
        lambda f: classify(f, "--aoi", f.boxes("aoi.gpkg", shift=1e5)),
        INPUT,
        ("aoi.gpkg does not touch the scene",),
    ),
    Case(
        "area of lines",
        lambda f: classify(f, "--aoi", f.boxes("aoi.gpkg", lines=True)),
        INPUT,
        ("aoi.gpkg has LineString features",),
    ),
    Case(
        "area over nodata only",
        lambda f: classify(f, "--aoi", _corner(f)),
        INPUT,
        ("corner.gpkg covers no pixel that is valid",),
    ),
    Case(
        "area not a vector", lambda f: classify(f, "--aoi", f.text("a.shp")), INPUT, ("a.shp cannot be read",)
    ),
    # models
    Case("unknown model", lambda f: load(f, "quickbird"), MODEL, ("no model 'quickbird'",), "bundled models"),
    Case(
        "truncated weights",
        lambda f: load(f, f.bundle("short", _truncate)),
        MODEL,
        ("short", "model.safetensors is damaged"),
    ),
    Case(
        "broken card",
        lambda f: load(f, f.bundle("card", _write_card('{"format_version": 1,'))),
        MODEL,
        ("card", "model.json is not a das2f-map model card"),
    ),
    Case(
        "foreign card",
        lambda f: load(f, f.bundle("other", _write_card('{"weights": [1, 2]}'))),
        MODEL,
        ("other", "model.json is not a das2f-map model card"),
    ),
    Case(
        "newer card", lambda f: load(f, f.bundle("new", _newer)), MODEL, ("new", "format"), "update das2f-map"
    ),
    Case(
        "weights of another network",
        lambda f: load(f, f.weights("odd", classifier__out__bias=torch.zeros(7))),
        MODEL,
        ("odd", "classifier.out.bias is 7, should be 3"),
    ),
    Case(
        "weights not numbers",
        lambda f: load(f, f.weights("nan", classifier__out__bias=NAN)),
        MODEL,
        ("nan", "1 not finite (classifier.out.bias)"),
    ),
    Case("model a text file", lambda f: load(f, f.text("m.zip")), MODEL, ("m.zip is not a model bundle",)),
    Case("model an empty folder", lambda f: load(f, f.out), MODEL, ("out is not a model bundle",)),
    Case(
        "show what is not there", lambda f: ["models", "show", "quickbird"], MODEL, ("no model 'quickbird'",)
    ),
    Case(
        "foreign checkpoint",
        lambda f: imported(f, _checkpoint(f, {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)})),
        MODEL,
        ("net.pth is not a checkpoint of the published network", "fc.weight"),
    ),
    Case(
        "checkpoint that holds no tensors",
        lambda f: imported(f, _checkpoint(f, {"epoch": 3, "loss": 0.5})),
        MODEL,
        ("net.pth holds no state dict",),
    ),
    Case(
        "text for a checkpoint",
        lambda f: imported(f, f.text("net.pth")),
        MODEL,
        ("net.pth is not a checkpoint that can be read",),
    ),
    Case("missing checkpoint", lambda f: imported(f, Path("no.pth")), MODEL, ("no.pth",)),
    # outputs
    Case(
        "output exists",
        lambda f: classify(f, "-o", f.text("old.tif")),
        OUTPUT,
        ("old.tif exists already",),
        "--overwrite",
    ),
    Case(
        "output a source of the scene",
        lambda f: classify(f, "-o", f.ms, "--overwrite", ms=f.virtual(f.virtual(f.ms))),
        OUTPUT,
        ("ms.tif is also an input",),
    ),
    Case(
        "polygons with an exclamation mark",
        lambda f: classify(f, "-o", f.out / "a!b.tif"),
        OUTPUT,
        ("a!b.gpkg",),
        "--no-vectors",
    ),
    Case(
        "polygons in capitals",
        lambda f: classify(f, "--vectors", f.out / "h.SHP"),
        OUTPUT,
        ("h.SHP", "lower case"),
        "h.shp",
    ),
    Case(
        "polygons exist",
        lambda f: classify(f, "--vectors", f.text("old.gpkg")),
        OUTPUT,
        ("old.gpkg exists already",),
        "--overwrite",
    ),
    Case(
        "folder of the output missing",
        lambda f: classify(f, "-o", f.out / "new" / "map.tif"),
        OUTPUT,
        ("out/new does not exist",),
        "mkdir",
    ),
    Case("output a folder", lambda f: classify(f, "-o", f.out), OUTPUT, ("out",)),
    Case(
        "output no GeoTIFF",
        lambda f: classify(f, "-o", f.out / "map.png"),
        OUTPUT,
        ("map.png is not a GeoTIFF",),
    ),
    Case(
        "output is an input",
        lambda f: classify(f, "-o", f.ms, "--overwrite"),
        OUTPUT,
        ("ms.tif is also an input",),
    ),
    Case(
        "output is an input, spelled otherwise",
        lambda f: classify(f, "-o", f.out / ".." / "inputs" / "pan.tif", "--overwrite"),
        OUTPUT,
        ("pan.tif is also an input",),
    ),
    Case(
        "two outputs at one path",
        lambda f: classify(f, "--confidence", f.map),
        OUTPUT,
        ("two outputs have the same path",),
    ),
    Case(
        "unknown vector format",
        lambda f: classify(f, "--vectors", f.out / "map.kmz"),
        OUTPUT,
        ("unknown vector format '.kmz'", "map.kmz"),
        ".gpkg",
    ),
    Case(
        "confidence no GeoTIFF",
        lambda f: classify(f, "--confidence", f.out / "sure.png"),
        OUTPUT,
        ("sure.png is not a GeoTIFF",),
    ),
    Case(
        "probabilities and entropy at one path",
        lambda f: classify(f, "--probabilities", f.out / "p.tif", "--entropy", f.out / "p.tif"),
        OUTPUT,
        ("two outputs have the same path", "p.tif"),
    ),
    Case(
        "entropy no GeoTIFF",
        lambda f: classify(f, "--entropy", f.out / "entropy.png"),
        OUTPUT,
        ("entropy.png is not a GeoTIFF",),
    ),
    # devices
    Case(
        "device that is not there",
        lambda f: classify(f, "--device", "cuda:99"),
        DEVICE,
        ("device 'cuda:99' is not available",),
        "--device",
    ),
    # training
    Case("missing labels", lambda f: train(f, "no.gpkg"), LABELS, ("no.gpkg does not exist",)),
    Case("labels not geodata", lambda f: train(f, f.text("l.gpkg")), LABELS, ("l.gpkg is neither",)),
    Case(
        "labels elsewhere",
        lambda f: train(f, f.boxes(shift=1e5)),
        LABELS,
        ("labels.gpkg lie outside the images",),
    ),
    Case(
        "unknown class field",
        lambda f: train(f, f.boxes(), "--class-field", "klass"),
        LABELS,
        ("labels.gpkg have no field 'klass'",),
        "class",
    ),
    Case(
        "no field is plainly the class",
        lambda f: train(f, _two_fields(f)),
        LABELS,
        ("not clear",),
        "--class-field",
    ),
    Case(
        "too few samples",
        lambda f: train(f, f.boxes(pixels=2)),
        LABELS,
        ("labels.gpkg", "at least 5 labelled pixels", "there is no class", "'water' with 4"),
        "label more, or merge classes",
    ),
    Case("labels of lines", lambda f: train(f, f.boxes(lines=True)), LABELS, ("labels.gpkg", "LineString")),
    Case(
        "unknown class to skip",
        lambda f: train(f, f.boxes(), "--skip-class", "snow"),
        LABELS,
        ("labels.gpkg has no class 'snow'",),
    ),
    Case(
        "list of scenes that is none",
        lambda f: train(f, f.boxes(), "--scenes", f.text("scenes.csv")),
        INPUT,
        ("scenes.csv has no column ms, pan, labels",),
        "the first line is ms,pan,labels",
    ),
    Case(
        "list of scenes with a gap",
        lambda f: ["train", "--scenes", f.text("s.csv", "ms,pan,labels\n,p.tif,c.gpkg\n"), "-o", f.out / "m"],
        INPUT,
        ("s.csv, line 2: ms, pan and labels are needed",),
    ),
    Case(
        "no model to start from",
        lambda f: train(f, f.boxes(), "--from", "nowhere"),
        MODEL,
        ("nowhere",),
    ),
    Case(
        "training over another folder",
        lambda f: [*train(f, f.boxes()), "-o", f.inputs],
        OUTPUT,
        ("inputs exists and is not a model bundle",),
    ),
    Case("nothing to resume", lambda f: train(f, f.boxes(), "--resume"), OUTPUT, ("model", "resume")),
    # maps
    Case(
        "evaluate: no map",
        lambda f: evaluate(f, Path("no.tif"), f.boxes()),
        INPUT,
        ("no.tif does not exist",),
    ),
    Case(
        "evaluate: not a raster",
        lambda f: evaluate(f, f.text(), f.boxes()),
        INPUT,
        ("notes.tif is not a raster",),
    ),
    Case(
        "evaluate: an image",
        lambda f: evaluate(f, f.ms_like("f.tif", dtype="float32"), f.boxes()),
        INPUT,
        ("f.tif",),
    ),
    Case(
        "evaluate: no class in common",
        lambda f: evaluate(f, f.class_raster(), f.boxes(names=("ice", "rock"))),
        LABELS,
        ("landcover.tif", "labels.gpkg", "no class in common"),
        "ice, rock",
    ),
    Case(
        "evaluate: reference elsewhere",
        lambda f: evaluate(f, f.class_raster(), f.boxes(shift=1e5)),
        LABELS,
        ("labels.gpkg",),
        "CRS",
    ),
    Case(
        "evaluate: no reference", lambda f: evaluate(f, f.class_raster(), Path("r.shp")), LABELS, ("r.shp",)
    ),
    Case(
        "evaluate: map cut short",
        lambda f: evaluate(f, f.cut_map(), f.class_raster()),
        INPUT,
        ("map", "cut.tif cannot be read"),
        "damaged or cut short",
    ),
    Case(
        "evaluate: reference cut short",
        lambda f: evaluate(f, f.class_raster(), f.cut_map()),
        LABELS,
        ("label raster", "cut.tif cannot be read"),
        "damaged or cut short",
    ),
    Case(
        "label raster cut short",
        lambda f: train(f, f.cut_map(), "--steps", "1"),
        LABELS,
        ("label raster", "cut.tif cannot be read"),
        "damaged or cut short",
    ),
    Case(
        "preview: map cut short",
        lambda f: ["preview", f.cut_map(), "-o", f.out / "p.png"],
        INPUT,
        ("cannot be read", "cut.tif"),
    ),
    Case(
        "preview: not a PNG",
        lambda f: ["preview", f.class_raster(), "-o", f.out / "p.jpg"],
        OUTPUT,
        ("p.jpg is not a PNG",),
    ),
    Case("preview: no map", lambda f: ["preview", "no.tif", "-o", f.out / "p.png"], INPUT, ("no.tif",)),
    Case(
        "preview: not a raster", lambda f: ["preview", f.text(), "-o", f.out / "p.png"], INPUT, ("notes.tif",)
    ),
    Case(
        "preview: an image",
        lambda f: ["preview", f.ms, "-o", f.out / "p.png"],
        INPUT,
        ("ms.tif has 4 bands",),
    ),
    Case(
        "preview: output exists",
        lambda f: ["preview", f.class_raster(), "-o", f.text("old.png")],
        OUTPUT,
        ("old.png exists already",),
        "--overwrite",
    ),
    Case(
        "preview: no such folder",
        lambda f: ["preview", f.class_raster(), "-o", f.out / "new" / "p.png"],
        OUTPUT,
        ("out/new does not exist",),
    ),
)


def _corner(f: Files) -> Path:
    """An area over the scene's nodata corner."""
    grid = f.grid
    x, y = grid.pixel_to_map(0, 0)
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(x, y - 20, x + 20, y)], crs=grid.crs)
    frame.to_file(f.inputs / "corner.gpkg")
    return f.inputs / "corner.gpkg"


def _two_fields(f: Files) -> Path:
    frame = geopandas.read_file(f.boxes(field="a")).assign(b=[1, 2, 3])
    frame.to_file(f.inputs / "two.gpkg")
    return f.inputs / "two.gpkg"


def check(outcome: Outcome, code: int, says: tuple[str, ...], hints: str = "") -> None:
    """Check that there is one error line, at most one hint, no result and no traceback."""
    assert outcome.code == code, outcome.err
    assert len(outcome.errors) == 1, outcome.err
    assert len(outcome.hints) <= 1, outcome.err
    for phrase in says:
        assert phrase in outcome.errors[0]
    assert hints in "".join(outcome.hints)
    assert "Traceback" not in outcome.err
    assert not outcome.errors[0].startswith("error: unexpected"), outcome.err
    assert outcome.out == ""
    # The hint is the last line on the screen.
    assert outcome.err.splitlines()[-1] in (outcome.errors + outcome.hints)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_one_clear_line_and_nothing_left(case: Case, files: Files, run: Run, tmp_path: Path) -> None:
    arguments = case.command(files)
    before = listing(tmp_path)
    outcome = run(*arguments)
    check(outcome, case.code, case.says, case.hints)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (lambda f: classify(f, ms="nowhere.tif"), INPUT, "nowhere.tif does not exist"),
        (lambda f: classify(f, ms=f.pan, pan=f.ms), INPUT, "look swapped"),
        (lambda f: classify(f, "-o", f.text("old.tif")), OUTPUT, "old.tif exists already"),
        (lambda f: train(f, f.boxes(), "--class-field", "klass"), LABELS, "no field 'klass'"),
    ],
    ids=["missing", "swapped", "exists", "field"],
)
@pytest.mark.slow
def test_the_installed_command_says_the_same(arguments, code, says, files: Files, tmp_path: Path) -> None:
    command = arguments(files)
    before = listing(tmp_path)
    check(subprocess_run(*command), code, (says,))
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_debug_shows_where_it_failed(files: Files, run: Run) -> None:
    quiet = subprocess_run(*classify(files, ms="nowhere.tif"))
    loud = subprocess_run("--debug", *classify(files, ms="nowhere.tif"))
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err
    assert "InputError: MS file nowhere.tif does not exist" in loud.err
    assert loud.code != 0


def test_a_bug_is_called_one(files: Files, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("the sky\nfell")

    monkeypatch.setattr("das2f_map.running.blocks.BlockClassifier.classify_all", fail)
    before = listing(tmp_path)
    outcome = run(*classify(files))
    assert outcome.code == 70
    assert outcome.errors == ["error: unexpected RuntimeError: the sky fell"]
    assert "bug" in outcome.hints[0]
    assert listing(tmp_path) == before


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_model_files_never_run_code(files: Files, run: Run, tmp_path: Path) -> None:
    bomb = pickle.dumps(_Bomb(tmp_path / "boom"))
    pickle.loads(bomb)
    (tmp_path / "boom").unlink()  # which shows that it works
    raw, wrapped = files.inputs / "raw.pth", files.inputs / "wrapped.pth"
    raw.write_bytes(bomb)
    torch.save({"state_dict": _Bomb(tmp_path / "boom")}, wrapped)
    disguised = files.bundle("disguised", lambda b: (b / "model.safetensors").write_bytes(bomb) and None)
    before = listing(tmp_path)
    for command, says in (
        (imported(files, raw), "raw.pth is not a checkpoint that can be read safely"),
        (imported(files, wrapped), "wrapped.pth is not a checkpoint that can be read safely"),
        (load(files, raw), "raw.pth is not a model bundle"),
        (load(files, wrapped), "wrapped.pth is not a model bundle"),
        (load(files, disguised), "model.safetensors is damaged"),
    ):
        outcome = run(*command)
        check(outcome, MODEL, (says,))
        assert "weights_only" not in outcome.err, "must not advise to read the file unsafely"
    assert listing(tmp_path) == before


def test_a_checkpoint_of_another_network_is_told_what_is_odd(files: Files, run: Run, tmp_path: Path) -> None:
    state = {
        "classifier.classifier_2.weight": torch.zeros(5, 1024),
        "classifier.classifier_2.bias": torch.zeros(4),
        "decoder.weight": torch.zeros(1),
    }
    checkpoint = _checkpoint(files, state)
    before = listing(tmp_path)
    outcome = run(*imported(files, checkpoint))
    check(
        outcome,
        MODEL,
        (
            "missing (",
            "1 unexpected (decoder.weight)",
            "classifier.classifier_2.bias is 4, should be 5",
            "and ",
        ),
        "published one- or two-stage network",
    )
    assert listing(tmp_path) == before


def test_near_miss_of_a_models_name(files: Files, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("das2f_map.bundle.catalogue.bundled_models", lambda: {"landsat8-gulf": files.model})
    for command in (load(files, "landsat8gulf"), ["models", "show", "landsat8gulf"]):
        outcome = run(*command)
        check(outcome, MODEL, ("no model 'landsat8gulf'",), "did you mean 'landsat8-gulf'?")


def test_no_bundled_model_fits(
    files: Files, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.bundle("other", lambda b: None)
    card = json.loads((path / "model.json").read_text())
    card["domain"]["ms_gsd_m"] = [24.0, 37.5]
    (path / "model.json").write_text(json.dumps(card))
    monkeypatch.setattr("das2f_map.bundle.fit.bundled_models", lambda: {"coarse": path})
    before = listing(tmp_path)
    outcome = run("classify", files.ms, files.pan, "-o", files.map)
    check(
        outcome,
        MODEL,
        ("no bundled model fits", "coarse: it is for MS pixels of 24 to 37.5 m, these have 8 m"),
        f"das2f-map train {files.ms} {files.pan} --labels",
    )
    assert listing(tmp_path) == before


def test_cuda_where_there_is_none(
    files: Files, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    labels = files.boxes()
    before = listing(tmp_path)
    for command in (classify(files, "--device", "cuda:0"), train(files, labels, "--device", "cuda")):
        check(run(*command), DEVICE, ("'cuda", "is not available"), "--device cpu")
    assert listing(tmp_path) == before


def test_packages_that_are_not_installed(
    files: Files, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = files.boxes()
    before = listing(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    outcome = run(*classify(files, "--vectors", files.out / "map.parquet"))
    check(outcome, MISSING, ("map.parquet needs pyarrow",), "pip install")
    for name in [n for n in sys.modules if n.split(".")[0] == "lightning"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "das2f_map.training.loop", raising=False)
    monkeypatch.delattr("das2f_map.training.loop", raising=False)
    outcome = run(*train(files, labels))
    check(outcome, MISSING, ("lightning", "not installed"), "[train]")
    assert listing(tmp_path) == before


# Outputs that cannot be written


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder nobody can write into. Permissions do not stop root, so root gets a folder of the kernel."""
    if os.geteuid() == 0:
        yield Path("/sys")
        return
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


def test_folder_that_cannot_be_written(files: Files, run: Run, tmp_path: Path, unwritable: Path) -> None:
    """The first output is fine, the second not: neither may appear."""
    landcover = files.class_raster()
    before = listing(tmp_path)
    for command in (
        classify(files, "-o", unwritable / "map.tif"),
        classify(files, "--vectors", unwritable / "map.gpkg"),
        ["preview", landcover, "-o", unwritable / "map.png"],
    ):
        check(run(*command), OUTPUT, ("cannot write", str(unwritable)))
    assert listing(tmp_path) == before


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        folder = tmp_path / f"disk{kib}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("needs the right to mount a small file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kib", [4, 16, 64, 128])
def test_full_disk(kib: int, files: Files, run: Run, tiny_disk: Callable[[int], Path]) -> None:
    """The disk is too small, or fills up while the raster, its overviews or the polygons are written."""
    disk = tiny_disk(kib)
    says = (" free", "need 2.0 kB") if kib == 16 else ("cannot write", "is full")
    check(run(*classify(files, "-o", disk / "map.tif")), OUTPUT, (*says, str(disk)), "free some space")
    assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kib", [16, 128])
def test_full_disk_says_one_line(kib: int, files: Files, tiny_disk: Callable[[int], Path]) -> None:
    """Standard error holds the error and the hint alone: no line that a C library writes there."""
    disk = tiny_disk(kib)
    outcome = subprocess_run("-q", *classify(files, "-o", disk / "map.tif"))
    assert outcome.code == OUTPUT
    assert [line.split(":")[0] for line in outcome.err.splitlines()] == ["error", "hint"], outcome.err
    assert list(disk.iterdir()) == []


def test_full_disk_keeps_what_was_there(files: Files, run: Run, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(128)
    (disk / "map.tif").write_text("the old map")
    outcome = run(*classify(files, "-o", disk / "map.tif", "--overwrite"))
    check(outcome, OUTPUT, ("cannot write", "is full"))
    assert (disk / "map.tif").read_text() == "the old map"
    # Finished blocks are kept, to go on with when there is room; `clean` is the other way.
    assert sorted(p.name for p in disk.iterdir()) in (["map.tif"], [".map.tif.das2f-map", "map.tif"])
    assert run("clean", disk).code == 0
    assert [p.name for p in disk.iterdir()] == ["map.tif"]


def test_full_disk_for_a_picture(files: Files, run: Run, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(16)
    check(
        run("preview", files.class_raster(), "-o", disk / "map.png"),
        OUTPUT,
        ("cannot write", str(disk), "is full"),
    )
    assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_full_disk_for_a_model(files: Files, run: Run, tiny_disk: Callable[[int], Path]) -> None:
    checkpoint = _checkpoint(files, published_state_dict(1))
    disk = tiny_disk(1024)
    for name in ("bundle", "bundle.zip"):
        check(
            run(*imported(files, checkpoint), "-o", disk / name), OUTPUT, (str(disk / name), "No space left")
        )
        assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kib", [16, 128, 256])
def test_full_disk_for_an_aligned_pair(kib: int, files: Files, tiny_disk: Callable[[int], Path]) -> None:
    grids = pair_grids(ms_shape=(96, 96))
    ground = 2500 + 3000 * gaussian_filter(np.random.default_rng(0).normal(size=(384, 384)), 3)
    means = ground.reshape(96, 4, 96, 4).mean(axis=(1, 3))
    ms = write_raster(files.inputs / "field.tif", np.stack([means, 0.9 * means]), grids[0])
    pan = write_raster(files.inputs / "field-pan.tif", ground[None], grids[1])
    disk = tiny_disk(kib)
    outcome = subprocess_run("-q", "align", ms, pan, "-o", disk / "aligned")
    assert outcome.code == OUTPUT, outcome.err
    assert [line.split(":")[0] for line in outcome.err.splitlines()] == ["error", "hint"], outcome.err
    assert list(disk.iterdir()) == []


def test_full_disk_at_the_report(
    files: Files, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file of all fails, when raster and polygons are complete."""
    write_text = Path.write_text

    def fail(path: Path, *args: object, **options: object) -> int:
        if path.name == "map.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    before = listing(tmp_path)
    check(run(*classify(files)), OUTPUT, ("cannot write", str(files.out), "is full"))
    assert listing(tmp_path) == before


def test_failures_keep_the_outputs_they_would_replace(files: Files, run: Run, tmp_path: Path) -> None:
    files.map.write_text("the old map")
    files.map.with_suffix(".gpkg").write_text("the old polygons")
    ms, pan = _no_data(files)
    before = listing(tmp_path)
    check(run(*classify(files, "--overwrite", ms=ms, pan=pan)), INPUT, ("no pixel is valid",))
    assert listing(tmp_path) == before
    assert files.map.read_text() == "the old map"


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted", id="Ctrl-C", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "terminated", id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_stopped_in_the_middle(
    sent: signal.Signals, code: int, word: str, files: Files, tmp_path: Path
) -> None:
    folder = files.inputs / "large"
    folder.mkdir()
    ms, pan = make_pair(folder, ms_shape=(320, 320))
    files.map.write_text("the old map")
    before = listing(tmp_path)
    command = [*COMMAND, *map(str, classify(files, "--overwrite", ms=ms, pan=pan))]
    # What runs in the background of a shell ignores Ctrl-C, and so would what it starts.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, preexec_fn=heard
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:  # ends if the command does
            if "engine" in line:
                break
        time.sleep(0.5)  # in the middle of the classification, then
        assert listing(tmp_path) != before, "it should have begun to write"
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == word
    assert "Traceback" not in err
    assert listing(tmp_path) == before


def test_options_that_contradict_each_other(files: Files, run: Run, tmp_path: Path) -> None:
    before = listing(tmp_path)
    for more, says in (
        (("--no-vectors", "--vectors", "a.gpkg"), "contradict"),
        (("--no-vectors", "--simplify", "5"), "--simplify"),
        (("--simplify", "-1"), "--simplify"),
        (("--batch-size", "0"), "--batch-size"),
        (("--bands", "blue"), "--bands"),
        (("--radiometry", "tile"), "--radiometry"),
        (("--min-area", "-1"), "--min-area"),
    ):
        outcome = run(*classify(files, *more))
        assert outcome.code == USAGE
        assert says in outcome.err
        assert outcome.out == ""
    assert listing(tmp_path) == before


def test_existing_bundles_are_kept(files: Files, run: Run, tmp_path: Path) -> None:
    tiny_bundle(files.out, "model")
    tiny_bundle(files.out, "bundle")
    labels, checkpoint = files.boxes(), files.text("net.pth")
    before = listing(tmp_path)
    check(run(*train(files, labels)), OUTPUT, ("out/model exists already",), "--overwrite")
    check(run(*imported(files, checkpoint)), OUTPUT, ("out/bundle exists",), "--overwrite")
    assert listing(tmp_path) == before


def test_overwrite_is_for_bundles_only(files: Files, run: Run, tmp_path: Path) -> None:
    """A folder with other content stays, with or without --overwrite."""
    checkpoint = _checkpoint(files, published_state_dict(1))
    before = listing(tmp_path)
    for command in (imported(files, checkpoint), train(files, files.ms)):
        outcome = run(*command, "-o", files.inputs, "--overwrite")
        check(outcome, OUTPUT, ("inputs exists and is not a model bundle",))
        assert listing(tmp_path) == before
