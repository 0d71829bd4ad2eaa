"""Patches against plain slicing; turns keep the target in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from small_scene import Scene
from synthetic import make_pair

from das2f_map.legend import Legend
from das2f_map.running.blocks import BlockClassifier
from das2f_map.scene.grid import Window
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import BandStatistics, Normalisation
from das2f_map.scene.source import RasterSource
from das2f_map.scene.turns import TURNS, turned
from das2f_map.training.dataset import PatchReader

RAW = BandStatistics(name="raw", mean=0.0, std=1.0, p01=0.0, p99=1.0)


def raw(pair: ScenePair) -> ModelInput:
    """A pair whose values are not normalised."""
    return ModelInput(pair, Normalisation((RAW,) * 4, RAW), PatchGeometry())


def images(small_scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with rasterio.open(small_scene.ms) as ms, rasterio.open(small_scene.pan) as pan:
        return ms.read().astype(np.float32), pan.read().astype(np.float32)


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "on disk"])
def test_patches_are_slices_of_the_reflected_scene(small_scene: Scene, memory: int) -> None:
    ms, pan = images(small_scene)
    ms = np.pad(ms, ((0, 0), (7, 8), (7, 8)), mode="reflect")
    pan = np.pad(pan, ((0, 0), (28, 32), (28, 32)), mode="reflect")
    # Corners, the seam between cached blocks of 64, and the middle.
    rows = np.array([0, 0, 95, 95, 63, 64, 40])
    cols = np.array([0, 95, 0, 95, 64, 63, 17])
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        reader = PatchReader(raw(pair), memory=memory)
        assert reader.load(rows, cols).all()
        got_ms, got_pan = reader.patches(rows, cols)
        for k, (r, c) in enumerate(zip(rows, cols, strict=True)):
            assert np.array_equal(got_ms[k], ms[:, r : r + 16, c : c + 16])
            assert np.array_equal(got_pan[k], pan[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64])
        reader.close()


@pytest.mark.parametrize("turn", range(TURNS))
def test_turned_patch_is_the_patch_of_the_turned_scene(small_scene: Scene, turn: int) -> None:
    """Turn the whole scene, find the target there, cut as always: the target stays at index 7."""
    ms, pan = images(small_scene)
    row, col = 41, 58
    marker = np.zeros((1, 96, 96), np.float32)
    marker[0, row, col] = 1
    (r, c) = np.argwhere(turned(marker, turn)[0])[0]
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        reader = PatchReader(raw(pair))
        got_ms, got_pan = reader.patches(np.array([row]), np.array([col]), np.array([turn]))
    assert np.array_equal(got_ms[0], turned(ms, turn)[:, r - 7 : r + 9, c - 7 : c + 9])
    top, left = 4 * (r - 7), 4 * (c - 7)
    assert np.array_equal(got_pan[0], turned(pan, turn)[:, top : top + 64, left : left + 64])
    assert np.array_equal(got_ms[0, :, 7, 7], ms[:, row, col])


def test_the_eight_turns_differ() -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    assert len({turned(image, t).tobytes() for t in range(TURNS)}) == 8


def test_only_blocks_with_labels_are_read_once_each(
    small_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        windows = []
        read = pair.read_block
        monkeypatch.setattr(
            pair, "read_block", lambda w, b, a, fill: (windows.append(w), read(w, b, a, fill=fill))[1]
        )
        reader = PatchReader(raw(pair))
        rows, cols = np.array([1, 5, 70, 63]), np.array([2, 60, 90, 0])
        reader.load(rows, cols)
        for _ in range(3):
            reader.patches(rows, cols)
    assert sorted((w.row, w.col, w.height, w.width) for w in windows) == [(0, 0, 64, 64), (64, 64, 32, 32)]


def test_nodata_as_in_classify(tmp_path: Path) -> None:
    """Targets and their patches are the same as for a map."""
    paths = make_pair(
        tmp_path,
        ms_shape=(80, 70),
        nodata=0,
        ms_invalid=[(slice(50, 72), slice(None, 40)), (slice(50, 72), slice(44, None))],
        pan_invalid=[(slice(100, 140), slice(200, 210))],
    )
    rows, cols = (a.ravel() for a in np.indices((80, 70)))
    asked: list[NDArray[np.bool_]] = []
    given: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    class Engine:
        all_turns = False

        def logits(self, ms, pan, targets):
            asked.append(targets)
            given.append((ms, pan))
            return np.zeros((int(targets.sum()), 1), np.float32)

    with open_pair(*paths) as pair:
        reader = PatchReader(raw(pair))
        usable = reader.load(rows, cols)
        block = BlockClassifier(raw(pair), Engine(), Legend.from_names(["all"])).classify(
            pair.grids.ms.window
        )
        assert (block.classes > 0).sum() == usable.sum()
        np.testing.assert_array_equal(asked[0].ravel(), usable)
        block = pair.read_block(pair.grids.ms.window, 0, 0)
        assert usable.sum() < block.valid.sum(), "some have too much nodata around"
        ms, pan = given[0]
        for k in np.random.default_rng(0).permutation(np.flatnonzero(usable))[:300]:
            r, c = rows[k], cols[k]
            got_ms, got_pan = reader.patches(rows[[k]], cols[[k]])
            np.testing.assert_array_equal(got_ms[0], ms[:, r : r + 16, c : c + 16])
            np.testing.assert_array_equal(got_pan[0], pan[:, 4 * r : 4 * r + 64, 4 * c : 4 * c + 64])


def test_no_pixels_are_no_blocks(small_scene: Scene) -> None:
    none = np.zeros(0, np.int32)
    with (
        open_pair(small_scene.ms, small_scene.pan) as pair,
        PatchReader(raw(pair)) as reader,
    ):
        assert reader.load(none, none).size == 0


RESAMPLED = {
    "ms-to-pan-grid": {"offset": (0.4, -0.3)},
    "pan-to-quarter-ms": {"ratio": 2, "offset": (0.5, 0.25)},
    "pan-to-quarter-ms, ratio 6": {"ratio": 6},
}


@pytest.mark.parametrize("axis", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["rows", "columns"])
@pytest.mark.parametrize("kind", RESAMPLED)
def test_patches_at_reach_share_no_pixel_of_the_files(
    kind: str, axis: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test changes the lines of the files one by one; none may change the patches of two parts."""
    with open_pair(*make_pair(tmp_path, ms_shape=(64, 64), **RESAMPLED[kind])) as pair:
        assert kind.startswith(pair.strategy)
        reader = PatchReader(raw(pair))
        name = "MS" if pair.strategy == "ms-to-pan-grid" else "PAN"
        changed = -1
        original = RasterSource.read

        def read(self: RasterSource, window: Window) -> NDArray[np.float32]:
            values = original(self, window)
            first = (window.row, window.col)[axis]
            if self.path.endswith(f"{name.lower()}.tif") and 0 <= changed - first < values.shape[axis + 1]:
                values = np.moveaxis(values.copy(), axis + 1, 0)
                values[changed - first] += 1e4
                values = np.moveaxis(values, 0, axis + 1)
            return values

        monkeypatch.setattr(RasterSource, "read", read)

        def squares(start: int) -> list[NDArray[np.float32]]:
            """All pixels that turned patches of a target can come from; one pixel wide across the axis."""
            window = Window(start, 30, 17, 1) if axis == 0 else Window(30, start, 1, 17)
            block = pair.read_block(window, 0, 0)
            return [block.ms, block.pan]

        def draws_on(start: int) -> set[int]:
            nonlocal changed
            changed = -1
            before = squares(start)
            found = set()
            for changed in range((20 + 5) * (1 if name == "MS" else 2), 64 if name == "MS" else 64 * 6):
                if any((a != b).any() for a, b in zip(squares(start), before, strict=True)):
                    found.add(changed)
            return found

        here = draws_on(10)
        assert here
        assert not here & draws_on(10 + reader.reach)
        # At a distance without the support of resampling, they would share pixels.
        assert here & draws_on(10 + 17)
        assert here & draws_on(10 + reader.reach - 2)


def test_reach_without_resampling_is_the_turned_patch(small_scene: Scene) -> None:
    with open_pair(small_scene.ms, small_scene.pan) as pair:
        assert PatchReader(raw(pair)).reach == 17
