"""Findings of `doctor`, with and without optional packages and devices."""

from __future__ import annotations

import importlib.util
import re
import types
from importlib import metadata
from pathlib import Path

import pytest
import torch

from das2f_map.engines.choose import ENGINES, PRECISIONS
from das2f_map.workflows import doctor

ROOT = Path(__file__).resolve().parents[2]


def _extras() -> dict[str, set[str]]:
    """Extra → distributions that it needs, from the metadata of the installed package."""
    found: dict[str, set[str]] = {}
    for line in metadata.requires("das2f-map") or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker:
            extra = marker.split("extra ==")[1].strip().strip("\"'")
            # dask[distributed] brings both.
            found.setdefault(extra, set()).update(re.findall(r"[a-z][\w-]*", requirement))
    return found


def test_every_extra_is_looked_for() -> None:
    assert set(doctor.EXTRAS) == set(_extras()) - {"dev"}
    for extra, packages in doctor.EXTRAS.items():
        assert set(packages) <= _extras()[extra]


def test_this_machine() -> None:
    found = doctor.diagnose()
    assert found.versions["torch"] == torch.__version__
    assert found.cpu["threads"] == torch.get_num_threads()
    cpu = {(a.name, a.precision): a.unavailable for a in found.engines if a.device == "cpu"}
    assert set(cpu) == {(e, p) for e in ENGINES[1:] for p in PRECISIONS[1:]}
    assert cpu["patch", "fp32"] == ""
    assert "fp32 only" in cpu["patch", "bf16"]
    scans = {a.name: a.unavailable for a in found.scans if a.device == "cpu"}
    assert scans["chunked"] == scans["sequential"] == ""
    assert scans["mamba-ssm"]
    (use,) = [u for u in found.uses if u.device == "cpu"]
    assert use.classify_one_stage == "engine shared in fp32"


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_a_machine_with_a_card(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: torch.device) -> tuple[int, int]:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable")

    properties = types.SimpleNamespace(
        name="Card", major=capability[0], minor=capability[1], total_memory=8 * 2**30
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capability >= (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    found = doctor.diagnose()
    (card,) = found.cuda_devices
    assert (card["name"], card["bf16"], card["free_bytes"]) == ("Card", capability >= (8, 0), None)
    assert found.cuda_missing == ""
    assert [u.device for u in found.uses] == ["cpu", "cuda:0"]
    engines = {(a.name, a.precision): a.unavailable for a in found.engines if a.device == "cuda:0"}
    assert bool(engines["patch", "bf16"]) == (capability < (8, 0))
    assert found.uses[1].train.endswith("bf16" if capability >= (8, 0) else "fp32")


@pytest.mark.parametrize(
    ("installed", "expected", "missing"),
    [
        ({"onnxruntime": "1.2", "onnxruntime-gpu": "1.1"}, "1.2 and 1.1 (GPU)", ("mamba-ssm",)),
        ({"onnxruntime-gpu": "1.1"}, "1.1 (GPU)", ("mamba-ssm",)),
        ({"onnxruntime": "1.2"}, "1.2", ("mamba-ssm", "onnxruntime-gpu")),
        ({}, None, ("mamba-ssm", "onnxruntime-gpu")),
    ],
)
def test_onnxruntime_for_cpu_and_gpu_are_told_apart(
    installed: dict[str, str], expected: str | None, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, find = metadata.version, importlib.util.find_spec

    def of(name: str) -> str:
        if not name.startswith("onnxruntime"):
            return version(name)
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", of)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "mamba_ssm" else find(n, *a))
    found = doctor.diagnose()
    assert found.versions["onnxruntime"] == expected
    (cuda,) = [e for e in found.extras if e.name == "cuda"]
    assert cuda.missing == missing
    assert "--no-build-isolation" in cuda.install
    # Both packages bring the same module, and the one that is there would hide the other.
    assert ("uninstall onnxruntime," in cuda.install) == (set(installed) == {"onnxruntime"})


@pytest.mark.parametrize(
    ("plain_runtime", "expected"),
    [
        (True, "pip uninstall onnxruntime, then pip install onnxruntime-gpu, see docs/building.md"),
        (False, "pip install onnxruntime-gpu, see docs/building.md"),
    ],
)
def test_an_extra_that_lacks_one_package_only(
    plain_runtime: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, find = metadata.version, importlib.util.find_spec

    def of(name: str) -> str:
        if name == "onnxruntime-gpu" or (name == "onnxruntime" and not plain_runtime):
            raise metadata.PackageNotFoundError(name)
        return "1.2" if name == "onnxruntime" else version(name)

    monkeypatch.setattr(metadata, "version", of)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: find("json" if n == "mamba_ssm" else n, *a)
    )
    (cuda,) = [e for e in doctor.diagnose().extras if e.name == "cuda"]
    assert cuda.missing == ("onnxruntime-gpu",)
    assert cuda.install == expected
    assert (ROOT / "docs" / "engines.md").is_file()


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find, version = importlib.util.find_spec, metadata.version
    gone = {"lightning", "onnxruntime"}

    def no_version(name: str) -> str:
        if name.removesuffix("-gpu") in gone:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    def broken(*_: object) -> str:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n in gone else find(n, *a))
    monkeypatch.setattr(metadata, "version", no_version)
    backend = doctor.BACKENDS["mamba-ssm"]
    monkeypatch.setitem(
        doctor.BACKENDS, "mamba-ssm", types.SimpleNamespace(name=backend.name, unavailable=broken)
    )
    monkeypatch.setattr(doctor, "default_backend", lambda *_, **__: backend)
    found = doctor.diagnose()
    assert found.versions["lightning"] is None
    extras = {e.name: e for e in found.extras}
    assert extras["train"].missing == ("lightning",)
    assert "onnxruntime" in extras["onnx"].missing
    assert "[train]" in extras["train"].install
    onnx = [a.unavailable for a in found.engines if a.name == "onnx"]
    assert onnx == ["onnxruntime is not installed"] * len(onnx)
    (mamba,) = [a.unavailable for a in found.scans if a.name == "mamba-ssm" and a.device == "cpu"]
    assert mamba == "OSError: libcuda.so.1: cannot open shared object file"


def test_without_the_package_onnx_only_onnx_files_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnx" else find(n, *a))
    reasons = {a.precision: a.unavailable for a in doctor.diagnose().engines if a.name == "onnx"}
    assert reasons["fp32"] == "onnx is not installed: runs ONNX files only"
