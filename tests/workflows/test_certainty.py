"""Probabilities, entropy and rejected pixels of a map, against NumPy's softmax of the network's logits."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from synthetic import make_pair
from tiny import NAMES, tiny_card, tiny_network

import das2f_map
from das2f_map.bundle.card import Calibration, ClassShares, ModelCard, Verdict
from das2f_map.bundle.files import load_bundle, save_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import InputError
from das2f_map.products.class_file import read_legend, read_unsure
from das2f_map.products.report import RunReport
from das2f_map.scene.grid import Window
from das2f_map.scene.pair import open_pair

TEMPERATURE = 2.5
IDS = (2, 5, 9)
UNSURE = 255
GREY = (128, 128, 128)


def bundle_with(folder: Path, **parts: Any) -> ModelBundle:
    """The tiny model, with some parts of its card replaced."""
    card = tiny_card(patch=8).model_copy(update=parts)
    save_bundle(folder, ModelCard.model_validate(card.model_dump()), tiny_network(card).state_dict())
    return load_bundle(folder)


class Case(NamedTuple):
    """A scene of 14 × 17 pixels with a mask, and models without and with a calibration.

    The truth for the latter is float64: probabilities (classes, h, w) and their normalised entropy (h, w),
    NaN where masked.
    """

    pair: tuple[Path, Path]
    mask: Path
    raw: ModelBundle
    calibrated: ModelBundle
    probabilities: np.ndarray
    entropy: np.ndarray

    @property
    def masked(self) -> np.ndarray:
        return np.isnan(self.entropy)


def logits_of(bundle: ModelBundle, pair: tuple[Path, Path]) -> np.ndarray:
    """Logits (h, w, classes) from patches of 8 × 8 pixels, cut from whole arrays with NumPy's padding."""
    card = bundle.card
    with rasterio.open(pair[0]) as src:
        ms = src.read().astype(np.float64)
    with rasterio.open(pair[1]) as src:
        pan = src.read().astype(np.float64)
    ms = (ms - card.pan_band.mean) / card.pan_band.std  # all bands have the same statistics
    pan = (pan - card.pan_band.mean) / card.pan_band.std
    h, w = ms.shape[1:]
    ms = np.pad(ms, ((0, 0), (3, 4), (3, 4)), mode="reflect").astype(np.float32)
    pan = np.pad(pan, ((0, 0), (12, 16), (12, 16)), mode="reflect").astype(np.float32)
    network, rows = bundle.network(), []
    for r in range(h):
        a = np.stack([ms[:, r : r + 8, c : c + 8] for c in range(w)])
        b = np.stack([pan[:, 4 * r : 4 * r + 32, 4 * c : 4 * c + 32] for c in range(w)])
        with torch.no_grad():
            rows.append(network(torch.from_numpy(a), torch.from_numpy(b)).numpy())
    return np.stack(rows).astype(np.float64)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    pair = make_pair(folder, ms_shape=(14, 17))
    with rasterio.open(pair[0]) as src:
        profile = src.profile
    mask = np.zeros((14, 17), np.uint8)
    mask[4:7, 9:12] = 1
    with rasterio.open(folder / "mask.tif", "w", **{**profile, "count": 1, "dtype": "uint8"}) as out:
        out.write(mask, 1)
    calibration = Calibration(temperature=TEMPERATURE, pixels=100, error_before=0.2, error_after=0.02)
    calibrated = bundle_with(folder / "calibrated", calibration=calibration)
    odds = np.exp(logits_of(calibrated, pair) / TEMPERATURE)
    p = np.moveaxis(odds / odds.sum(axis=2, keepdims=True), 2, 0)
    entropy = -(p * np.log(p)).sum(axis=0) / np.log(3)
    p[:, mask == 1], entropy[mask == 1] = np.nan, np.nan
    return Case(pair, folder / "mask.tif", bundle_with(folder / "raw"), calibrated, p, entropy)


def threshold(case: Case) -> float:
    """A probability that about half of the pixels reach, far enough from every pixel's."""
    best = np.sort(case.probabilities.max(axis=0)[~case.masked])
    middle = best[len(best) // 3 : 2 * len(best) // 3]
    gap = int(np.diff(middle).argmax())
    assert middle[gap + 1] - middle[gap] > 1e-3
    return float(middle[gap : gap + 2].mean())


def band(path: Path) -> np.ndarray:
    with rasterio.open(path) as src:
        return src.read(1)


@pytest.mark.parametrize("engine", ["shared", "patch", "onnx"])
def test_rasters_are_the_softmax_of_logits_over_the_temperature(
    engine: str, case: Case, tmp_path: Path
) -> None:
    if engine == "onnx":
        pytest.importorskip("onnx", reason="needs the extra onnx")
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    report = das2f_map.classify(
        *case.pair,
        tmp_path / "map.tif",
        model=case.calibrated,
        vectors=False,
        confidence=tmp_path / "sure.tif",
        probabilities=tmp_path / "every.tif",
        entropy=tmp_path / "entropy.tif",
        mask=case.mask,
        engine=engine,
    )
    with rasterio.open(tmp_path / "every.tif") as src:
        every = src.read()
        assert src.descriptions == NAMES
        assert src.dtypes == ("float32",) * 3
        assert np.isnan(src.nodatavals).all()
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        place = (src.crs, src.transform, src.shape)
    with rasterio.open(tmp_path / "entropy.tif") as src:
        entropy = src.read(1)
        assert (src.dtypes, src.count) == (("float32",), 1)
        assert "entropy" in src.descriptions[0]
        assert np.isnan(src.nodata)
        assert (src.crs, src.transform, src.shape) == place
    with rasterio.open(tmp_path / "map.tif") as src:
        classes = src.read(1)
        assert (src.crs, src.transform, src.shape) == place
    np.testing.assert_allclose(every, case.probabilities, atol=1e-4)
    np.testing.assert_allclose(entropy, case.entropy, atol=1e-3)
    np.testing.assert_array_equal(classes == 0, case.masked)
    np.testing.assert_array_equal(classes[~case.masked], np.array(IDS)[every[:, ~case.masked].argmax(axis=0)])
    np.testing.assert_array_equal(band(tmp_path / "sure.tif"), every.max(axis=0))
    assert report.model.temperature == TEMPERATURE
    assert {k: Path(v).name for k, v in report.outputs.items()} == {
        "raster": "map.tif",
        "report": "map.json",
        "confidence": "sure.tif",
        "probabilities": "every.tif",
        "entropy": "entropy.tif",
    }


def test_the_temperature_changes_probabilities_and_no_class(case: Case, tmp_path: Path) -> None:
    report = das2f_map.classify(
        *case.pair, tmp_path / "raw.tif", model=case.raw, vectors=False, confidence=tmp_path / "sure.tif"
    )
    das2f_map.classify(*case.pair, tmp_path / "map.tif", model=case.calibrated, vectors=False)
    np.testing.assert_array_equal(band(tmp_path / "raw.tif"), band(tmp_path / "map.tif"))
    # The softmax of logits not divided: powers of the calibrated probabilities.
    raw = case.probabilities**TEMPERATURE
    raw = (raw / raw.sum(axis=0)).max(axis=0)
    sure = band(tmp_path / "sure.tif")
    np.testing.assert_allclose(sure[~case.masked], raw[~case.masked], atol=1e-4)
    assert report.model.temperature is None
    assert json.loads((tmp_path / "raw.json").read_text())["model"]["temperature"] is None


def test_rejected_pixels_are_a_class_of_their_own(case: Case, tmp_path: Path) -> None:
    reject = threshold(case)
    report = das2f_map.classify(
        *case.pair,
        tmp_path / "map.tif",
        model=case.calibrated,
        probabilities=tmp_path / "every.tif",
        confidence=tmp_path / "sure.tif",
        mask=case.mask,
        reject=reject,
    )
    best = case.probabilities.max(axis=0)
    expected = np.array(IDS)[np.nan_to_num(case.probabilities).argmax(axis=0)]
    expected[best < reject] = UNSURE
    expected[case.masked] = 0
    with rasterio.open(tmp_path / "map.tif") as src:
        np.testing.assert_array_equal(src.read(1), expected)
        assert src.colormap(1)[UNSURE] == (*GREY, 255)
    legend = read_legend(tmp_path / "map.tif")
    assert legend is not None
    assert (legend.names, legend.ids) == ((*NAMES, "unsure"), (*IDS, UNSURE))
    assert read_unsure(tmp_path / "map.tif") == UNSURE
    table = ET.parse(tmp_path / "map.tif.aux.xml").getroot()
    rows = [[f.text for f in row.iterfind("F")] for row in table.iter("Row")]
    unsure = int((expected == UNSURE).sum())
    assert rows[-1] == ["255", "unsure", "128", "128", "128", "255", f"{unsure}"]
    style = ET.fromstring((tmp_path / "map.qml").read_text(encoding="utf-8"))
    entries = {e.get("value"): (e.get("label"), e.get("color")) for e in style.iter("paletteEntry")}
    assert entries["255"] == ("unsure", "#808080")

    # The model's own answers are kept in full.
    with rasterio.open(tmp_path / "every.tif") as src:
        assert src.descriptions == NAMES
        np.testing.assert_allclose(src.read(), case.probabilities, atol=1e-4)
    np.testing.assert_allclose(band(tmp_path / "sure.tif"), best, atol=1e-4)

    line = report.classes[-1]
    rejected = expected == UNSURE
    assert 40 < rejected.sum() < 200
    assert (line.id, line.name, line.color, line.pixels) == (UNSURE, "unsure", "#808080", rejected.sum())
    assert line.share == pytest.approx(rejected.sum() / (expected > 0).sum(), rel=1e-3)
    assert line.mean_confidence == pytest.approx(best[rejected].mean(), abs=1e-4)
    assert sum(c.share for c in report.classes) == pytest.approx(1)
    assert (report.unsure, report.settings.reject) == (UNSURE, reject)
    polygons = geopandas.read_file(tmp_path / "map.gpkg", layer="unsure")
    assert polygons.geometry.area.sum() == pytest.approx(64 * rejected.sum())
    assert set(polygons["class_id"]) == {UNSURE}
    assert len(polygons) == line.polygons


def test_without_rejection_there_is_no_such_class(case: Case, tmp_path: Path) -> None:
    report = das2f_map.classify(*case.pair, tmp_path / "map.tif", model=case.raw)
    assert [c.id for c in report.classes] == list(IDS)
    assert (report.unsure, report.settings.reject) == (None, None)
    assert read_unsure(tmp_path / "map.tif") is None
    assert "unsure" not in set(geopandas.list_layers(tmp_path / "map.gpkg").name)


@pytest.mark.parametrize("reject", [0, 1, -0.5, float("nan")])
def test_a_probability_between_0_and_1_is_needed(reject: float, case: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No map can be made with reject"):
        das2f_map.classify(*case.pair, tmp_path / "map.tif", model=case.raw, reject=reject)
    assert list(tmp_path.iterdir()) == []


def test_rejection_that_means_little_is_warned_of(case: Case, tmp_path: Path) -> None:
    report = das2f_map.classify(
        *case.pair, tmp_path / "raw.tif", model=case.raw, vectors=False, reject=threshold(case)
    )
    assert sum("not calibrated" in w for w in report.warnings) == 1
    report = das2f_map.classify(
        *case.pair, tmp_path / "map.tif", model=case.calibrated, vectors=False, reject=0.33
    )
    assert not any("not calibrated" in w for w in report.warnings)
    assert sum("no pixel is rejected at 0.33" in w for w in report.warnings) == 1
    assert report.classes[-1].pixels == 0


def test_map_is_warned_of_before_and_after(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict at the start, shares at the end."""
    # The scene is smaller than the maps that are compared otherwise.
    monkeypatch.setattr("das2f_map.bundle.reliance.LEAST_PIXELS", 100)
    found = pixels_of(das2f_map.classify(*case.pair, tmp_path / "map.tif", model=case.raw, vectors=False))
    most = max(found, key=lambda name: found[name])
    others = [name for name in NAMES if name != most]
    shares = ClassShares(labels=dict.fromkeys(NAMES, 1 / 3), scenes={most: 0.01, others[0]: 0.99})
    verdict = Verdict(usable=False, text="It is no better than always saying water.")
    model = bundle_with(tmp_path / "bad", verdict=verdict, shares=shares)
    with caplog.at_level("WARNING", logger="das2f_map"):
        report = das2f_map.classify(*case.pair, tmp_path / "bad.tif", model=model, vectors=False)
    share = f"{100 * found[most] / sum(found.values()):.0f} %"
    assert report.warnings[0] == "model tiny is not fit for use: It is no better than always saying water."
    assert f"{most} takes {share} of the map; the training scenes had 1 %: check the map before use" in (
        report.warnings
    )
    logged = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert next(w for w in report.warnings if w in logged) == report.warnings[0]
    assert report.warnings[-1] == logged[-1]
    assert json.loads((tmp_path / "bad.json").read_text())["warnings"] == report.warnings


def test_less_than_half_of_a_scene_may_be_a_town(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("das2f_map.bundle.reliance.LEAST_PIXELS", 100)
    with open_pair(*case.pair) as pair:
        grid = pair.grids.ms

    def warned(rows: int, seen: float, **options: Any) -> bool:
        """Whether the commonest class of the scene's upper rows is warned of."""
        area, place = tmp_path / f"{rows}.gpkg", Window(0, 0, rows, grid.width)
        shape = shapely.Polygon(grid.cropped(place).corners())
        geopandas.GeoDataFrame(geometry=[shape], crs=grid.crs.to_wkt()).to_file(area)
        options |= {"aoi": area, "vectors": False, "overwrite": True}
        found = pixels_of(das2f_map.classify(*case.pair, tmp_path / "m.tif", model=case.raw, **options))
        most = max(found, key=lambda name: found[name])
        share = found[most] / sum(found.values())
        shares = ClassShares(labels={}, scenes={most: seen * share} | {n: 1.0 for n in NAMES if n != most})
        model = bundle_with(tmp_path / f"{rows}-{seen}", shares=shares)
        report = das2f_map.classify(*case.pair, tmp_path / "m.tif", model=model, **options)
        return any(w.startswith(f"{most} takes") for w in report.warnings)

    half = grid.height // 2
    assert warned(half, 1 / 5)
    assert not warned(half - 1, 1 / 5)
    assert warned(half - 1, 1 / 12)


def test_pixels_of_a_draft_count_as_many(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(pixels_of(das2f_map.classify(*case.pair, tmp_path / "m.tif", model=case.raw)).values())
    monkeypatch.setattr("das2f_map.bundle.reliance.LEAST_PIXELS", whole // 2)
    shares = ClassShares(labels={}, scenes=dict.fromkeys(NAMES, 0.0))
    model = bundle_with(tmp_path / "model", shares=shares)
    report = das2f_map.classify(*case.pair, tmp_path / "draft.tif", model=model, every=3, vectors=False)
    assert any(" takes " in w for w in report.warnings)


def pixels_of(report: RunReport) -> dict[str, int]:
    return {c.name: c.pixels for c in report.classes}
