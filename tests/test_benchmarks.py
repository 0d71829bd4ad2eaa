"""The benchmarks run, and write what the documentation takes up. Their figures are not judged here."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks"
NAMES = ("engines", "growth", "breakdown", "training", "scenes")


def run(script: str, folder: Path, *more: str, name: str = "") -> dict[str, Any]:
    name = name or script
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--quick", "--device", "cpu", "-o", str(folder)]
    # One thread, whatever the machine: the tests next to this one want the other cores.
    done = subprocess.run(
        [*command, *more, "--threads", "1"], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    left = {p.name for p in folder.iterdir()}
    assert left == {f"{name}.{kind}" for kind in ("json", "md", "png")}
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert table.strip() == done.stdout.strip()
    assert "QUICK RUN" in table
    heads, align = (line.count("|") for line in table.splitlines()[:2])
    assert heads == align > 3
    text = (folder / f"{name}.json").read_text(encoding="utf-8")
    assert str(ROOT) not in text
    record: dict[str, Any] = json.loads(text)
    assert record["machine"]["threads"] == 1
    return record


@pytest.mark.slow
def test_engines(tmp_path: Path) -> None:
    record = run("engines", tmp_path)
    loop, *engines = record["ways"]
    assert loop["ratios"] == {"step by step": 1.0}
    for way in record["ways"]:
        assert way["pixels_per_second"] == pytest.approx(way["side"] ** 2 / way["seconds"][0])
        assert way["peak_bytes"] >= way["bytes_before"] > 2**26
    assert [e["name"] for e in record["agreement"]["engines"]] == [w["name"] for w in engines]
    for engine in record["agreement"]["engines"]:
        assert engine["largest_error"] < 1e-2


@pytest.mark.slow
def test_engines_with_two_stages(tmp_path: Path) -> None:
    record = run("engines", tmp_path, "--stages", "2", name="two_stages")
    *two, one = record["ways"]
    assert one["name"] == "`shared`, one stage"
    assert one["pixels_per_second"] > two[-1]["pixels_per_second"]
    for engine in record["agreement"]["engines"]:
        assert engine["largest_error"] < 1e-2


@pytest.mark.slow
def test_growth(tmp_path: Path) -> None:
    record = run("growth", tmp_path)
    assert [s["side"] for s in record["sizes"]] == [8, 16]
    for size in record["sizes"]:
        assert size["microseconds_a_pixel"] == pytest.approx(1e6 * size["seconds"] / size["side"] ** 2)
        (one,) = size["runs"]
        beside = one["seconds"] / one["reference_seconds"] / (size["side"] / 8) ** 2
        assert size["growth"] == pytest.approx(beside - 1)


@pytest.mark.slow
def test_breakdown(tmp_path: Path) -> None:
    record = run("breakdown", tmp_path)
    for kind in record["kinds"]:
        stages = {s["stage"]: s for s in kind["stages"]}
        assert set(stages) == {"maps", "scan", "tail", "fusion, classifier", "whole engine"}
        assert all(s["seconds_a_pixel"] > 0 for name, s in stages.items() if name != "fusion, classifier")


@pytest.mark.slow
def test_loader(tmp_path: Path) -> None:
    record = run("loader", tmp_path)
    (size,) = record["sizes"]
    assert size["labels"] == 512
    assert size["batch_seconds"][0] > 0
    assert size["step_seconds"][0] > 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    run("training", folder)
    return folder


@pytest.mark.slow
def test_training(trained: Path) -> None:
    (way,) = json.loads((trained / "training.json").read_text(encoding="utf-8"))["ways"]
    assert way["samples_per_second"] == pytest.approx(2 / way["seconds"][0])


@pytest.mark.slow
def test_scenes(tmp_path: Path) -> None:
    small, large = run("scenes", tmp_path)["scenes"]
    assert small["measured"]
    assert small["run"]["pixels"] == 20 * 24
    assert not large["measured"]
    assert large["run"]["pixels"] == 24 * 24
    run_ = large["run"]
    # Only what grows with the scene may be multiplied.
    assert run_["seconds"] < large["seconds"] < run_["seconds"] * 40 * 44 / 24**2


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("render")


def test_cost_of_a_pixel_is_that_of_the_design(scripts: Any) -> None:
    """Against figures that were counted by hand: two to three million multiply-adds, 78 MFLOP, …"""
    from das2f_map.network import NetworkConfig

    costs = scripts.breakdown.costs(NetworkConfig(classes=6), 32, half=False, half_scan=False)
    assert 2 * 2e6 < costs["maps"].flop < 2 * 3e6
    assert costs["scan"].functions == pytest.approx(0.5e6, rel=0.05)
    tokens = 4 * 256
    assert costs["tail"].flop == 2 * tokens * (64 * 64 + 2 * 64 * 256)
    assert costs["tail"].functions == tokens * 256
    assert costs["tail"].flop + costs["fusion, classifier"].flop == pytest.approx(78e6, rel=0.01)


def test_a_second_stage_on_cuda_is_measured_in_triton_and_in_pytorch(
    scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(scripts.engines, "unavailable_on_cuda", lambda *_kind: "")
    ways = {
        stages: [
            w.name
            for w in scripts.engines.ways_on(torch.device("cuda"), scripts.common.published_bundle(stages))
            if "Triton" in w.name
        ]
        for stages in (1, 2)
    }
    whole = ["`shared`, Triton, fp32", "`shared`, Triton, bf16"]
    assert ways == {1: whole, 2: [f"{name}, second stage in PyTorch operations" for name in whole] + whole}


def test_baseline_computes_the_same_network(scripts: Any) -> None:
    import numpy as np
    import torch

    from das2f_map.network.selective_scan.reference import sequential_scan

    g = torch.Generator().manual_seed(0)
    x, dt = torch.randn(2, 9, 3, generator=g), torch.rand(2, 4, 9, 3, generator=g)
    a, d = -torch.rand(4, 3, 5, generator=g), torch.randn(4, 3, generator=g)
    b, c = (torch.randn(2, 4, 9, 5, generator=g) for _ in range(2))
    order = torch.stack([torch.randperm(9, generator=g) for _ in range(4)])
    got, expected = (f(x, dt, a, b, c, d, order) for f in (scripts.engines.reference_scan, sequential_scan))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_page_takes_up_what_is_there(scripts: Any, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    places = [n + d for n in NAMES for d in ("", "-cuda")] + ["training-other", "unknown"]
    (trained / "training-other.json").write_bytes((trained / "training.json").read_bytes())
    page.write_text("".join(f"before\n<!-- {n} -->\nold\n<!-- end of {n} -->\n" for n in places))
    scripts.refresh_page(page, trained)
    text = page.read_text(encoding="utf-8")
    assert text.count("before") == len(places)
    table = (trained / "training.md").read_text(encoding="utf-8").strip()
    pictures = Path(os.path.relpath(trained, page.parent)).as_posix()
    assert f"<!-- training -->\n\n{table}\n\n![training]({pictures}/training.png)\n\n<!-- end" in text
    assert "Not measured yet; `python benchmarks/scenes.py` on a machine with CUDA" in text
    assert f"![training]({pictures}/training-other.png)\n\n<!-- end of training-other" in text
    assert text.count("Not measured yet") == len(places) - 3  # all but training, twice, and the unknown place
    assert text.count("old") == 1  # nothing is known of it


@pytest.mark.slow
def test_pages_of_the_documentation_are_up_to_date(scripts: Any, tmp_path: Path) -> None:
    """Figures in the pages are those of the JSON files beside them."""
    docs = scripts.PAGE.parent
    pages = [p.relative_to(docs) for p in (scripts.PAGE, *scripts.common.DOCS.glob("*.md"))]
    evidence = ("registration-evidence", "real-scenes", "recipe-evidence", "worth-evidence")
    pages += [Path(f"{name}.md") for name in evidence]
    assert {"benchmarks.md", "avx512.md", "avx2.md", "amx.md"} <= {p.name for p in pages}
    (tmp_path / "benchmarks").mkdir()
    for path in (*pages, *(p.relative_to(docs) for p in scripts.common.DOCS.glob("*.json"))):
        (tmp_path / path).write_bytes((docs / path).read_bytes())
    # Old tables must not survive.
    for page in pages:
        text = (tmp_path / page).read_text(encoding="utf-8")
        emptied = re.sub(r"(<!-- (.+?) -->).*?(<!-- end of \2 -->)", r"\1\3", text, flags=re.DOTALL)
        assert emptied != text
        (tmp_path / page).write_text(emptied, encoding="utf-8")
    scripts.refresh_pages(tmp_path / "benchmarks.md", tmp_path / "benchmarks")
    for page in pages:
        assert (tmp_path / page).read_text(encoding="utf-8") == (docs / page).read_text(encoding="utf-8")
    assert {p.name for p in tmp_path.rglob("*.md")} == {p.name for p in pages}


@pytest.mark.slow
def test_machine_without_a_page_gets_one(scripts: Any, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "training-cuda.json").write_bytes((trained / "training.json").read_bytes())
    page = tmp_path / "benchmarks.md"
    page.write_text("<!-- summary --><!-- end of summary -->")
    scripts.refresh_pages(page, folder)
    made = (folder / "cuda.md").read_text(encoding="utf-8")
    assert (trained / "training.md").read_text(encoding="utf-8").strip() in made
    assert "![training](training-cuda.png)" in made
    assert "\n## Training\n" in made
    assert made.count("Not measured yet") == len(NAMES) - 1
    (row,) = (line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| training"))
    assert "(benchmarks/cuda.md#training)" in row
    rate = json.loads((trained / "training.json").read_text(encoding="utf-8"))["ways"][0][
        "samples_per_second"
    ]
    assert f"| {rate:.1f} samples/s |" in row


@pytest.mark.slow
def test_page_without_a_place_for_a_table_is_an_error(scripts: Any, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- training -->")
    with pytest.raises(SystemExit, match=r"page\.md has no place '<!-- training -->"):
        scripts.refresh_page(page, trained)


def test_summary_has_the_ratios_of_the_results(scripts: Any) -> None:
    """Against the JSON file: the fastest way of the engine, and each plain loop at its better batch size."""
    ways = json.loads((scripts.common.DOCS / "engines-amx.json").read_text(encoding="utf-8"))["ways"]
    rates = {w["name"]: w["pixels_per_second"] for w in ways}
    fastest = max(rate for name, rate in rates.items() if name.startswith("`shared`") and "bf16" not in name)
    text = scripts.PAGE.read_text(encoding="utf-8")
    (row,) = (
        line
        for line in text.splitlines()
        if line.startswith("| engine `shared`, fp32") and "#engines" in line and "amx.md" in line
    )
    assert f"| {fastest:,.0f} pixels/s |" in row
    for loop in ("step by step", "reference scan"):
        best = max(rate for name, rate in rates.items() if name.startswith(f"loop, {loop}"))
        assert f"{fastest / best:.1f} × loop, {loop}" in row
    assert "| any CUDA card | not measured |" in text or "cuda.md" in text


def test_tables_of_registration_stand_in_the_page(scripts: Any, tmp_path: Path) -> None:
    """A reader of the page sees the figures of the JSON file."""
    registration = importlib.import_module("registration")
    docs = scripts.PAGE.parent
    results = json.loads((docs / "benchmarks" / "registration.json").read_text(encoding="utf-8"))
    text = (docs / "registration-evidence.md").read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    registration.fill(page, registration.tables(results))
    assert page.read_text(encoding="utf-8") == text
    for scene in results:
        assert text.count(f"\n| {scene['scene']} |") == 4


def test_resamplers_are_measured_as_said(scripts: Any, tmp_path: Path) -> None:
    """The figures of the comparison with GDAL, on images with known ones; and a shift reaches GDAL."""
    import numpy as np
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.enums import Resampling

    from das2f_map.scene.common_grid.pixel_map import AffineMap
    from das2f_map.scene.grid import Grid
    from das2f_map.scene.source import RasterSource

    resampling = importlib.import_module("resampling")
    row, col = np.mgrid[0:24, 0:30] + 0.5

    def wave(r: Any, c: Any) -> Any:
        return np.sin(0.4 * r) + np.cos(0.3 * c)

    slopes = np.stack([0.4 * np.cos(0.4 * row), -0.3 * np.sin(0.3 * col)])
    where = np.ones(row.shape, dtype=bool)
    found = resampling.figures(wave(row - 0.02, col + 0.01), wave(row, col), slopes, where, 4)
    assert (found["rows"], found["cols"]) == pytest.approx((0.08, -0.04), abs=1e-3)
    found = resampling.figures(wave(row, col) + 0.5, wave(row, col), slopes, where)
    assert (found["rms"], found["largest"]) == pytest.approx((0.5 / wave(row, col).std(),) * 2)

    ground = np.random.default_rng(0).normal(size=(24, 30))
    thirds = resampling.ground_average(ground, Affine.scale(3), (8, 10))
    np.testing.assert_allclose(thirds, ground.reshape(8, 3, 10, 3).mean(axis=(1, 3)))
    halves = resampling.ground_average(ground, Affine.translation(0.5, 0), (24, 30))
    np.testing.assert_allclose(halves[:, :-1], (ground[:, :-1] + ground[:, 1:]) / 2)
    assert np.isnan(halves[:, -1]).all()
    turned = Affine.translation(10, 8) * Affine.rotation(30) * Affine.scale(6)
    (middle,) = resampling.ground_average(col, turned, (1, 1)).ravel()
    assert middle == pytest.approx((turned * (0.5, 0.5))[0], abs=0.05)

    share, image = np.array([0.0, 0.0, 0.02, 0.2, 0.9, 1.0]), np.array([1, np.nan, 1, 1, np.nan, np.nan])
    expected = {"mixed": 2, "kept": 1, "largest": 0.2, "lost": 1}
    assert resampling.invalid_pixels(share, image) == expected

    grid = Grid(24, 30, Affine(2, 0, 5e5, 0, -2, 5e6), CRS.from_epsg(32632))
    path = resampling.write_raster(tmp_path / "ramps.tif", np.stack([row, col]), grid)
    target = Grid(8, 8, grid.transform * Affine.translation(10, 10) * Affine.scale(0.5), grid.crs)
    with RasterSource(path, "MS") as source:
        mapping = AffineMap.between(target, grid.moved(0.25, -1.5))
        by = resampling.ByGdal(Resampling.cubic)
        rows, cols = by(source.read, mapping, target.window)
        by.close()
    np.testing.assert_allclose(rows[:, 0], 10.25 + 0.5 * np.arange(8) - 0.25, atol=1e-4)
    np.testing.assert_allclose(cols[0], 10.25 + 0.5 * np.arange(8) + 1.5, atol=1e-4)


def test_tables_of_resampling_are_in_the_page(scripts: Any, tmp_path: Path) -> None:
    resampling = importlib.import_module("resampling")
    record = json.loads((scripts.common.DOCS / "resampling.json").read_text(encoding="utf-8"))
    text = resampling.PAGE.read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    scripts.common.fill(page, resampling.tables(record))
    assert page.read_text(encoding="utf-8") == text
    assert text.count("\n| gulf | ratio") == len(resampling.CONTENTS)
