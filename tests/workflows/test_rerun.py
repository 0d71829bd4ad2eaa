"""A run that is done again from its report gives the same files, or is refused where its inputs changed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from block_runs import SIDE, after
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
import das2f_map.mapping.planned as planned_module
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import Das2fMapError, InputError, ModelError, OutputError
from das2f_map.running.recorded import RecordedRun
from das2f_map.scene import fingerprint
from das2f_map.scene.fingerprint import Fingerprint
from das2f_map.scene.mask import MaskFile

TIME = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pair, a model and a map of both, made from within the folder."""
    folder = tmp_path_factory.mktemp("run")
    make_pair(folder, ms_shape=(40, 60))
    tiny_bundle(folder, patch=8)
    (folder / "maps").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        das2f_map.classify(
            "ms.tif", "pan.tif", "maps/m.tif", model="tiny", confidence="maps/m_sure.tif", reject=0.4,
            bands={"blue": 1, "green": 2, "red": 3, "nir": 4}, coregistration="off", device="cpu",
        )  # fmt: skip
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it in another place."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


def contents(folder: Path, stem: str) -> dict[str, bytes]:
    """Files of a map by the rest of their name, without the report and a GeoPackage's times of change."""
    files = (p for p in folder.iterdir() if p.suffix != ".json")
    return {p.name.removeprefix(stem): TIME.sub(b"", p.read_bytes()) for p in files}


@pytest.mark.slow
def test_report_records_the_run(made: Path) -> None:
    report = json.loads((made / "maps" / "m.json").read_text())
    given = report["request"]
    assert (given["ms"], given["pan"], given["output"]) == ("ms.tif", "pan.tif", "maps/m.tif")
    assert (given["model"], given["reject"], given["engine"]) == ("tiny", 0.4, "auto")
    assert given["bands"] == {"blue": 1, "green": 2, "red": 3, "nir": 4}
    assert not {"overwrite", "resume", "workers", "max_memory", "cluster"} & {*given}
    inputs = {one["path"]: one for one in report["inputs"]}
    assert {*inputs} == {"ms.tif", "pan.tif"}
    assert inputs["ms.tif"]["bytes"] == (made / "ms.tif").stat().st_size
    assert {*report["checksums"]} == {"raster", "vectors", "confidence"}


@pytest.mark.slow
def test_same_files_elsewhere(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder / "maps", "m")
    (folder / "again").mkdir()
    monkeypatch.chdir(folder.parent)  # not where the run was
    again = das2f_map.rerun("moved/maps/m.json", folder / "again" / "n.tif")
    assert (again.same, again.differing) == (("raster", "confidence"), ())
    assert {p.name for p in (folder / "again").iterdir()} >= {"n.tif", "n_sure.tif", "n.gpkg", "n.json"}
    after = contents(folder / "again", "n")
    # A style's name in a GeoPackage, and its layers, do not depend on the file's name.
    assert after == before
    assert contents(folder / "maps", "m") == before
    # A rerun of the rerun.
    assert das2f_map.rerun(folder / "again" / "n.json", overwrite=True).same == ("raster", "confidence")


@pytest.mark.slow
def test_options_that_shape_the_products_are_kept(folder: Path) -> None:
    (folder / "again").mkdir()
    das2f_map.classify(
        folder / "ms.tif", folder / "pan.tif", folder / "maps" / "d.tif", model=folder / "tiny",
        coregistration="off", device="cpu", every=2, min_area_m2=2000.0, simplify_m=20.0,
        confidence=folder / "maps" / "d_sure.tif",
    )  # fmt: skip
    again = das2f_map.rerun(folder / "maps" / "d.json", folder / "again" / "d.tif")
    assert (again.same, again.differing) == (("raster", "confidence"), ())
    settings = again.report.settings
    assert (settings.every, settings.min_area_m2, settings.simplify_m) == (2, 2000.0, 20.0)
    after = contents(folder / "again", "d")
    assert {
        name: content for name, content in contents(folder / "maps", "d").items() if name in after
    } == after


@pytest.mark.slow
def test_styled_map_is_made_with_the_first_names(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    raster = folder / "maps" / "m.tif"
    before = raster.read_bytes()
    legend = [{"id": i, "name": f"new {i}"} for i in (2, 5, 9)]
    (folder / "legend.json").write_text(json.dumps({"classes": legend}))
    das2f_map.style(raster, folder / "legend.json")
    report = json.loads((folder / "maps" / "m.json").read_text())
    assert [c["name"] for c in report["classes"]] == ["new 2", "new 5", "new 9", "unsure"]
    assert report["checksums"]["raster"] == Fingerprint.of(raster).sha256
    assert report["checksums"]["vectors"] == Fingerprint.of(folder / "maps" / "m.gpkg").sha256
    assert raster.read_bytes() != before
    with pytest.raises(OutputError, match="exists already"):
        das2f_map.rerun(folder / "maps" / "m.json")
    assert das2f_map.rerun(folder / "maps" / "m.json", overwrite=True).same == ()
    assert "names and colours again" in caplog.text
    assert raster.read_bytes() == before


@pytest.mark.slow
def test_rerun_that_was_ended_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_module, "BLOCK_SIZE", SIDE)
    monkeypatch.setattr(PerPatchEngine, "block_size", SIDE)
    das2f_map.classify(
        folder / "ms.tif", folder / "pan.tif", folder / "maps" / "p.tif", model=folder / "tiny",
        coregistration="off", device="cpu", engine="patch",
    )  # fmt: skip
    (folder / "again").mkdir()
    report, output = folder / "maps" / "p.json", folder / "again" / "p.tif"

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        das2f_map.rerun(report, output, progress=after(3, end))
    with pytest.raises(OutputError, match="was ended after"):
        das2f_map.rerun(report, output)
    again = das2f_map.rerun(report, output, resume=True)
    assert (again.same, again.differing) == (("raster",), ())
    assert contents(folder / "again", "p").keys() == {".tif", ".tif.aux.xml", ".qml", ".gpkg"}


def test_only_files_named_after_the_map_take_its_new_name(tmp_path: Path) -> None:
    names = {"output": "a.tif", "vectors": "a.fgb", "confidence": "a_sure.tif", "entropy": "area.tif"}
    run = RecordedRun(tmp_path / "a.json", mock.Mock(), {k: str(tmp_path / v) for k, v in names.items()})
    moved = run.elsewhere(tmp_path / "to" / "new.tif").arguments
    assert {k: Path(v).name for k, v in moved.items()} == {
        "output": "new.tif", "vectors": "new.fgb", "confidence": "new_sure.tif", "entropy": "area.tif",
    }  # fmt: skip


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


def change_card(path: Path) -> None:
    path.write_text(path.read_text().replace('"description": ""', '"description": "other"'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "kind", "message"),
    [
        ("ms.tif", append, InputError, r"ms\.tif has [\d,]+ bytes, had"),
        ("pan.tif", flip, InputError, r"pan\.tif has other content"),
        ("pan.tif", Path.unlink, InputError, r"pan\.tif is not there"),
        ("tiny/model.safetensors", flip, ModelError, "weights differ|damaged"),
        ("tiny/model.json", change_card, ModelError, "card differ"),
        ("maps/m.json", lambda p: p.write_text("{}"), InputError, "is no report"),
        ("maps/m.json", Path.unlink, InputError, "does not exist"),
    ],
)
def test_changes_are_refused(
    folder: Path, name: str, change: Callable[[Path], Any], kind: type[Das2fMapError], message: str
) -> None:
    change(folder / name)
    with pytest.raises(kind, match=message) as refused:
        das2f_map.rerun(folder / "maps" / "m.json", folder / "n.tif")
    assert "\n" not in refused.value.message
    assert not (folder / "n.tif").exists()


@pytest.mark.slow
def test_report_of_an_older_version_is_refused(folder: Path) -> None:
    path = folder / "maps" / "m.json"
    report = json.loads(path.read_text())
    for key in ("request", "inputs", "checksums", "folder", "created"):
        del report[key]
    path.write_text(json.dumps(report))
    with pytest.raises(InputError, match="does not record the options"):
        das2f_map.rerun(path)


@pytest.mark.slow
def test_masks_products_of_another_version(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ms, pan, output = folder / "ms.tif", folder / "pan.tif", folder / "masked.tif"
    with rasterio.open(ms) as file:
        profile = {**file.profile, "count": 1, "dtype": "uint8"}
        grid = np.arange(40 * 60).reshape(40, 60) % 7
    with rasterio.open(folder / "qa.tif", "w", **profile) as out:
        out.write(grid.astype(np.uint8), 1)
    mask = MaskFile(folder / "qa.tif", values=(1, 2), bits=())
    das2f_map.classify(ms, pan, output, model=folder / "tiny", mask=mask, vectors=False, device="cpu")
    path = folder / "masked.json"
    path.write_text(path.read_text().replace('"software_version": "', '"software_version": "0.0.'))
    again = das2f_map.rerun(path, folder / "again.tif")
    assert again.same == ("raster",)
    assert "0.0." in caplog.text
    assert not (folder / "again.gpkg").exists()


def test_fingerprint_of_a_large_file_samples_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 4 << 20)
    path, size = tmp_path / "large", (50 << 20) + 5
    with path.open("wb") as file:
        file.truncate(size)
    first = Fingerprint.of(path)
    assert first.bytes == size
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    last = Fingerprint.of(path)
    with path.open("r+b") as file:
        file.truncate(size + 1)
    longer = Fingerprint.of(path)
    assert len({first.sha256, last.sha256, longer.sha256}) == 3
    with path.open("r+b") as file:
        file.truncate(4 << 20)
    assert Fingerprint.of(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert Fingerprint.of("https://example.org/a.tif") == Fingerprint()
    assert Fingerprint.of(tmp_path) == Fingerprint()
