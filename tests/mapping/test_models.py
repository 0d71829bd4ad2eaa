"""Choosing models, and importing checkpoints of the published network."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import make_pair
from tiny import tiny_bundle, tiny_card

import das2f_map
from das2f_map.errors import ModelError, OutputError
from das2f_map.mapping import models
from das2f_map.mapping.import_published import import_checkpoint
from das2f_map.mapping.models import SceneTraits, choose_model, misfits
from das2f_map.scene.pair import open_pair
from das2f_map.scene.radiometry import BandStatistics, sample_statistics

sys.path.insert(0, str(Path(__file__).parents[1] / "network"))
from parity import DATA, published_state_dict


def _traits(**changes: object) -> SceneTraits:
    card = tiny_card()
    values = {"ms_gsd_m": 8.0, "ratio": 4.0, "ms_bands": card.ms_bands, "pan_band": card.pan_band}
    return SceneTraits(**(values | changes))  # type: ignore[arg-type]


def test_a_card_fits_its_own_scene_and_says_why_it_does_not_fit_others() -> None:
    card = tiny_card()
    assert misfits(card, _traits()) == []
    assert "MS pixels of 6 to 10 m, these have 30 m" in misfits(card, _traits(ms_gsd_m=30.0))[0]
    assert "ratios of 1.5 to 5" in misfits(card, _traits(ratio=6.0))[0]
    assert "needs 4 MS bands, the scene has 3" in misfits(card, _traits(ms_bands=card.ms_bands[:3]))[0]
    reflectance = BandStatistics(name="pan", mean=0.2, std=0.05, p01=0.1, p99=0.4)
    assert "band pan: the scene's mean 0.2 is outside" in misfits(card, _traits(pan_band=reflectance))[0]
    flat = BandStatistics(name="pan", mean=2500.0, std=20.0, p01=2400.0, p99=2600.0)
    assert "standard deviation" in misfits(card, _traits(pan_band=flat))[0]


def test_bands_in_another_order_do_not_fit(tmp_path: Path) -> None:
    """A file that names its bands is taken at its word."""
    bundle = tiny_bundle(tmp_path / "m")
    reversed_bands = tuple(reversed(bundle.card.ms_bands))
    assert "the file has nir, red, green, blue" in misfits(bundle.card, _traits(ms_bands=reversed_bands))[0]
    unnamed = tuple(b.model_copy(update={"name": f"band {i}"}) for i, b in enumerate(bundle.card.ms_bands))
    assert misfits(bundle.card, _traits(ms_bands=unnamed)) == []
    ms, pan = make_pair(tmp_path, ms_shape=(20, 20), names=("red", "green", "blue", "nir"))
    with pytest.raises(ModelError, match="order blue, green, red, nir") as caught:
        das2f_map.classify(ms, pan, tmp_path / "map.tif", model=bundle)
    assert "gdal_translate -b 3 -b 2 -b 1 -b 4 in.tif" in str(caught.value.hint)


def test_choice_takes_the_fitting_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, coarse = (tiny_bundle(tmp_path, name) for name in ("fine", "coarse"))
    far = coarse.card.model_copy(
        update={"domain": coarse.card.domain.model_copy(update={"ms_gsd_m": (20.0, 40.0)})}
    )
    (tmp_path / "coarse" / "model.json").write_text(far.model_dump_json())
    monkeypatch.setattr(models, "bundled_models", lambda: {n: tmp_path / n for n in ("coarse", "fine")})
    assert choose_model(_traits(), "ms.tif", "pan.tif") == fine.path
    with pytest.raises(ModelError) as caught:
        choose_model(_traits(ms_gsd_m=1.0), "ms.tif", "pan.tif")
    assert "coarse: it is for MS pixels of 20 to 40 m" in caught.value.message
    assert "fine: it is for MS pixels of 6 to 10 m" in caught.value.message
    assert "das2f-map train ms.tif pan.tif --labels" in str(caught.value.hint)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("scene"), ms_shape=(24, 24))


@pytest.mark.parametrize("stages", [1, 2])
def test_import_of_a_published_checkpoint(stages: int, pair, tmp_path: Path) -> None:
    single = {k: v.float() if v.is_floating_point() else v for k, v in published_state_dict(stages).items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in single.items()}}, tmp_path / "net.pth")
    bundle = import_checkpoint(tmp_path / "net.pth", tmp_path / "net.zip", ms=pair[0], pan=pair[1])
    assert bundle.card.network.stages == stages
    assert len(bundle.card.legend) == 11
    with open_pair(*pair) as scene:
        assert (bundle.card.ms_bands, bundle.card.pan_band) == sample_statistics(scene)
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
