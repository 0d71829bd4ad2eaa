"""The default number of patches of a class in an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from das2f_map.labels.labelled_pixels import LabelTable
from das2f_map.legend import Legend
from das2f_map.settings import settings_of
from das2f_map.training.samples import Samples
from das2f_map.training.settings import TrainingSettings
from das2f_map.training.split import Split


def samples(counts: list[int]) -> Samples:
    """Training pixels of as many classes as there are counts; nothing held out."""
    classes = np.repeat(np.arange(1, len(counts) + 1), counts).astype(np.uint8)
    at = np.arange(classes.size, dtype=np.int32)
    legend = Legend.from_names([f"c{k}" for k in range(len(counts))])
    train, none = (LabelTable(a, a, c, legend) for a, c in ((at, classes), (at[:0], classes[:0])))
    return Samples(Split(train, none, none, block_size=64, gap=17, seed=0, dropped=0), none, none)


@pytest.mark.parametrize(
    ("counts", "on_cpu", "on_gpu"),
    [
        ([10, 20, 3000], 50, 50),
        ([10, 120, 130], 120, 120),
        ([10, 700, 9000], 200, 700),
        ([5000] * 3, 200, 1000),
    ],
)
def test_median_class_within_limits(counts: list[int], on_cpu: int, on_gpu: int) -> None:
    found = samples(counts)
    assert found.default_per_class(on_cpu=True) == on_cpu
    assert found.default_per_class(on_cpu=False) == on_gpu
    help = settings_of(TrainingSettings)["samples_per_class"].help
    assert "at least 50, at most 1000 on a GPU and 200 on the CPU" in help
