"""Model bundles on disk: they are read back as written, and errors name the damage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny import tiny_bundle, tiny_card, tiny_network

from das2f_map.bundle.card import ModelCard
from das2f_map.bundle.card_parts import Domain
from das2f_map.bundle.catalogue import bundled_models, find_model
from das2f_map.bundle.files import BundleOutput, load_bundle, read_card, save_bundle
from das2f_map.errors import ModelError, OutputError
from das2f_map.scene.patch import PatchGeometry


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    card = tiny_card()
    network = tiny_network(card)
    save_bundle(tmp_path / name, card, network.state_dict())
    bundle = load_bundle(tmp_path / name)
    assert bundle.card == card == read_card(tmp_path / name)
    patch = torch.randn(2, 4, 16, 16), torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(bundle.network()(*patch), network(*patch))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_files_are_what_other_tools_read(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    card = json.loads((tmp_path / "tiny" / "model.json").read_text())
    assert card["format_version"] == 2
    assert [c["name"] for c in card["legend"]["classes"]] == ["water", "forest", "bare soil"]
    assert "stages.0.cmda.ms.scan.A_log" in load_file(tmp_path / "tiny" / "model.safetensors")


def test_damaged_bundles_are_told_apart(tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        tiny_bundle(tmp_path, name)
        return tmp_path / name

    with pytest.raises(ModelError, match="model not found"):
        load_bundle(tmp_path / "nothing")
    folder = damaged("no-card")
    (folder / "model.json").unlink()
    with pytest.raises(ModelError, match=r"not a model bundle: it has no model\.json"):
        load_bundle(folder)
    folder = damaged("bad-card")
    (folder / "model.json").write_text('{"format_version": 1,')
    with pytest.raises(ModelError, match="not a das2f-map model card"):
        load_bundle(folder)
    folder = damaged("newer")
    card = json.loads((folder / "model.json").read_text()) | {"format_version": 3}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"bundle format 3, this das2f-map reads up to 2"):
        load_bundle(folder)
    folder = damaged("truncated")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged or not a safetensors file"):
        load_bundle(folder)
    (tmp_path / "file.zip").write_text("not a zip")
    with pytest.raises(ModelError, match="neither a folder nor a sound zip"):
        load_bundle(tmp_path / "file.zip")


def test_weights_must_belong_to_the_card(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    path = tmp_path / "tiny" / "model.safetensors"
    good = load_file(path)
    name = "classifier.out.bias"
    for change, phrase in (
        ({k: v for k, v in good.items() if k != name}, f"1 missing \\({name}\\)"),
        (good | {"more": torch.zeros(1)}, "1 unexpected \\(more\\)"),
        (good | {name: torch.zeros(7)}, f"{name} is 7, should be 3"),
        (good | {name: torch.full((3,), float("nan"))}, f"1 not finite \\({name}\\)"),
    ):
        save_file(change, path)
        with pytest.raises(ModelError, match=phrase):
            load_bundle(tmp_path / "tiny").network()


@pytest.mark.slow
def test_building_a_network_leaves_torchs_compiler_alone(tmp_path: Path) -> None:
    """Importing torch's compiler takes two of the four seconds of the whole command on a small scene."""
    tiny_bundle(tmp_path)
    program = (
        "import sys; from das2f_map.bundle.files import load_bundle;"
        f"load_bundle({str(tmp_path / 'tiny')!r}).network(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_weights_of_another_precision_become_float32(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    path = tmp_path / "tiny" / "model.safetensors"
    mixed = {n: t.half() if "mlp" in n else t for n, t in load_file(path).items()}
    save_file(mixed, path)
    network = load_bundle(tmp_path / "tiny").network()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    with torch.no_grad():
        assert network(torch.randn(1, 4, 16, 16), torch.randn(1, 1, 64, 64)).isfinite().all()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("pan_band", "mean"), float("nan")),
        (("pan_band", "std"), float("inf")),
        (("domain", "ratio"), [1.0, float("inf")]),
        (("metrics",), {"test": None}),
        (("metrics",), {"test": {"overall_accuracy": "good"}}),
        (("metrics",), {"test": {"classes": [1, 2]}}),
    ],
)
def test_figures_that_cannot_be_are_refused(place: tuple[str, ...], value: object, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    path = tmp_path / "tiny" / "model.json"
    card = json.loads(path.read_text())
    inner = card
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(card))
    with pytest.raises(ModelError, match=f"not a das2f-map model card: {place[0]}"):
        read_card(tmp_path / "tiny")


def test_damaged_zip(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("model.json", "model.safetensors"):
            archive.write(tmp_path / "tiny" / name, name)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(ModelError, match="neither a folder nor a sound zip"):
        load_bundle(path)


def test_a_linked_bundle_stays_a_link(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, "first")
    (tmp_path / "current").symlink_to(tmp_path / "first")
    save_bundle(tmp_path / "current", bundle.card, bundle.state_dict)
    assert (tmp_path / "current").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["current", "first"]


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_a_bundle_is_replaced_as_a_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    card = tiny_card()
    weights = tiny_network(card).state_dict()
    path = tmp_path / "new" / name
    save_bundle(path, card, weights, add_files=lambda folder: (folder / "notes.txt").touch())

    def failing(folder: Path) -> None:
        assert (folder / "model.json").is_file()
        raise OSError(28, "No space left on device")

    says = f"cannot write the model bundle {path}: No space left on device"
    with pytest.raises(OutputError, match=re.escape(says)):
        save_bundle(path, card.model_copy(update={"description": "newer"}), weights, add_files=failing)
    assert load_bundle(path).card == card
    save_bundle(path, card.model_copy(update={"description": "newer"}), weights)
    assert load_bundle(path).card.description == "newer"
    assert [p.name for p in path.parent.iterdir()] == [name]
    assert name == "model.zip" or not (path / "notes.txt").exists()
    # Folders that were made for a bundle go away with it.
    with pytest.raises(OutputError, match="No space left"):
        save_bundle(tmp_path / "a" / "b" / name, card, weights, add_files=failing)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_one_run_at_a_time_writes_a_bundle(tmp_path: Path) -> None:
    card = tiny_card()
    weights = tiny_network(card).state_dict()
    with BundleOutput(tmp_path / "model", overwrite=False) as output:
        with pytest.raises(OutputError, match=r"model is being written by another run"):
            save_bundle(tmp_path / "model", card, weights)
        output.write(card, weights)
    assert load_bundle(tmp_path / "model").card == card


def test_only_bundles_are_replaced(tmp_path: Path) -> None:
    card = tiny_card()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(OutputError, match="is not a model bundle"):
        save_bundle(tmp_path / "photos", card, tiny_network(card).state_dict())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["photos", "photos/a.jpg"]


def test_the_root_of_a_file_system_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.anchor)
    for root in (Path(tmp_path.anchor), Path()):
        with pytest.raises(OutputError, match="is the root of a file system") as caught:
            BundleOutput(root, overwrite=True)
        assert "\n" not in str(caught.value)


def test_cards_must_agree_with_themselves() -> None:
    card = tiny_card().model_dump()
    for change in ({"ms_bands": card["ms_bands"][:2]}, {"patch": PatchGeometry(size=8).model_dump()}):
        with pytest.raises(ValidationError):
            ModelCard.model_validate(card | change)
    with pytest.raises(ValidationError):
        PatchGeometry(size=16, target_index=16)
    assert (PatchGeometry().before, PatchGeometry().after) == (7, 8)
    with pytest.raises(ValidationError):
        Domain(ms_gsd_m=(1.0,), ratio=(1.0, 2.0))


def test_unknown_names_get_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_bundle(tmp_path, "landsat8-gulf")
    monkeypatch.setattr(
        "das2f_map.bundle.catalogue.bundled_models", lambda: {"landsat8-gulf": tmp_path / "landsat8-gulf"}
    )
    assert find_model("landsat8-gulf") == tmp_path / "landsat8-gulf"
    with pytest.raises(ModelError) as caught:
        find_model("landsat-gulf")
    assert caught.value.hint == "did you mean 'landsat8-gulf'?"


def test_bundled_models_are_sound() -> None:
    """Every model that ships must load, describe itself, and carry its accuracy."""
    assert bundled_models(), "at least one model ships with the package"
    for path in bundled_models().values():
        bundle = load_bundle(path)
        bundle.network()
        assert bundle.card.licence
        assert bundle.card.training.data
        assert bundle.card.domain is not None
        assert 0 < bundle.card.metrics["test"]["overall_accuracy"] <= 1
