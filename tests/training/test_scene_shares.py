"""Share of each class in the scenes: where it is sampled, and against the truth of a made-up scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scene import NAMES, Scene, make_scene
from synthetic import make_pair
from torch import Tensor, nn

from das2f_map.labels.labelled_pixels import read_labels
from das2f_map.scene.model_input import ModelInput
from das2f_map.scene.pair import open_pair
from das2f_map.scene.patch import PatchGeometry
from das2f_map.scene.radiometry import BandStatistics, Normalisation
from das2f_map.training.dataset import PatchReader
from das2f_map.training.pixels import TrainingPixels
from das2f_map.training.scene_pixels import SAMPLED, sampled_pixels
from das2f_map.training.scene_shares import SHARES_CLUSTER, mapped_shares

RAW = BandStatistics(name="raw", mean=0.0, std=1.0, p01=0.0, p99=1.0)


class TrueClass(nn.Module):
    """The made-up scene's class, from the target's red and NIR."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.order = [names.index(n) for n in NAMES]

    def forward(self, ms: Tensor, pan: Tensor) -> Tensor:
        red, nir = ms[:, 2, 7, 7], ms[:, 3, 7, 7]
        of_scene = torch.where(nir < 1000, 0, torch.where(red < 1000, 1, 2))
        return nn.functional.one_hot(torch.tensor(self.order)[of_scene], len(NAMES)).float()


@contextmanager
def opened(*scenes: Scene) -> Iterator[TrainingPixels]:
    with ExitStack() as stack:
        readers, tables = [], []
        for scene in scenes:
            pair = stack.enter_context(open_pair(scene.ms, scene.pan))
            readers.append(PatchReader(ModelInput(pair, Normalisation((RAW,) * 4, RAW), PatchGeometry())))
            stack.enter_context(readers[-1])
            tables.append(read_labels(scene.labels, pair.grids.ms))
        yield TrainingPixels.of(readers, tables)


def truth_shares(*scenes: Scene) -> dict[str, float]:
    counts = sum(np.bincount(s.truth.ravel(), minlength=4)[1:] for s in scenes)
    return dict(zip(NAMES, counts / counts.sum(), strict=True))


def test_shares_are_near_the_truth(small_scene: Scene) -> None:
    with opened(small_scene) as pixels:
        found = mapped_shares(TrueClass(pixels.legend.names), pixels, torch.device("cpu"), seed=0)
        rows, cols = sampled_pixels(pixels.readers[0], SAMPLED, 0, cluster=SHARES_CLUSTER)
    assert found.keys() == set(NAMES)
    assert sum(found.values()) == pytest.approx(1, abs=2e-4)
    assert found == pytest.approx(truth_shares(small_scene), abs=0.06)
    # They are exactly those of the sampled pixels.
    sample = np.bincount(small_scene.truth[rows, cols], minlength=4)[1:] / rows.size
    assert found == pytest.approx(dict(zip(NAMES, sample, strict=True)), abs=1e-4)


def test_all_scenes_count(small_scene: Scene, tmp_path: Path) -> None:
    scenes = small_scene, make_scene(tmp_path, seed=4)
    counts = []
    with opened(*scenes) as pixels:
        found = mapped_shares(TrueClass(pixels.legend.names), pixels, torch.device("cpu"), seed=0)
        for scene, reader in zip(scenes, pixels.readers, strict=True):
            rows, cols = sampled_pixels(reader, SAMPLED // 2, 0, cluster=SHARES_CLUSTER)
            counts.append(np.bincount(scene.truth[rows, cols], minlength=4)[1:])
    # Each scene alone would give other shares.
    assert np.abs(counts[0] / counts[0].sum() - counts[1] / counts[1].sum()).max() > 0.05
    together = sum(counts) / np.sum(counts)
    assert found == pytest.approx(dict(zip(NAMES, together, strict=True)), abs=1e-4)


def test_sample_covers_the_scene_and_repeats_with_its_seed(small_scene: Scene) -> None:
    with opened(small_scene) as pixels:
        (reader,) = pixels.readers
        rows, cols = sampled_pixels(reader, 1000, 0)
        again, other = sampled_pixels(reader, 1000, 0), sampled_pixels(reader, 1000, 1)
    assert 900 <= rows.size <= 1000
    assert np.unique(96 * rows.astype(int) + cols).size == rows.size
    assert min(rows.min(), cols.min()) >= 0
    assert max(rows.max(), cols.max()) < 96
    by_quarter = np.bincount(2 * (rows // 48) + cols // 48, minlength=4)
    assert by_quarter.min() > 100
    assert np.array_equal(rows, again[0])
    assert np.array_equal(cols, again[1])
    assert not np.array_equal(rows, other[0])


@pytest.mark.parametrize(
    ("cluster", "most", "narrow"),
    [(3, 81, 2), (1, 100, 4)],  # blocks of 34 and of 10 pixels
)
def test_edges_count_for_their_area_only(tmp_path: Path, cluster: int, most: int, narrow: int) -> None:
    """The last blocks of a scene are narrow where its size is no multiple of theirs."""
    side = 104
    paths = make_pair(tmp_path, ms_shape=(side, side))
    found = []
    with open_pair(*paths) as pair:
        source = ModelInput(pair, Normalisation((RAW,) * 4, RAW), PatchGeometry())
        with PatchReader(source) as reader:
            for seed in range(30):
                rows, _ = sampled_pixels(reader, most, seed, cluster=cluster)
                found.append((rows >= side - narrow).mean())
    assert np.mean(found) == pytest.approx(narrow / side, abs=0.02)


def test_pixels_without_data_are_not_sampled(tmp_path: Path) -> None:
    paths = make_pair(tmp_path, ms_shape=(96, 96), nodata=0, ms_invalid=[(slice(None), slice(0, 60))])
    with open_pair(*paths) as pair:
        source = ModelInput(pair, Normalisation((RAW,) * 4, RAW), PatchGeometry())
        with PatchReader(source) as reader:
            rows, cols = sampled_pixels(reader, 500, 0)
    assert rows.size > 100
    assert cols.min() >= 60
