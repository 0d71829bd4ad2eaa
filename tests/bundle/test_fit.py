"""Choosing models, and importing checkpoints of the published network."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from parity import DATA, published_state_dict
from rasterio.enums import ColorInterp
from synthetic import make_pair
from tiny import tiny_bundle, tiny_card

import das2f_map
from das2f_map.bundle import fit as models
from das2f_map.bundle.fit import SceneTraits, SceneViews, cautions, choose_model, misfits
from das2f_map.bundle.model import ModelBundle
from das2f_map.errors import ModelError, OutputError
from das2f_map.scene.bands import given_bands
from das2f_map.scene.pair import open_pair
from das2f_map.scene.radiometry import BandStatistics, Normalisation, SceneSample, sample_statistics
from das2f_map.workflows.import_checkpoint import import_checkpoint


def _traits(**changes: object) -> SceneTraits:
    card = tiny_card()
    values = {"ms_gsd_m": 8.0, "ratio": 4.0, "statistics": card.normalisation}
    return SceneTraits(**(values | changes))


def _with_pan(band: BandStatistics) -> SceneTraits:
    return _traits(statistics=Normalisation(tiny_card().ms_bands, band))


def test_a_card_fits_its_own_scene_and_says_why_it_does_not_fit_others() -> None:
    card = tiny_card()
    assert misfits(card, _traits()) == []
    assert "MS pixels of 6 to 10 m, these have 30 m" in misfits(card, _traits(ms_gsd_m=30.0))[0]
    assert "ratios of 1.5 to 5" in misfits(card, _traits(ratio=6.0))[0]
    reflectance = BandStatistics(name="pan", mean=0.2, std=0.05, p01=0.1, p99=0.4)
    assert "band pan: the scene's mean 0.2 is outside" in misfits(card, _with_pan(reflectance))[0]
    flat = BandStatistics(name="pan", mean=2500.0, std=20.0, p01=2400.0, p99=2600.0)
    assert "standard deviation" in misfits(card, _with_pan(flat))[0]


@pytest.mark.slow
def test_bands_in_another_order_give_the_same_map(tmp_path: Path) -> None:
    """B, G, R, NIR, then the same bands in another order and among others give the same map byte for byte."""
    bundle = tiny_bundle(tmp_path / "m", patch=8)
    plain, turned, marked = (tmp_path / n for n in ("plain", "turned", "marked"))
    for folder in (plain, turned, marked):
        folder.mkdir()
    ms, pan = make_pair(plain, ms_shape=(20, 24))
    with rasterio.open(ms) as src:
        blue, green, red, nir = src.read()
        profile = src.profile
    junk = np.full_like(blue, 7)

    def written(name: str, bands: list[np.ndarray], names: list[str], colours: list[ColorInterp]) -> Path:
        profile["count"] = len(bands)
        with rasterio.open(tmp_path / name, "w", **profile) as out:
            out.write(np.stack(bands))
            out.descriptions = names
            if colours:
                out.colorinterp = colours
        return tmp_path / name

    c = ColorInterp
    by_name = ["Red", "junk", "Near Infrared", "B2 - Blue", "green (560 nm)"]
    scenes = {
        "named": (
            written("named.tif", [red, junk, nir, blue, green], by_name, []),
            None,
            [(4, "name"), (5, "name"), (1, "name"), (3, "name")],
        ),
        "coloured": (
            written("rgb.tif", [red, green, blue, nir], [""] * 4, [c.red, c.green, c.blue, c.undefined]),
            None,
            [(3, "name"), (2, "name"), (1, "name"), (4, "place")],
        ),
        "sentinel": (
            written("s2.tif", [junk, blue, green, red, nir, junk], ["B1", "B2", "B3", "B4", "B8", "B8A"], []),
            None,
            [(2, "name"), (3, "name"), (4, "name"), (5, "name")],
        ),
        "numbered": (
            written("five.tif", [red, junk, nir, blue, green], [""] * 5, []),
            {"blue": 4, "green": 5, "red": 1, "NIR": 3},
            [(4, "given"), (5, "given"), (1, "given"), (3, "given")],
        ),
        "by its own names": (
            written("odd.tif", [red, junk, nir, blue, green], ["a", "b", "c", "d", "green"], []),
            {"blue": "D", "red": 1, "nir": "c"},
            [(4, "given"), (5, "name"), (1, "given"), (3, "given")],
        ),
    }
    report = das2f_map.classify(ms, pan, plain / "map.tif", model=bundle, vectors=False)
    assert [(b.band, b.how) for b in report.scene.ms.used] == [(n, "name") for n in (1, 2, 3, 4)]
    truth = (plain / "map.tif").read_bytes()
    for name, (file, bands, expected) in scenes.items():
        target = tmp_path / "map.tif"
        report = das2f_map.classify(
            file, pan, target, model=bundle, bands=bands, vectors=False, overwrite=True
        )
        assert target.read_bytes() == truth, name
        used = report.scene.ms.used
        assert [b.role for b in used] == ["blue", "green", "red", "nir"]
        assert [(b.band, b.how) for b in used] == expected, name


def test_training_names_and_orders_bands(tmp_path: Path) -> None:
    """`classify` looks for the band names that `train` wrote."""
    ms, pan = make_pair(tmp_path, ms_shape=(20, 24), names=("B4", "B3", "B2", "B8"))
    with open_pair(ms, pan) as scene:
        assert scene.ms_band_names == ("red", "green", "blue", "nir")
        two = scene.with_bands(given_bands({"nir": "B8", "rouge": 1}, scene.file_bands, scene.ms_path))
        whole = scene.read_block(scene.grids.ms.window, 0, 0).ms
        np.testing.assert_array_equal(two.read_block(two.grids.ms.window, 0, 0).ms, whole[[3, 0]])
        assert [b.name for b in sample_statistics(two).ms_bands] == ["nir", "rouge"]


def test_choice_maps_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model is compared with the bands that it would use, not with the first ones."""
    bundle = tiny_bundle(tmp_path / "m", "fit")
    card = bundle.card.model_copy(
        update={
            "ms_bands": tuple(
                b.model_copy(update={"mean": m, "std": 300.0, "p01": m - 700, "p99": m + 700})
                for b, m in zip(bundle.card.ms_bands, (2000.0, 2250.0, 2500.0, 2750.0), strict=True)
            )
        }
    )
    (tmp_path / "m" / "fit" / "model.json").write_text(card.model_dump_json())
    monkeypatch.setattr(models, "bundled_models", lambda: {"fit": tmp_path / "m" / "fit"})
    ms, pan = make_pair(tmp_path, ms_shape=(20, 24), bands=5, names=("blue", "green", "red", "nir", "x"))
    with rasterio.open(ms, "r+") as out:
        values = out.read()
        values[4] = 60_000
        out.write(values[[4, 3, 2, 1, 0]])
        out.descriptions = ["x", "nir", "red", "green", "blue"]
    with open_pair(ms, pan) as scene:
        assert choose_model(SceneViews(scene)) == tmp_path / "m" / "fit"
        with pytest.raises(ModelError, match="band blue has the same value 60000 everywhere in the scene"):
            choose_model(SceneViews(scene, {"blue": 1}))


def test_choice_takes_the_fitting_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, coarse = (tiny_bundle(tmp_path, name) for name in ("fine", "coarse"))
    far = coarse.card.model_copy(
        update={"domain": coarse.card.domain.model_copy(update={"ms_gsd_m": (20.0, 40.0)})}
    )
    (tmp_path / "coarse" / "model.json").write_text(far.model_dump_json())
    monkeypatch.setattr(models, "bundled_models", lambda: {n: tmp_path / n for n in ("coarse", "fine")})
    (tmp_path / "s").mkdir(), (tmp_path / "t").mkdir()
    with open_pair(*make_pair(tmp_path / "s", ms_shape=(20, 20))) as scene:
        assert choose_model(SceneViews(scene)) == fine.path
    with open_pair(*make_pair(tmp_path / "t", ms_shape=(20, 20), ms_gsd=1.0)) as scene:
        with pytest.raises(ModelError) as caught:
            choose_model(SceneViews(scene))
        assert "coarse: it is for MS pixels of 20 to 40 m" in caught.value.message
        assert "fine: it is for MS pixels of 6 to 10 m" in caught.value.message
        assert f"das2f-map train {scene.ms_path} {scene.pan_path} --labels" in str(caught.value.hint)


def test_shape_is_compared_where_the_scene_has_statistics_of_its_own() -> None:
    """A model of skewed values, none far below the mean; the same shape in other units gives no caution."""
    rng = np.random.default_rng(0)
    skewed = rng.exponential(size=200_000)

    def statistics(name: str, values: np.ndarray) -> BandStatistics:
        p01, p99 = np.percentile(values, (1, 99))
        return BandStatistics(name=name, mean=values.mean(), std=values.std(), p01=p01, p99=p99)

    card = tiny_card()
    card = card.model_copy(
        update={
            "ms_bands": tuple(statistics(b.name, 1000 + 400 * skewed) for b in card.ms_bands),
            "pan_band": statistics("pan", 1000 + 400 * skewed),
        }
    )

    def scene(*values: np.ndarray) -> SceneTraits:
        names = tuple(b.name for b in card.ms_bands)
        sample = SceneSample(names, np.stack(values[:4]).astype("f4"), values[4].astype("f4"))
        return SceneTraits(8.0, 4.0, sample.statistics(), sample)

    alike = [0.02 + 0.3 * rng.exponential(size=50_000) for _ in range(5)]
    assert cautions(card, scene(*alike), "scene") == []
    assert misfits(card, scene(*alike), "scene") == []
    uniform = rng.uniform(0, 1, 50_000)
    found = cautions(card, scene(*alike[:3], uniform, alike[4]), "scene")
    # Normalised, the card's go from -0.99 to 3.6, a tenth of that further from -1.45; these from -1.73.
    share = (3**0.5 - 1.45) / (2 * 3**0.5)
    assert share < 0.1
    assert found == []
    # Two values, a fifth and four fifths: the fifth lies two standard deviations below the mean.
    two = np.where(rng.uniform(size=50_000) < 0.2, 0.0, 1.0)
    (phrase,) = cautions(card, scene(*alike[:3], two, alike[4]), "scene")
    assert "band nir: normalised, 20 % of the scene's values" in phrase
    assert "-0.99 to +3.6" in phrase


def test_values_outside_what_the_model_has_seen(tmp_path: Path) -> None:
    """A third of the scene is far brighter than the card's range: a caution gives the share, no refusal."""
    card = tiny_card()
    low, high = card.pan_band.p01, card.pan_band.p99
    rng = np.random.default_rng(0)
    ms, pan = rng.uniform(low, high, (4, 3000)), rng.uniform(low, high, 48_000)
    ms[3, :1000] = 5000.0
    sample = SceneSample(tuple(b.name for b in card.ms_bands), ms.astype("f4"), pan.astype("f4"))
    scene = SceneTraits(8.0, 4.0, sample.statistics(), sample)
    assert misfits(card, scene) == []
    assert cautions(card, scene) == [
        "band nir: 33 % of the scene's values are well outside the 1000 to 4000 it was trained on"
    ]
    # Values just beyond the 99th percentile give no caution: a tenth of the range is margin.
    ms[3, :1000] = high + 0.09 * (high - low)
    sample = SceneSample(sample.names, ms.astype("f4"), sample.pan)
    assert cautions(card, SceneTraits(8.0, 4.0, sample.statistics(), sample)) == []
    ms[3, :1600] = 4700.0
    sample = SceneSample(sample.names, ms.astype("f4"), sample.pan)
    scene = SceneTraits(8.0, 4.0, sample.statistics(), sample)
    assert "band nir: 53 %" in misfits(card, scene)[0]
    assert misfits(card, scene, "scene") == []


RADIOMETRY = {
    "uint8": ("uint8", 0.05, 0.0),
    "uint16": ("uint16", 10.0, 5000.0),
    "int16": ("int16", 4.0, -9000.0),
    "float32 reflectance": ("float32", 1e-4, 0.0),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("uint8", marks=pytest.mark.slow),
        pytest.param("uint16", marks=pytest.mark.slow),
        pytest.param("int16", marks=pytest.mark.slow),
        "float32 reflectance",
    ],
)
def test_values_of_any_type_and_unit(kind: str, tmp_path: Path) -> None:
    """A scene in other units, with the card in these units or with the scene's own statistics: the same map.

    Some types round the values, so a few pixels on the border between two classes may differ.
    """
    dtype, gain, offset = RADIOMETRY[kind]
    bundle = tiny_bundle(tmp_path / "m", patch=8)
    ms, pan = make_pair(tmp_path, ms_shape=(20, 24), dtype="float32")
    other = []
    for path in (ms, pan):
        with rasterio.open(path) as src:
            values, profile, names = src.read().astype(float) * gain + offset, src.profile, src.descriptions
        profile["dtype"] = dtype
        profile["photometric"] = "minisblack"
        other.append(tmp_path / f"{kind} {path.name}")
        values = values if dtype == "float32" else np.rint(values)
        with rasterio.open(other[-1], "w", **profile) as out:
            assert values.min() >= (np.iinfo(dtype).min if dtype != "float32" else 0)
            out.write(values.astype(dtype))
            out.descriptions = names

    def scaled(b: BandStatistics) -> BandStatistics:
        moved = {k: getattr(b, k) * gain + offset for k in ("mean", "p01", "p99")}
        return b.model_copy(update={**moved, "std": b.std * gain})

    card = bundle.card.model_copy(
        update={
            "ms_bands": tuple(map(scaled, bundle.card.ms_bands)),
            "pan_band": scaled(bundle.card.pan_band),
        }
    )
    maps = {}
    for name, files, model, radiometry in (
        ("plain", (ms, pan), bundle, "model"),
        ("units", other, ModelBundle(card, bundle.state_dict), "model"),
        ("scene", (ms, pan), bundle, "scene"),
        ("scene, units", other, bundle, "scene"),
    ):
        report = das2f_map.classify(
            *files, tmp_path / f"{name}.tif", model=model, radiometry=radiometry, vectors=False
        )
        assert not [w for w in report.warnings if w.startswith("model ")]
        with rasterio.open(tmp_path / f"{name}.tif") as src:
            maps[name] = src.read(1)
    assert len(np.unique(maps["plain"])) == 3
    limit = 0.9 if dtype == "uint8" else 0.995
    assert (maps["units"] == maps["plain"]).mean() >= limit
    assert (maps["scene, units"] == maps["scene"]).mean() >= limit
    assert report.radiometry.statistics == "scene"
    assert report.radiometry.ms[0].mean == pytest.approx(values_mean(other[0]), rel=1e-6)


def values_mean(path: Path) -> float:
    with rasterio.open(path) as src:
        return float(src.read(1).astype(float).mean())


@pytest.mark.slow
def test_scale_and_offset_of_the_file_are_applied(tmp_path: Path) -> None:
    """Digital numbers with metadata, and the same reflectance written out: the same map."""
    bundle = tiny_bundle(tmp_path / "m", patch=8)
    ms, pan = make_pair(tmp_path, ms_shape=(20, 24))

    def scaled(b: BandStatistics) -> BandStatistics:
        moved = {k: getattr(b, k) * 1e-4 - 0.1 for k in ("mean", "p01", "p99")}
        return b.model_copy(update={**moved, "std": b.std * 1e-4})

    card = bundle.card.model_copy(
        update={
            "ms_bands": tuple(map(scaled, bundle.card.ms_bands)),
            "pan_band": scaled(bundle.card.pan_band),
        }
    )
    plain = das2f_map.classify(ms, pan, tmp_path / "plain.tif", model=bundle, vectors=False)
    for path in (ms, pan):
        with rasterio.open(path, "r+") as out:
            out.scales, out.offsets = (1e-4,) * out.count, (-0.1,) * out.count
    model = ModelBundle(card, bundle.state_dict)
    report = das2f_map.classify(ms, pan, tmp_path / "scaled.tif", model=model, vectors=False)
    assert [c.pixels for c in report.classes] == pytest.approx([c.pixels for c in plain.classes], abs=2)
    with rasterio.open(tmp_path / "plain.tif") as a, rasterio.open(tmp_path / "scaled.tif") as b:
        assert (a.read(1) == b.read(1)).mean() > 0.995


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("scene"), ms_shape=(24, 24))


@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_import_of_a_published_checkpoint(stages: int, pair, tmp_path: Path) -> None:
    single = {k: v.float() if v.is_floating_point() else v for k, v in published_state_dict(stages).items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in single.items()}}, tmp_path / "net.pth")
    bundle = import_checkpoint(tmp_path / "net.pth", tmp_path / "net.zip", ms=pair[0], pan=pair[1])
    assert bundle.card.network.stages == stages
    assert len(bundle.card.legend) == 11
    with open_pair(*pair) as scene:
        assert bundle.card.normalisation == sample_statistics(scene)
    vectors = np.load(DATA / f"parity_{stages}stage.npz")
    network = das2f_map.load_model(tmp_path / "net.zip").network()
    with torch.no_grad():
        logits = network(*(torch.as_tensor(vectors[f"input/{k}"]).float() for k in ("ms", "pan"))).numpy()
    truth = vectors["output/logits"]
    assert np.abs(logits - truth).max() <= 1e-4 * np.abs(truth).max()


def test_checkpoints_that_do_not_match_are_told_what_is_odd(pair, tmp_path: Path) -> None:
    state = published_state_dict(1)
    del state["cromamba_1.cromamba.A_logs_pan"]
    state["mamba_ms_1.norm.weight"] = torch.zeros(3)
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ModelError) as caught:
        import_checkpoint(tmp_path / "odd.pth", tmp_path / "m", ms=pair[0], pan=pair[1])
    for phrase in (
        "1 missing (cromamba_1.cromamba.A_logs_pan)",
        "1 unexpected (extra.weight)",
        "mamba_ms_1.norm.weight is 3, should be 64",
    ):
        assert phrase in caught.value.message
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not a checkpoint of the published network"):
        import_checkpoint(tmp_path / "other.pth", tmp_path / "m", ms=pair[0], pan=pair[1])
    assert not (tmp_path / "m").exists()


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_checkpoint_never_runs_code(pair, tmp_path: Path) -> None:
    torch.save({"state_dict": _Bomb(tmp_path / "boom")}, tmp_path / "bomb.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Bomb(tmp_path / "boom")))
    for name in ("bomb.pth", "raw.pth"):
        with pytest.raises(ModelError, match="read safely"):
            import_checkpoint(tmp_path / name, tmp_path / "m", ms=pair[0], pan=pair[1])
    assert not (tmp_path / "boom").exists()


@pytest.mark.slow
def test_only_bundles_are_replaced(pair, tmp_path: Path) -> None:
    torch.save(published_state_dict(1), tmp_path / "net.pth")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="exists and is not a model bundle"):
            import_checkpoint(
                tmp_path / "net.pth", tmp_path / "mine", ms=pair[0], pan=pair[1], overwrite=overwrite
            )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    tiny_bundle(tmp_path, "model")
    with pytest.raises(OutputError, match="exists already"):
        import_checkpoint(tmp_path / "net.pth", tmp_path / "model", ms=pair[0], pan=pair[1])
    import_checkpoint(tmp_path / "net.pth", tmp_path / "model", ms=pair[0], pan=pair[1], overwrite=True)
    assert len(das2f_map.load_model(tmp_path / "model").card.legend) == 11
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "model", "net.pth"]
