"""A plan that is sent to another process computes the same blocks."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map
from das2f_map.bundle.files import load_bundle
from das2f_map.bundle.model import ModelBundle
from das2f_map.bundle.onnx_file import OnnxModel
from das2f_map.engines.choose import EngineChoice
from das2f_map.errors import InputError
from das2f_map.products.map_files import MapPaths
from das2f_map.running.map_options import MapOptions
from das2f_map.running.plan import ClassifyPlan, FileIdentity, classify_block, close_plan
from das2f_map.scene.request import PairRequest, PairView


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"), patch=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scene")
    return make_pair(folder, ms_shape=(20, 26), nodata=0, ms_invalid=[(slice(0, 3), slice(0, 4))])


@pytest.fixture
def plan(bundle: ModelBundle, files: tuple[Path, Path]) -> Iterator[ClassifyPlan]:
    request = PairRequest.of(*files, coregistration="off")
    with request.open() as pair:
        grid = pair.grids.ms
        yield ClassifyPlan(
            view=PairView.of(request, pair),
            bundle=bundle,
            normalisation=bundle.card.normalisation,
            engine=EngineChoice("patch", "cpu", "fp32"),
            files=tuple(FileIdentity.of(p) for p in request.files),
            aoi=None,
            grid=grid,
            window=grid.window,
            block_size=10,
            memory_bytes=0,
            outputs=MapPaths(Path("map.tif"), Path("map.json")),
        )
    close_plan()


def test_blocks_cover_the_window_once(plan: ClassifyPlan) -> None:
    part = dataclasses.replace(plan, window=plan.window.padded(-3, -2))
    seen = np.zeros((plan.grid.height, plan.grid.width), int)
    for window in part.blocks():
        seen[window.slices()] += 1
    expected = np.zeros_like(seen)
    expected[part.window.slices()] = 1
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.slow
def test_a_pickled_plan_computes_the_map_in_another_process(
    plan: ClassifyPlan, bundle: ModelBundle, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Blocks in any order, against the map that `classify` writes."""
    (tmp_path / "plan.pickle").write_bytes(pickle.dumps(plan))
    script = (
        "import pickle, sys\n"
        "import numpy as np\n"
        "from das2f_map.running.plan import classify_block\n"
        "plan = pickle.load(open(sys.argv[1], 'rb'))\n"
        "out = np.full((plan.grid.height, plan.grid.width), 255, np.uint8)\n"
        "for window in reversed(list(plan.blocks())):\n"
        "    out[window.slices()] = classify_block(plan, window).classes\n"
        "np.save(sys.argv[2], out)\n"
    )
    target = tmp_path / "classes.npy"
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "plan.pickle"), str(target)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(das2f_map.__file__).parents[1])},
    )
    das2f_map.classify(
        *files, tmp_path / "map.tif", model=bundle, vectors=False, engine="patch", coregistration="off"
    )

    with rasterio.open(tmp_path / "map.tif") as found:
        np.testing.assert_array_equal(np.load(target), found.read(1))


def test_a_block_depends_on_plan_and_window_alone(plan: ClassifyPlan) -> None:
    windows = list(plan.blocks())
    first = [classify_block(plan, w) for w in windows]
    other = dataclasses.replace(plan, block_size=7)
    classify_block(other, next(other.blocks()))  # another plan in between
    again = [classify_block(pickle.loads(pickle.dumps(plan)), w) for w in reversed(windows)]
    for one, two in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one.classes, two.classes)
        np.testing.assert_array_equal(one.confidence, two.confidence)


def test_key_is_that_of_equal_plans_only(plan: ClassifyPlan, bundle: ModelBundle, tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(plan)).key == plan.key
    copied = dataclasses.replace(plan, outputs=MapPaths(tmp_path / "other.tif", tmp_path / "other.json"))
    assert copied.key == plan.key
    assert bundle.path is not None
    reloaded = load_bundle(bundle.path)
    assert dataclasses.replace(plan, bundle=reloaded).key == plan.key
    changed = {n: t + 1 if n.endswith("out.bias") else t for n, t in bundle.state_dict.items()}
    others = [
        dataclasses.replace(plan, block_size=11),
        dataclasses.replace(plan, options=MapOptions(reject=0.5)),
        *(
            dataclasses.replace(plan, outputs=dataclasses.replace(plan.outputs, **{kind: Path("more.tif")}))
            for kind in ("probabilities", "entropy")
        ),
        dataclasses.replace(plan, window=plan.window.padded(-1, 0)),
        dataclasses.replace(plan, engine=EngineChoice("shared", "cpu", "fp32")),
        dataclasses.replace(plan, bundle=ModelBundle(bundle.card, changed)),
        dataclasses.replace(
            plan, view=dataclasses.replace(plan.view, bands=tuple(reversed(plan.view.bands)))
        ),
    ]
    assert len({plan.key, *(p.key for p in others)}) == 1 + len(others)


def test_a_file_that_has_changed_is_refused(plan: ClassifyPlan, files: tuple[Path, Path]) -> None:
    before = files[0].stat()
    os.utime(files[0], ns=(1, 1))
    try:
        with pytest.raises(InputError, match="has changed since the map was planned"):
            classify_block(plan, next(plan.blocks()))
        now = tuple(FileIdentity.of(p) for p in plan.view.request.files)
        assert dataclasses.replace(plan, files=now).key != plan.key
    finally:
        os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))


def test_blocks_have_the_values_that_the_outputs_need(plan: ClassifyPlan) -> None:
    window = next(plan.blocks())
    plain = classify_block(plan, window)
    assert (plain.probabilities, plain.entropy) == (None, None)
    outputs = dataclasses.replace(plan.outputs, probabilities=Path("p.tif"), entropy=Path("e.tif"))
    sent = pickle.loads(
        pickle.dumps(dataclasses.replace(plan, outputs=outputs, options=MapOptions(reject=0.6)))
    )
    block = classify_block(sent, window)
    assert block.probabilities is not None
    assert block.entropy is not None
    np.testing.assert_array_equal(block.confidence, plain.confidence)
    np.testing.assert_array_equal(block.probabilities.max(axis=0), plain.confidence)
    np.testing.assert_array_equal(np.isnan(block.entropy), plain.classes == 0)
    np.testing.assert_array_equal(block.classes, np.where(plain.confidence < 0.6, 255, plain.classes))
    assert (sent.unsure, sent.legend.ids[-1]) == (255, 255)
    assert 255 in block.classes


def test_threads_with_two_plans_compute_what_one_does(plan: ClassifyPlan) -> None:
    other = dataclasses.replace(plan, block_size=7)
    work = [(p, w) for p in (plan, other) for w in list(p.blocks())[:4]]
    alone = [classify_block(p, w).classes for p, w in work]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda item: classify_block(*item).classes, work))
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, two)


def test_models_differ_by_their_weights_or_file(bundle: ModelBundle) -> None:
    other = ModelBundle(bundle.card, {n: t + 1 for n, t in bundle.state_dict.items()})
    files = [OnnxModel(bundle.card, data, Path("model.onnx")) for data in (b"one", b"two")]
    assert len({m.digest() for m in (bundle, other, *files)}) == 4
