"""The working folder of a training: records of complete parts, and what is removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from das2f_map.errors import OutputError
from das2f_map.settings import settings_of
from das2f_map.training.run_files import (
    PartRecord,
    begin,
    discard,
    discard_empty,
    keep_record,
    read_record,
    state_path,
    working_path,
)
from das2f_map.training.settings import TrainingSettings

NOTE: dict[str, Any] = {
    "network": {"width": 16},
    "settings": {"seed": 1},
    "contents": {"the images": "0f"},
    "labels": {},
    "legend": {},
}
HISTORY = [{"steps": 4, "loss": 1.0, "held_out_kappa": None}, {"steps": 8, "loss": 0.5}]
WEIGHTS = [{"a.b": torch.tensor([x, 1.0]), "n": torch.tensor(n)} for x, n in ((0.0, 3), (4.0, 5))]
LOGITS = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
RECORD = PartRecord(HISTORY, LOGITS, WEIGHTS)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = working_path(tmp_path / "model")
    assert path == tmp_path / "model.training"
    begin(path, NOTE, resume=False)
    return path


def test_record_of_a_complete_part_replaces_its_state(work: Path) -> None:
    state_path(work, "fold-1").write_bytes(b"x")
    assert read_record(work, "fold-1") is None
    keep_record(work, "fold-1", RECORD)
    record = read_record(work, "fold-1")
    assert record is not None
    assert record.history == HISTORY
    assert record.logits.dtype == np.float32
    assert np.array_equal(record.logits, LOGITS)
    assert [{k: v.tolist() for k, v in each.items()} for each in record.weights] == [
        {"a.b": [0.0, 1.0], "n": 3},
        {"a.b": [4.0, 1.0], "n": 5},
    ]
    assert not state_path(work, "fold-1").exists()
    assert read_record(work, "fold-2") is None


@pytest.mark.parametrize("suffix", ["json", "npy", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_records_are_named(suffix: str, content: bytes, work: Path) -> None:
    keep_record(work, "fold-1", RECORD)
    (work / f"fold-1.{suffix}").write_bytes(content)
    with pytest.raises(OutputError, match=r"model\.training cannot be resumed") as caught:
        read_record(work, "fold-1")
    assert "\n" not in str(caught.value)


def test_all_parts_are_removed_and_nothing_else(work: Path) -> None:
    most = settings_of(TrainingSettings)["folds"].le
    assert most is not None
    for part in ("holdout", "fold-1", f"fold-{most:.0f}"):
        keep_record(work, part, RECORD)
    state_path(work, "final").write_bytes(b"x")
    (work / "notes.txt").write_text("mine")
    discard(work)
    assert [p.name for p in work.iterdir()] == ["notes.txt"]
    (work / "notes.txt").unlink()
    discard(work)
    assert not work.exists()


def test_a_training_without_a_complete_check_leaves_nothing(work: Path) -> None:
    discard_empty(work)
    assert not work.exists()


@pytest.mark.parametrize("part", ["fold-2", "final", "holdout"])
def test_a_training_with_a_complete_check_is_kept(part: str, work: Path) -> None:
    state_path(work, part).write_bytes(b"x")
    discard_empty(work)
    assert state_path(work, part).exists()
    state_path(work, part).unlink()
    keep_record(work, part, RECORD)
    discard_empty(work)
    assert read_record(work, part) is not None


def test_a_resumed_training_is_the_same_one(work: Path) -> None:
    begin(work, NOTE, resume=True)
    with pytest.raises(OutputError, match=r"other settings: seed \(1 before, 2 now\)") as caught:
        begin(work, NOTE | {"settings": {"seed": 2}}, resume=True)
    assert "--overwrite" in str(caught.value)
    with pytest.raises(OutputError) as caught:
        begin(work, NOTE | {"legend": {"classes": []}}, resume=True)
    assert caught.value.message.endswith("other settings: the classes")
    (work / "run.json").write_text("{}")
    with pytest.raises(OutputError, match=r"run\.json is missing or damaged"):
        begin(work, NOTE, resume=True)
