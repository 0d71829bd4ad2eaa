"""The cases of the fuzz test: a number and a seed give damaged inputs and a command."""

from __future__ import annotations

import random
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz import damage
from fuzz.damage import Damage


class Case:
    """Inputs in a folder of their own, and the command that reads them.

    Attributes
    ----------
    kind:
        The kind of input that is damaged.
    arguments:
        The command line.
    """

    def __init__(self, seed: int, number: int, base: Path, folder: Path) -> None:
        self.rng = random.Random(f"{seed}-{number}")
        self.base, self.inputs, self.out = base, folder / "in", folder / "out"
        self.work = folder / "work"
        for made in (self.inputs, self.out, self.work):
            made.mkdir(parents=True)
        kinds, weights = zip(*KINDS, strict=True)
        kind: Callable[[Case], list[str | Path]] = self.rng.choices(kinds, weights)[0]
        self.kind = kind.__name__.strip("_")
        self.arguments = [str(a) for a in kind(self)]

    def copied(self, *names: str) -> Path:
        """Files among the inputs of the case; the first of them."""
        for name in names:
            source = self.base / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.inputs / name)
        return self.inputs / names[0]

    def damaged(self, path: Path, how: Sequence[Damage]) -> Path:
        """A file of the inputs, damaged once."""
        path.write_bytes(self.rng.choice(how)(path.read_bytes(), self.rng))
        return path

    def sound(self, name: str) -> Path:
        """A file that is not damaged."""
        return self.base / name

    def classify(
        self, *more: str | Path, ms: Path | None = None, pan: Path | None = None
    ) -> list[str | Path]:
        """A map of a pair."""
        vectors = ["--no-vectors"] if self.rng.random() < 0.8 else []
        if self.rng.random() < 0.7:
            vectors += ["--coregister", "off"]
        return [
            *("classify", ms or self.sound("ms.tif"), pan or self.sound("pan.tif")),
            *("-o", self.out / "map.tif", "--model", self.sound("tiny"), *vectors, *more),
        ]

    def train(self, labels: Path, *more: str | Path) -> list[str | Path]:
        """A training of one step."""
        return [
            *(
                "train",
                self.sound("ms.tif"),
                self.sound("pan.tif"),
                "--labels",
                labels,
                "-o",
                self.out / "model",
            ),
            *("--steps", "1", "--assess", "none", "--from", "none", "--batch-size", "2", *more),
        ]


def _image(case: Case) -> list[str | Path]:
    """An image whose header, tags or tiles are damaged."""
    names = ("ms.tif", "tiled.tif", "lzw.tif", "packed.tif", "zstd.tif", "big.tif")
    if case.rng.random() < 0.25:
        pan = case.damaged(case.copied("pan.tif"), damage.TIFF)
        ms = case.sound("ms.tif")
    else:
        ms = case.damaged(case.copied(case.rng.choice(names)), damage.TIFF)
        pan = case.sound("pan.tif")
    command = case.rng.choice(("classify", "classify", "inspect", "align"))
    if command == "classify":
        return case.classify(ms=ms, pan=pan)
    more: list[str | Path] = ["-o", case.out / "o"] if command == "align" else ["--model", case.sound("tiny")]
    return [command, ms, pan, *more]


def _side_file(case: Case) -> list[str | Path]:
    """A world file, an .aux.xml or a VRT that is damaged."""
    if case.rng.random() < 0.4:
        case.copied("ms.tif")
        return case.classify(ms=case.damaged(case.copied("ms.vrt"), damage.TEXT))
    ms = case.copied("world.tif", "world.tfw", "world.tif.aux.xml")
    case.damaged(case.inputs / case.rng.choice(("world.tfw", "world.tif.aux.xml")), damage.TEXT)
    return case.classify(ms=ms)


def _map(case: Case) -> list[str | Path]:
    """A map or a raster of labels that is damaged, or its table of names."""
    if case.rng.random() < 0.4:
        raster = case.copied("ref.tif", "ref.tif.aux.xml")
        case.damaged(case.inputs / "ref.tif.aux.xml", damage.TEXT)
    else:
        raster = case.damaged(case.copied(case.rng.choice(("map.tif", "ref.tif"))), damage.TIFF)
    return case.rng.choice(
        (
            ["evaluate", raster, "--reference", case.sound("labels.gpkg")],
            ["evaluate", case.sound("map.tif"), "--reference", raster],
            ["preview", raster, "-o", case.out / "map.png"],
            case.classify("--mask", raster),
        )
    )


def _vector(case: Case) -> list[str | Path]:
    """Labels, an area or a mask that are damaged."""
    stem = case.rng.choice(("labels", "area"))
    ends = ["gpkg", "gpkg", "shp", "geojson"] + (["fgb", "parquet"] if stem == "labels" else [])
    end = case.rng.choice(ends)
    if end == "shp":
        path = case.copied(*(f"{stem}.{e}" for e in ("shp", "shx", "dbf", "prj", "cpg")))
        part = case.inputs / f"{stem}.{case.rng.choice(('shp', 'shp', 'shx', 'dbf', 'dbf', 'prj', 'cpg'))}"
        if case.rng.random() < 0.2:
            part.unlink()
        else:
            case.damaged(part, damage.TEXT if part.suffix in (".prj", ".cpg") else damage.BYTES)
    else:
        how = {"gpkg": damage.GPKG, "geojson": damage.JSON}.get(end, damage.BYTES)
        path = case.damaged(case.copied(f"{stem}.{end}"), how)
    uses = [case.classify("--aoi", path), case.classify("--mask", path)]
    if stem == "labels":
        uses += [["evaluate", case.sound("map.tif"), "--reference", path]] * 3
        uses += [case.train(path)]
    return case.rng.choice(uses)


def _bundle(case: Case) -> list[str | Path]:
    """A model whose card, weights or zip are damaged."""
    if case.rng.random() < 0.3:
        model = case.damaged(case.copied("tiny.zip"), damage.BYTES)
    else:
        model = case.copied("tiny")
        if case.rng.random() < 0.65:
            case.damaged(model / "model.json", damage.JSON)
        else:
            case.damaged(model / "model.safetensors", damage.WEIGHTS)
        if case.rng.random() < 0.2:
            packed = case.inputs / "packed.zip"
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(model.iterdir()):
                    archive.write(path, path.name)
            model = packed
    return case.rng.choice(
        (
            ["models", "show", model],
            ["models", "show", model, "--json"],
            case.classify("--model", model),
            case.classify("--model", model),
            ["inspect", case.sound("ms.tif"), case.sound("pan.tif"), "--model", model],
        )
    )


def _checkpoint(case: Case) -> list[str | Path]:
    """A checkpoint that is damaged."""
    net = case.damaged(case.copied(case.rng.choice(("net.pth", "old.pth"))), damage.BYTES)
    images = ("--ms", case.sound("ms.tif"), "--pan", case.sound("pan.tif"))
    return ["models", "import", net, *images, "-o", case.out / "model"]


_VALUES = {
    "--bands": ("blue=1", "blue=9", "x=1", "blue", "=", "blue=1,blue=2", "blue=nir"),
    "--nodata": ("nan", "inf", "1e400", "-1", "0", "65536"),
    "--mask": ("none.tif", "", ".", "/dev/null", "a|layername=b"),
    "--mask-values": ("1", "1-", "-", "5-1", "1-99999999999999999999", "a"),
    "--mask-bits": ("0", "64", "-1", "99999999999"),
    "--max-shift": ("0", "nan", "inf", "1e9", "0.1"),
    "--coregister": ("on", "off", "maybe"),
    "--aoi": ("", "none.gpkg", ".", "http://127.0.0.1:9/a.gpkg", "/vsizip//none.zip/a"),
    "--aoi-layer": ("", "x"),
    "--simplify": ("0", "inf", "nan", "-1", "1e300", "1e-300"),
    "--smooth": ("0", "1", "9", "1.5", "-1"),
    "--min-area": ("0", "inf", "nan", "-1", "1e300", "1e-300"),
    "--reject": ("0", "1", "0.5", "nan"),
    "--turns": ("0", "2", "3", "8"),
    "--batch-size": ("0", "1", "99999999999999", "1.5"),
    "--engine": ("patch", "shared", "onnx", "shard", ""),
    "--device": ("cpu", "gpu", "cuda:0", "cuda:99999999999999999999", "meta", ""),
    "--precision": ("fp32", "bf16", "fp16", ""),
    "--radiometry": ("scene", "tile"),
    "--vectors": ("a.gpkg", "a.SHP", "a", "a.txt", "/nowhere/a.gpkg", "s3://b/a.gpkg", ""),
    "--confidence": ("a.tif", "map.tif", ".", "a.png", ""),
    "--probabilities": ("p.tif", "s3://b/p.tif"),
    "--entropy": ("e.tif",),
    "--model": ("landsat8-gulf", "landsat8", "", ".", "/dev/null", "a" * 300),
}


def _options(case: Case) -> list[str | Path]:
    """Options with values that are at the end of their range, beyond it, or nonsense."""
    command = case.classify()
    for option in case.rng.sample(sorted(_VALUES), case.rng.choice((1, 2, 3))):
        values = _VALUES[option] if case.rng.random() < 0.8 else damage.TEXTS
        value = case.rng.choice([v for v in values if "\0" not in v])
        if option in ("--vectors", "--confidence", "--probabilities", "--entropy") and "/" not in value:
            value = str(case.out / value)
        command += [option, value]
    if case.rng.random() < 0.2:
        command.insert(
            case.rng.randrange(len(command) + 1), case.rng.choice(("--json", "-q", "--", "--resume"))
        )
    return command


def _settings(case: Case) -> list[str | Path]:
    """A file of settings, or a list of scenes, that is damaged."""
    if case.rng.random() < 0.5:
        return ["--config", case.damaged(case.copied("my.toml"), damage.TEXT), *case.classify()]
    listed = case.copied("scenes.csv", "ms.tif", "pan.tif", "labels.gpkg")
    case.damaged(listed, damage.TEXT)
    steps = ("--steps", "1", "--assess", "none", "--from", "none", "--batch-size", "2")
    return ["train", "--scenes", listed, "-o", case.out / "model", *steps]


KINDS = (
    (_image, 30), (_side_file, 10), (_map, 14), (_vector, 18), (_bundle, 14), (_checkpoint, 4), (_options, 8),
    (_settings, 2),
)  # fmt: skip
"""Kinds of cases, and how often they come."""
