"""Products as delivered on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import delivered
import numpy as np
import pytest
from command import Run


@pytest.fixture
def product(scene: tuple[Path, Path], tmp_path: Path) -> Path:
    qa = np.zeros((24, 28), np.uint16)
    qa[10:14, 10:20] = 1 << 3
    return delivered.landsat(tmp_path / "delivered", delivered.Pair(*scene), qa=qa)


@pytest.mark.slow
def test_inspect_lists_what_was_recognised(run: Run, product: Path) -> None:
    done = run("inspect", product)
    assert done.code == 0, done.err
    for fact in (
        "Landsat Collection 2 Level-1",
        "Landsat 8 OLI_TIRS",
        "2016-11-25T16:24:31Z",
        f"B5: {product.name}_B5.TIF",
        f"B8: {product.name}_B8.TIF",
        f"{product.name}_QA_PIXEL.TIF: dilated cloud, cirrus, cloud and cloud shadow",
        "left out with --mask clouds",
        "sun elevation 47.5 degrees; with --reflectance",
    ):
        assert fact in done.out, fact
    assert f"{product} --labels labels.gpkg -o" in done.out  # made-up values fit no bundled model


def test_inspect_as_json(run: Run, product: Path) -> None:
    done = run("inspect", product, "--json", "--mask", "clouds", "--reflectance")
    assert done.code == 0, done.err
    found = json.loads(done.out)["scene"]
    assert [b["label"] for b in found["product"]["bands"]] == ["B2", "B3", "B4", "B5", "B8"]
    assert found["product"]["reflectance_applied"]
    assert found["mask"]["path"] == str(product / f"{product.name}_QA_PIXEL.TIF")


@pytest.mark.slow
def test_classify_takes_a_product_and_its_clouds(
    run: Run, product: Path, model: Path, tmp_path: Path
) -> None:
    options = ("--model", model, "--no-vectors", "--device", "cpu", "--mask", "clouds")
    done = run("classify", product, "-o", tmp_path / "map.tif", *options)
    assert done.code == 0, done.err
    values, _, _ = delivered.read(tmp_path / "map.tif")
    assert not values[0, 10:14, 10:20].any()
    assert values[0, 16:].all()


def test_wrong_uses_are_told(run: Run, product: Path, scene: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        done = run(*arguments)
        assert done.code not in (0, 70)
        return done.err

    out = ("-o", tmp_path / "map.tif")
    band = next(product.glob("*_B4.TIF"))
    assert "is one band of a Landsat product" in refused("classify", band, *out)
    assert f"give the product's folder, {product}" in refused("classify", band, *out)
    assert "it needs a file, not --mask clouds" in refused(
        "classify", product, *out, "--mask", "clouds", "--mask-bits", "3"
    )
    assert "--mask clouds is the quality band of a product" in refused(
        "classify", *scene, *out, "--mask", "clouds"
    )
    assert "--reflectance needs a product" in refused("align", *scene, "--reflectance")
    assert "is also an input" in refused("classify", product, "-o", band, "--overwrite")
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.slow
def test_further_scene_is_a_product(run: Run, product: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.gpkg"
    done = run("train", "--scene", product, "", missing, "-o", tmp_path / "model")
    assert done.code not in (0, 70)
    assert str(missing) in done.errors[0]
