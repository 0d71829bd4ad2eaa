"""Many scenes in one run, against the same scenes one by one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
import das2f_map.mapping.planned as planned_module
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import InputError, OutputError
from das2f_map.running import many
from das2f_map.running.blocks import BlockClassifier
from das2f_map.workflows.classify import forecast_pairs

SHAPES = {"a": (12, 14), "b": (10, 20), "c": (16, 9)}
OPTIONS: dict[str, Any] = {"coregistration": "off", "device": "cpu", "engine": "patch"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scenes `a_ms.tif`, `a_pan.tif` and so on, and a folder for maps."""
    for name, shape in SHAPES.items():
        (tmp_path / name).mkdir()
        ms, pan = make_pair(tmp_path / name, ms_shape=shape)
        ms.rename(tmp_path / f"{name}_ms.tif")
        pan.rename(tmp_path / f"{name}_pan.tif")
        (tmp_path / name).rmdir()
    (tmp_path / "maps").mkdir()
    return tmp_path


def patterns(folder: Path, **more: str) -> dict[str, str]:
    return {
        "ms": f"{folder}/{{id}}_ms.tif",
        "pan": f"{folder}/{{id}}_pan.tif",
        "output": f"{folder}/maps/{{id}}.tif",
        **more,
    }


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as src:
        return src.read()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_each_map_is_that_of_its_own_run_and_one_model_is_loaded(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, made = [], []
    load, make = many.load_bundle, many.make_engine
    monkeypatch.setattr(many, "load_bundle", lambda path: loaded.append(path) or load(path))
    monkeypatch.setattr(many, "make_engine", lambda *a, **k: made.append(a) or make(*a, **k))
    report = das2f_map.classify_pairs(
        patterns(folder, confidence=f"{folder}/maps/{{id}}_sure.tif"),
        model=model,
        vectors=False,
        summary=folder / "all.json",
        **OPTIONS,
    )
    assert (report.done, report.failed, report.skipped, report.waiting) == (3, 0, 0, 0)
    assert (len(loaded), len(made)) == (1, 1)
    assert json.loads((folder / "all.json").read_text()) == report.model_dump(mode="json")
    for scene, (name, shape) in zip(report.scenes, SHAPES.items(), strict=True):
        alone = folder / f"{name}.tif"
        single = das2f_map.classify(
            folder / f"{name}_ms.tif",
            folder / f"{name}_pan.tif",
            alone,
            model=model,
            vectors=False,
            confidence=folder / f"{name}_sure.tif",
            **OPTIONS,
        )
        for own in (f"{name}.tif", f"{name}_sure.tif"):
            np.testing.assert_array_equal(pixels(folder / "maps" / own), pixels(folder / own))
        assert (scene.pixels, scene.model) == (shape[0] * shape[1], "tiny")
        assert scene.areas_m2 == {c.name: c.area_m2 for c in single.classes}


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_alone_and_resume_makes_up_for_it(folder: Path, model: Path) -> None:
    whole = (folder / "b_pan.tif").read_bytes()
    (folder / "b_pan.tif").write_bytes(whole[: len(whole) // 2])
    options = {"model": model, "vectors": False, "summary": folder / "all.json", **OPTIONS}
    report = das2f_map.classify_pairs(patterns(folder), **options)
    assert [s.state for s in report.scenes] == ["done", "failed", "done"]
    assert "b_pan.tif" in (report.scenes[1].error or "")
    assert report.scenes[1].exit_code == 3
    assert names(folder / "maps") == sorted(
        f"{n}{e}" for n in "ac" for e in (".json", ".qml", ".tif", ".tif.aux.xml")
    )
    before = (folder / "maps" / "a.tif").stat().st_mtime_ns
    with pytest.raises(OutputError, match=r"a\.tif exists already; 1 more cannot be used: .*c_ms\.tif"):
        das2f_map.classify_pairs(patterns(folder), **options)
    (folder / "b_pan.tif").write_bytes(whole)
    again = das2f_map.classify_pairs(patterns(folder), resume=True, **options)
    assert [s.state for s in again.scenes] == ["skipped", "done", "skipped"]
    assert again.scenes[0].areas_m2 == report.scenes[0].areas_m2
    assert (folder / "maps" / "a.tif").stat().st_mtime_ns == before
    # Made otherwise: not skipped, and not replaced unless that is asked for.
    other = das2f_map.classify_pairs(patterns(folder), resume=True, reject=0.9, **options)
    assert [s.state for s in other.scenes] == ["failed"] * 3
    assert "differs in --reject" in (other.scenes[0].error or "")
    shutil.copy(folder / "a_ms.tif", folder / "other.tif")
    shutil.move(folder / "other.tif", folder / "a_ms.tif")  # the same bytes at another time
    last = das2f_map.classify_pairs(patterns(folder), resume=True, overwrite=True, **options)
    assert [s.state for s in last.scenes] == ["done", "skipped", "skipped"]


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[object] = []
    most = [7]

    class Watched(BlockClassifier):
        def compute(self, window: Any, block: Any) -> Any:
            if len(computed) == most[0]:
                raise KeyboardInterrupt
            computed.append(window)
            return super().compute(window, block)

    monkeypatch.setattr(planned_module, "BLOCK_SIZE", 6)
    monkeypatch.setattr(PerPatchEngine, "block_size", 6)
    monkeypatch.setattr("das2f_map.running.plan.BlockClassifier", Watched)
    options = {"model": model, "vectors": False, "summary": folder / "all.json", **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        das2f_map.classify_pairs(patterns(folder), **options)
    told = json.loads((folder / "all.json").read_text())
    assert [s["state"] for s in told["scenes"]] == ["done", "waiting", "waiting"]
    assert names(folder / "maps")[0] == ".b.tif.das2f-map"
    with pytest.raises(OutputError):
        das2f_map.classify_pairs(patterns(folder), **options)
    computed.clear()
    most[0] = 1000
    report = das2f_map.classify_pairs(patterns(folder), resume=True, **options)
    assert [s.state for s in report.scenes] == ["skipped", "done", "done"]
    # 12 × 14 pixels are 6 blocks of 6 × 6, 10 × 20 are 8, one of which was done, and 16 × 9 are 6.
    assert len(computed) == 7 + 6


def test_what_is_known_before_is_refused_before_the_first(folder: Path, model: Path) -> None:
    def refused(rows: list[dict[str, Any]], **more: Any) -> str:
        with pytest.raises((InputError, OutputError)) as caught:
            das2f_map.classify_pairs(rows, model=model, vectors=False, **OPTIONS, **more)
        assert names(folder / "maps") == []
        return caught.value.message

    def row(name: str, **changed: Any) -> dict[str, Any]:
        own = {key: path.format(id=name) for key, path in patterns(folder).items()}
        return own | changed

    assert refused([row("a"), row("b", pan=f"{folder}/x.tif")]) == (
        f"scene 2: PAN {folder}/x.tif does not exist"
    )
    assert "no/m.tif" not in refused([row("a"), row("b", output=f"{folder}/no/m.tif")])
    assert "its output" in refused([row("a"), row("b", output=f"{folder}/maps/../maps/a.tif")])
    assert "also an input" in refused([row("a"), row("b", output=f"{folder}/b_ms.tif")], overwrite=True)
    assert "mask" in refused([row("a", mask=f"{folder}/none.tif"), row("b")])
    assert "no model" in _message(lambda: das2f_map.classify_pairs([row("a")], model="none", **OPTIONS))
    with pytest.raises(TypeError, match="no option modle"):
        das2f_map.classify_pairs([row("a")], modle="none")


def _message(call: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the message is compared
        call()
    return str(caught.value)


@pytest.mark.slow
def test_forecast_has_the_sums(folder: Path, model: Path) -> None:
    options = {"model": model, "vectors": False, **OPTIONS}
    das2f_map.classify_pairs([{k: v.format(id="a") for k, v in patterns(folder).items()}], **options)
    plans = forecast_pairs(patterns(folder), resume=True, **options)
    assert (plans.planned, plans.skipped, plans.failed) == (2, 1, 0)
    assert plans.pixels == 10 * 20 + 16 * 9
    each = [s.plan for s in plans.scenes if s.plan is not None]
    assert plans.seconds == pytest.approx(sum(p.seconds or 0 for p in each))
    assert len({p.pixels_per_second for p in each}) == 1
    assert forecast_pairs(patterns(folder), **options).existing == 2
