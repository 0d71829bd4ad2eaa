"""What all tests share. ``from synthetic import make_pair`` works from any test file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Tiny networks gain nothing from threads and lose much where test processes share the cores. Before
# torch is imported; the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests measure shifts anew, and leave the user's cache alone.
os.environ["DAS2F_MAP_CACHE"] = "off"

import pytest

HERE = Path(__file__).resolve().parent
# Test files are imported without a package (importlib mode), so their helpers need a place on the path.
sys.path.insert(0, str(HERE))

from small_scene import Scene, make_scene  # noqa: E402 - the path is set above


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of further real scenes beside the repository, where there is one."""
    folder = HERE.parents[1] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real scenes in {folder}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A made-up scene with labels, made once: tests only read it."""
    return make_scene(tmp_path_factory.mktemp("scene"))


WHOLE = ("cli", "engines", "qgis", "running", "workflows")
"""Folders of tests that run whole workflows, engines or processes: too much for `make quick`."""

WHOLE_FILES = (
    "bundle/test_files.py",
    "test_accuracy_benchmarks.py",
    "test_benchmarks.py",
    "scene/common_grid/test_geometry.py",
    "scene/test_consensus.py",
    "training/test_baselines.py",
    "training/test_folds.py",
    "training/test_prepare.py",
    "training/test_scene_shares.py",
    "training/test_start.py",
    "bundle/test_fit.py",
    "network/test_parity.py",
    "outputs/test_locks.py",
    "outputs/test_recovery.py",
    "products/test_class_raster.py",
    "products/test_map_files.py",
    "products/test_polygons.py",
    "scene/test_antimeridian.py",
    "scene/test_coregister.py",
    "scene/test_registration.py",
    "scene/test_remote.py",
    "training/test_dataset.py",
    "bundle/test_untrusted.py",
    "labels/test_labels.py",
    "outputs/test_work_files.py",
    "pages/test_map_page.py",
    "products/test_tracing.py",
    "scene/products/test_products.py",
    "scene/test_fill.py",
    "scene/test_pair.py",
    "scene/test_paths.py",
    "scene/test_vector_file.py",
    "assess/test_drawing.py",
    "training/test_common_ground.py",
)


def _is_whole(path: Path) -> bool:
    place = path.relative_to(HERE)
    return place.parts[0] in WHOLE or place.as_posix() in WHOLE_FILES


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare `make quick` the imports of the tests that it leaves out."""
    left_out = "not whole" in config.option.markexpr and collection_path.is_file()
    return True if left_out and _is_whole(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make quick` leaves out."""
    for item in items:
        if _is_whole(item.path):
            item.add_marker(pytest.mark.whole)
