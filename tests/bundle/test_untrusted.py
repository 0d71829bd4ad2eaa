"""Model files that anyone may have made: one clear line each, in bounded memory and time."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import pytest
import shapely
import torch
from affine import Affine
from parity import published_state_dict
from rasterio.crs import CRS
from safetensors.torch import load_file, save_file
from tiny import tiny_bundle

from das2f_map.bundle.files import load_bundle, read_card
from das2f_map.bundle.published import convert, read_checkpoint
from das2f_map.errors import LabelError, ModelError
from das2f_map.labels.labelled_pixels import read_labels
from das2f_map.legend import Legend, odd_characters
from das2f_map.scene.grid import Grid

MIB = 1 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nothing is wrong with."""
    folder = tmp_path_factory.mktemp("sound")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"


def refused(read: Callable[[], Any], says: str) -> str:
    """The message of the one-line error that a call raises, in at most 16 MiB of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=says) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    return message


def zipped(path: Path, card: bytes, weights: bytes, how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("model.json", card)
        archive.writestr("model.safetensors", weights)
    return path


def parts(bundle: Path) -> tuple[bytes, bytes]:
    return (bundle / "model.json").read_bytes(), (bundle / "model.safetensors").read_bytes()


def changed(sound: Path, folder: Path, change: Callable[[dict[str, Any]], None] = lambda card: None) -> Path:
    """A copy of the bundle with another card."""
    card, weights = parts(sound)
    content = json.loads(card)
    change(content)
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_zip_bombs_are_refused_before_they_unpack(sound: Path, tmp_path: Path) -> None:
    card, weights = parts(sound)
    assert load_bundle(zipped(tmp_path / "good.zip", card, weights)).card == read_card(sound)
    zeros = bytes(100 * MIB)
    refused(lambda: load_bundle(zipped(tmp_path / "w.zip", card, zeros)), r"has 104,857,600 bytes, more than")
    refused(lambda: load_bundle(zipped(tmp_path / "c.zip", zeros, weights)), r"model\.json in .*c\.zip has")
    # A network that may need the bytes does not help.
    wide = json.loads(card)
    wide["network"] |= {"width": 1024}
    bomb = zipped(tmp_path / "wide.zip", json.dumps(wide).encode(), bytes(50 * MIB))
    refused(lambda: load_bundle(bomb), r"bytes unpack to 52,428,800, which no model does")


def test_zips_that_lie_about_their_size(sound: Path, tmp_path: Path) -> None:
    card, _ = parts(sound)
    path = zipped(tmp_path / "lie.zip", card, bytes(20 * MIB))
    # The size that both headers of the member state: 1,000 bytes.
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 20 * MIB), struct.pack("<I", 1000)))
    refused(lambda: load_bundle(path), "neither a folder nor a sound zip")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_that_unpack_in_large_steps(how: int, sound: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", *parts(sound), how)
    refused(lambda: load_bundle(path), "packed in a way that cannot be read safely")


def test_zips_of_a_hundred_thousand_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for i in range(100):
            archive.writestr(f"{i:03d}" + "x" * 20_000, b"")
    refused(lambda: load_bundle(tmp_path / "many.zip"), "neither a folder nor a sound zip")


def test_large_files_are_refused_unread(sound: Path, tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        os.truncate(changed(sound, folder) / name, 10**12)
        refused(lambda folder=folder: load_bundle(folder), "has 1,000,000,000,000 bytes, more than the")
    (tmp_path / "net.pth").touch()
    os.truncate(tmp_path / "net.pth", 10**12)
    refused(lambda: read_checkpoint(tmp_path / "net.pth"), "of any checkpoint")


@pytest.mark.parametrize("name", ["model.zip", "model.onnx", "net.pth"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    read = read_checkpoint if name == "net.pth" else load_bundle
    refused(lambda: read(tmp_path / name), "is not a plain file")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"format_version":' * 100_000, id="depth of objects"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="depth of lists"),
        pytest.param('{"training": {"split": {"a": ' + "[" * 5000 + "]" * 5000 + "}}}", id="depth inside"),
        pytest.param('{"format_version": ' + "9" * 5000 + "}", id="integer"),
        pytest.param('{"format_version": 1e999}', id="infinite"),
        pytest.param("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), id="no UTF-8"),
        pytest.param('{"' + "k" * 10**6 + '": 1}', id="key"),
    ],
)
def test_cards_that_are_no_cards(text: str, sound: Path, tmp_path: Path) -> None:
    changed(sound, tmp_path)
    (tmp_path / "model.json").write_text(text, encoding="latin-1")
    refused(lambda: read_card(tmp_path), r"model\.json is not a das2f-map model card")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("network", "width", 16 * 10**9),
        ("network", "ms_bands", 10**18),
        ("network", "patch_size", 10**6),
        ("network", "classifier_hidden", 2**62),
        ("patch", "size", 10**400),
        ("pan_band", "mean", 10**400),
        ("domain", "ratio", [1e-320, 10**400]),
        ("metrics", "test", {"overall_accuracy": 10**4000}),
        ("metrics", "test", {"kappa": float("nan")}),
        ("metrics", "test", {"overall_accuracy": -7}),
    ],
)
def test_numbers_that_nothing_needs(part: str, key: str, value: object, sound: Path, tmp_path: Path) -> None:
    def change(card: dict[str, Any]) -> None:
        card[part] = (card[part] or {}) | {key: value}

    refused(lambda: load_bundle(changed(sound, tmp_path, change)), "is not a das2f-map model card")


def test_a_network_too_large_for_any_memory(sound: Path, tmp_path: Path) -> None:
    def change(card: dict[str, Any]) -> None:
        card["network"] |= {"patch_size": 128, "width": 1024, "classifier_hidden": 65536}
        card["patch"] |= {"size": 128}

    refused(
        lambda: load_bundle(changed(sound, tmp_path, change)), r"network of [\d,]+ weights, das2f-map takes"
    )


@pytest.mark.parametrize(
    "name", ["wa\u0001ter", "wa\nter", "wa\u0085ter", "wa\u2028ter", "water\uffff", "\x1b[31m"]
)
def test_class_names_with_control_characters(name: str, sound: Path, tmp_path: Path) -> None:
    def change(card: dict[str, Any]) -> None:
        card["legend"]["classes"][0]["name"] = name

    message = refused(lambda: load_bundle(changed(sound, tmp_path, change)), "control characters")
    assert message.isprintable()
    with pytest.raises(ValueError, match="control characters"):
        Legend.from_names(["forest", name])


def test_odd_characters_are_those_that_xml_lacks() -> None:
    """Of one-byte characters, XML takes all but the control ones; letters of any script are fine."""
    for code in range(1, 32):
        with pytest.raises(ElementTree.ParseError):
            ElementTree.fromstring(f'<a b="{chr(code)}" c={chr(code)}/>')
        assert odd_characters(chr(code))
    assert not odd_characters("Wälder, 森林, غابة – 3 m² «dense» 🌲 co\u00adop")


def test_texts_of_a_card_do_not_steer_the_terminal(sound: Path, tmp_path: Path) -> None:
    def change(card: dict[str, Any]) -> None:
        card["description"] = "\x1b]0;title\x07"

    refused(lambda: read_card(changed(sound, tmp_path, change)), "description: .*control characters")


def test_class_names_of_labels_with_control_characters(tmp_path: Path) -> None:
    grid = Grid(20, 20, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32631))
    boxes = [
        shapely.box(500_000, 5_599_850, 500_050, 5_599_950),
        shapely.box(500_100, 5_599_850, 500_150, 5_599_950),
    ]
    geopandas.GeoDataFrame({"class": ["forest", "wa\x02ter"]}, geometry=boxes, crs=grid.crs).to_file(
        tmp_path / "labels.gpkg"
    )
    with pytest.raises(LabelError, match=r"labels\.gpkg has the class name 'wa\\x02ter', with control"):
        read_labels(str(tmp_path / "labels.gpkg"), grid)


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sparse": torch.Tensor.to_sparse,
    "without values": lambda t: t.to("meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "complex64": lambda t: t.to(torch.complex64),
    "bool": lambda t: t > 0,
    "int32": lambda t: t.to(torch.int32),
    "of repeated values": lambda t: torch.ones(1).expand(t.shape),
}


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    "kind", [*[*KINDS][::4], *(pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(KINDS) if k % 4)]
)
def test_checkpoints_with_odd_tensors(kind: str, tmp_path: Path) -> None:
    state = published_state_dict(1)
    for name in ("classifier.classifier_1.bias", "mamba_ms_1.mamba.A_logs"):
        torch.save(state | {name: KINDS[kind](state[name])}, tmp_path / "net.pth")
        with pytest.raises(ModelError, match=rf"1 of another kind \({name} is {kind}"):
            convert(read_checkpoint(tmp_path / "net.pth"), "net.pth")


@pytest.mark.parametrize(
    "name", ["mamba_ms_1.mamba.A_logs", "mamba_ms_1.mamba.Ds", "classifier.classifier_2.weight"]
)
def test_checkpoints_with_a_scalar(name: str, tmp_path: Path) -> None:
    torch.save(published_state_dict(1) | {name: torch.tensor(1.0)}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="scalar, should be"):
        convert(read_checkpoint(tmp_path / "net.pth"), "net.pth")


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "complex64", "bool", "int32"])
def test_bundles_with_odd_tensors(kind: str, sound: Path, tmp_path: Path) -> None:
    weights = load_file(sound / "model.safetensors")
    name = "classifier.out.bias"
    changed(sound, tmp_path)
    save_file(weights | {name: KINDS[kind](weights[name])}, tmp_path / "model.safetensors")
    refused(lambda: load_bundle(tmp_path).network(), rf"1 of another kind \({name} is {kind}\)")


def test_bundles_with_a_type_that_torch_lacks(sound: Path, tmp_path: Path) -> None:
    weights = parts(sound)[1]
    changed(sound, tmp_path)
    for other in (b'"F4"', b'"F16","x":[1]', b'"?"', b"7"):
        (tmp_path / "model.safetensors").write_bytes(weights.replace(b'"F32"', other, 1))
        refused(lambda: load_bundle(tmp_path), "damaged or not a safetensors file")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(struct.pack("<Q", 2**63) + b"{}", id="longer than any file"),
        pytest.param(struct.pack("<Q", 10**8) + b"{}", id="longer than the file"),
        pytest.param(struct.pack("<Q", 2 * 10**5) + b"[" * 10**5 + b"]" * 10**5, id="nested deeply"),
        pytest.param(struct.pack("<Q", 10**6) + b'{"' + b"k" * (10**6 - 6) + b'":1}', id="a long name"),
    ],
)
def test_headers_of_weights_that_are_too_large(header: bytes, sound: Path, tmp_path: Path) -> None:
    changed(sound, tmp_path)
    weights = parts(sound)[1]
    (tmp_path / "model.safetensors").write_bytes((header + weights)[: max(len(weights), len(header))])
    refused(lambda: load_bundle(tmp_path), r"damaged or not a safetensors file|bytes, more than the")


def test_a_bundle_in_a_bundle_is_none(sound: Path, tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", *parts(sound))
    for depth in range(3):
        outer = tmp_path / f"outer{depth}.zip"
        with zipfile.ZipFile(outer, "w") as archive:
            archive.write(inner, "inner.zip")
        inner = outer
    refused(lambda: load_bundle(inner), r"is not a model bundle: it has no model\.json")


class _Bytes:
    """Asks the reader for ten billion bytes by a number alone."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (10**10,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_checkpoints_that_ask_for_memory(as_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(2), "b": _Bytes()}, path, _use_new_zipfile_serialization=as_zip)
    refused(lambda: read_checkpoint(path), "cannot? be read safely|not a checkpoint that can be read safely")


def test_checkpoints_whose_zip_is_compressed(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "net.pth")
    with (
        zipfile.ZipFile(tmp_path / "net.pth") as source,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    refused(lambda: read_checkpoint(tmp_path / "small.pth"), "not a checkpoint that can be read safely")


def test_tensors_do_not_reach_beyond_their_file(tmp_path: Path) -> None:
    """A tensor that claims more numbers than the file has is refused, or holds bytes of the file alone."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "net.pth")
    with (
        zipfile.ZipFile(tmp_path / "net.pth") as source,
        zipfile.ZipFile(tmp_path / "far.pth", "w") as target,
    ):
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("data.pkl"):
                # 1000 as the pickle writes it: the numbers of the storage, and the tensor's shape.
                assert content.count(b"M\xe8\x03") == 2
                content = content.replace(b"M\xe8\x03", b"M\xff\xff")
            target.writestr(member.filename, content)
    refused(lambda: read_checkpoint(tmp_path / "far.pth"), "not a checkpoint that can be read safely")


@pytest.mark.parametrize("as_zip", [True, False])
def test_broken_pickle_streams(as_zip: bool, tmp_path: Path) -> None:
    """150 streams with a few bytes changed or cut: read, or refused in one line."""
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=as_zip)
    sound = path.read_bytes()
    begin = sound.index(b"\x80\x02")
    for seed in range(150):
        rng = random.Random(seed)
        broken = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(begin, min(begin + 400, len(broken)))] = rng.randrange(256)
        path.write_bytes(broken[: rng.randrange(begin, len(broken))] if seed % 5 == 0 else broken)
        with suppress(ModelError):
            read_checkpoint(path)
