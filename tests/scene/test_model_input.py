"""What a network sees of a window, against patches cut out of the whole images with NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from naive_fill import filled
from synthetic import make_pair, pair_grids, write_raster

from das2f_map.scene.grid import Window
from das2f_map.scene.mask import MaskFile
from das2f_map.scene.model_input import InputBlock, ModelInput
from das2f_map.scene.pair import ScenePair, open_pair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import BandStatistics, Normalisation

SHAPE = (26, 30)
STATISTICS = Normalisation(
    tuple(
        BandStatistics(name=n, mean=1900.0 + 150 * k, std=300.0 + 70 * k, p01=0, p99=1)
        for k, n in enumerate(("blue", "green", "red", "nir"))
    ),
    BandStatistics(name="pan", mean=2300.0, std=410.0, p01=0, p99=1),
)


@dataclass(frozen=True)
class Truth:
    """Whole images, normalised and with a margin of ``radius`` MS pixels around, read without the package."""

    ms: npt.NDArray[np.float32]
    pan: npt.NDArray[np.float32]
    invalid: npt.NDArray[np.bool_]
    radius: int

    @classmethod
    def of(cls, paths: tuple[Path, Path], patch: PatchGeometry) -> Truth:
        radius = max(patch.target_index, patch.size - 1 - patch.target_index)
        padded = []
        invalid = []
        for path, factor, bands in zip(
            paths, (1, 4), (STATISTICS.ms_bands, [STATISTICS.pan_band]), strict=True
        ):
            with rasterio.open(path) as ds:
                values = ds.read().astype(np.float32)
                values[values == ds.nodata] = np.nan
            margin = ((0, 0), (factor * radius,) * 2, (factor * radius,) * 2)
            missing = np.pad(np.isnan(values), margin, mode="reflect").any(axis=0)
            invalid.append(missing.reshape(missing.shape[0] // factor, factor, -1, factor).any(axis=(1, 3)))
            if patch.invalid_fill == "neighbours":
                values = filled(values, factor * radius).astype(np.float32)
            normal = [(v.astype(np.float64) - b.mean) / b.std for v, b in zip(values, bands, strict=True)]
            padded.append(np.pad(np.nan_to_num(np.stack(normal).astype(np.float32)), margin, mode="reflect"))
        return cls(*padded, invalid[0] | invalid[1], radius)

    def patch(self, row: int, col: int, patch: PatchGeometry) -> tuple[npt.NDArray[np.float32], ...]:
        """MS (bands, P, P), PAN (1, 4 P, 4 P) and invalid (P, P) about a target."""
        r, c = row + self.radius - patch.target_index, col + self.radius - patch.target_index
        p = patch.size
        return (
            self.ms[:, r : r + p, c : c + p],
            self.pan[:, 4 * r : 4 * (r + p), 4 * c : 4 * (c + p)],
            self.invalid[r : r + p, c : c + p],
        )

    def usable(self, window: Window, patch: PatchGeometry) -> npt.NDArray[np.bool_]:
        """Targets that are valid, and of whose patches no more than the allowed part is invalid."""
        out = np.zeros((window.height, window.width), np.bool_)
        for i, j in np.ndindex(out.shape):
            row, col = window.row + i, window.col + j
            share = self.patch(row, col, patch)[2].mean()
            out[i, j] = share <= patch.max_invalid_share
            out[i, j] &= not self.invalid[row + self.radius, col + self.radius]
        return out


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Holes of all sizes in both, also at the border and around the corner of a patch."""
    return make_pair(
        tmp_path_factory.mktemp("scene"),
        ms_shape=SHAPE,
        nodata=0,
        ms_invalid=[
            (slice(0, 2), slice(3, 9)),
            (slice(8, 16), slice(10, 18)),
            (slice(20, 26), slice(26, 30)),
        ],
        pan_invalid=[(slice(5, 6), slice(90, 91)), (slice(60, 75), slice(0, 30))],
    )


PATCHES = {
    "even": PatchGeometry(size=6, target_index=2, max_invalid_share=0.5),
    "odd, in the middle": PatchGeometry(size=5, target_index=2, max_invalid_share=0.3),
    "target at the edge": PatchGeometry(size=4, target_index=0, max_invalid_share=0.25),
    "band mean": PatchGeometry(size=6, target_index=2, invalid_fill="band-mean"),
}
WINDOWS = (Window(0, 0, *SHAPE), Window(0, 0, 5, 7), Window(7, 8, 10, 12), Window(17, 20, 9, 10))


def check_patches(block: InputBlock, truth: Truth, patch: PatchGeometry, first: int) -> None:
    """Every usable target's patch; ``first``: row and column of the first target's patch in the block."""
    for i, j in np.argwhere(block.usable):
        ms, pan, _ = truth.patch(block.window.row + i, block.window.col + j, patch)
        r, c = first + i, first + j
        p = patch.size
        np.testing.assert_array_equal(block.ms[:, r : r + p, c : c + p], ms)
        np.testing.assert_array_equal(block.pan[:, 4 * r : 4 * (r + p), 4 * c : 4 * (c + p)], pan)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("name", PATCHES)
def test_patches_and_usable_targets(paths: tuple[Path, Path], name: str, window: Window) -> None:
    patch = PATCHES[name]
    truth = Truth.of(paths, patch)
    with open_pair(*paths) as pair:
        assert pair.strategy == "native"
        block = ModelInput(pair, STATISTICS, patch).read(window)
    assert block is not None
    assert block.window == window
    h, w, halo = window.height, window.width, patch.size - 1
    assert (block.ms.dtype, block.ms.shape) == (np.float32, (4, h + halo, w + halo))
    assert (block.pan.dtype, block.pan.shape) == (np.float32, (1, 4 * (h + halo), 4 * (w + halo)))
    expected = truth.usable(window, patch)
    np.testing.assert_array_equal(block.usable, expected)
    assert expected.any()
    assert not expected.all()
    check_patches(block, truth, patch, 0)


@pytest.mark.parametrize("name", PATCHES)
def test_the_halo_of_all_turns(paths: tuple[Path, Path], name: str) -> None:
    """As wide on all sides as the patch reaches at most; the same targets are usable."""
    patch, window = PATCHES[name], Window(7, 8, 10, 12)
    truth = Truth.of(paths, patch)
    with open_pair(*paths) as pair:
        reader = ModelInput(pair, STATISTICS, patch)
        block = reader.read(window, all_turns=True)
    radius = truth.radius
    assert reader.radius == radius
    assert block is not None
    assert block.ms.shape == (4, window.height + 2 * radius, window.width + 2 * radius)
    rows, cols = Window(window.row, window.col, *block.ms.shape[1:]).slices()
    np.testing.assert_array_equal(block.ms, truth.ms[:, rows, cols])
    rows, cols = Window(window.row, window.col, *block.ms.shape[1:]).refined(4).slices()
    np.testing.assert_array_equal(block.pan, truth.pan[:, rows, cols])
    np.testing.assert_array_equal(block.usable, truth.usable(window, patch))
    check_patches(block, truth, patch, radius - patch.target_index)


@pytest.mark.parametrize(("share", "columns"), [(0.5, 7), (0.49, 6), (0.25, 6), (0.0, 5), (1.0, 7)])
def test_just_as_many_invalid_pixels_as_allowed(tmp_path: Path, share: float, columns: int) -> None:
    """From column 7 on nothing is valid: patches of 4 about columns 4, 5, 6 have 0, 1, 2 such columns."""
    pair_of = make_pair(tmp_path, ms_shape=(8, 16), nodata=0, ms_invalid=[(slice(None), slice(7, None))])
    patch = PatchGeometry(size=4, target_index=1, max_invalid_share=share)
    with open_pair(*pair_of) as pair:
        block = ModelInput(pair, STATISTICS, patch).read(pair.grids.ms.window)
    assert block is not None
    expected = np.zeros((8, 16), bool)
    expected[:, :columns] = True
    np.testing.assert_array_equal(block.usable, expected)


def test_a_mask_excludes_targets_and_stays_in_patches(paths: tuple[Path, Path], tmp_path: Path) -> None:
    patch, window = PATCHES["even"], Window(0, 12, 10, 14)
    clouds = np.zeros((1, *SHAPE))
    clouds[0, 2:7, 15:20] = 1
    mask = write_raster(tmp_path / "clouds.tif", clouds, pair_grids(ms_shape=SHAPE)[0], dtype="uint8")
    truth = Truth.of(paths, patch)
    with open_pair(*paths, mask=MaskFile(mask)) as pair:
        block = ModelInput(pair, STATISTICS, patch).read(window)
    assert block is not None
    free = clouds[0][window.slices()] == 0
    np.testing.assert_array_equal(block.usable, truth.usable(window, patch) & free)
    check_patches(block, truth, patch, 0)


def test_wanted_targets(paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only they are usable; where none can be, no block comes, and where none is wanted nothing is read."""
    patch, window = PATCHES["even"], Window(4, 6, 14, 16)
    truth = Truth.of(paths, patch)
    wanted = np.random.default_rng(0).random((14, 16)) < 0.4
    usable = truth.usable(window, patch)
    with open_pair(*paths) as pair:
        reader = ModelInput(pair, STATISTICS, patch)
        block, whole = reader.read(window, wanted), reader.read(window)
        assert block is not None
        assert whole is not None
        np.testing.assert_array_equal(block.usable, usable & wanted)
        np.testing.assert_array_equal(block.ms, whole.ms)
        np.testing.assert_array_equal(block.pan, whole.pan)
        assert reader.read(window, ~usable) is None

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("read")

        monkeypatch.setattr(ScenePair, "read_block", refuse)
        assert reader.read(window, np.zeros((14, 16), bool)) is None
