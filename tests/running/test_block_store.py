"""Finished blocks come back as they were, and nothing else does."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from synthetic import make_pair
from tiny import tiny_bundle

from das2f_map.bundle.model import ModelBundle
from das2f_map.engines.choose import EngineChoice
from das2f_map.errors import InputError
from das2f_map.products.map_files import MapPaths
from das2f_map.running.block_journal import (
    JOURNAL_NAME,
    NOTHING_DONE,
    VALUES_NAME,
    DoneBefore,
    block_size_of,
    finished_blocks,
)
from das2f_map.running.block_store import BlockStore, stored_or_computed
from das2f_map.running.blocks import BlockClassifier, ClassifiedBlock, computed_here
from das2f_map.running.map_options import MapOptions
from das2f_map.running.plan import ClassifyPlan, FileIdentity
from das2f_map.scene.grid import Window
from das2f_map.scene.request import PairRequest, PairView

PATIENCE = 60.0
"""Seconds to wait for another thread on a busy machine."""

FIELDS = ("classes", "confidence", "probabilities", "entropy")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(tmp_path_factory.mktemp("model"), patch=8)


@pytest.fixture(scope="module")
def plan(bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> ClassifyPlan:
    files = make_pair(
        tmp_path_factory.mktemp("scene"),
        ms_shape=(20, 26),
        nodata=0,
        ms_invalid=[(slice(0, 10), slice(0, 10))],
    )
    request = PairRequest.of(*files, coregistration="off")
    with request.open() as pair:
        return ClassifyPlan(
            view=PairView.of(request, pair),
            bundle=bundle,
            normalisation=bundle.card.normalisation,
            engine=EngineChoice("patch", "cpu", "fp32"),
            files=tuple(FileIdentity.of(p) for p in request.files),
            aoi=None,
            grid=pair.grids.ms,
            window=pair.grids.ms.window,
            block_size=10,
            memory_bytes=0,
            outputs=MapPaths(
                Path("m.tif"), Path("m.json"), probabilities=Path("p.tif"), entropy=Path("e.tif")
            ),
        )


@pytest.fixture(scope="module")
def blocks(plan: ClassifyPlan) -> list[ClassifiedBlock]:
    """The plan's blocks, computed without a store."""
    with plan.open() as classifier:
        return [classifier.classify(window) for window in plan.blocks()]


def same(one: ClassifiedBlock | None, other: ClassifiedBlock) -> None:
    assert one is not None
    assert one.window == other.window
    for field in FIELDS:
        left, right = getattr(one, field), getattr(other, field)
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def filled(folder: Path, plan: ClassifyPlan, blocks: list[ClassifiedBlock], wanted: list[int]) -> None:
    with BlockStore(folder, plan) as store:
        for k in wanted:
            store.add(k, blocks[k])


def test_blocks_come_back_as_they_were(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path
) -> None:
    assert not (blocks[0].classes > 0).any(), "a block without any class"
    assert finished_blocks(tmp_path) == 0
    filled(tmp_path, plan, blocks, [2, 0, 5])
    assert finished_blocks(tmp_path) == 3
    with BlockStore(tmp_path, plan, resume=True) as store:
        assert store.finished == {0, 2, 5}
        for k in store.finished:
            same(store.read(k, blocks[k].window), blocks[k])
        store.add(1, blocks[1])
    with BlockStore(tmp_path, plan, resume=True) as store:
        assert store.finished == {0, 1, 2, 5}
        same(store.read(1, blocks[1].window), blocks[1])
        same(store.read(5, blocks[5].window), blocks[5])
    with BlockStore(tmp_path, plan) as store:
        assert len(store) == 0
    assert finished_blocks(tmp_path) == 0


def test_a_block_is_safe_after_a_second_without_another_one(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread brings it to the disk; the caller waits for the disk neither then nor before."""
    here, synced, real = threading.get_ident(), threading.Semaphore(0), os.fsync
    failing = False

    def fsync(file: int) -> None:
        if threading.get_ident() != here:
            if failing:
                synced.release()
                raise OSError(errno.EIO, "made up")
            real(file)
            synced.release()

    with BlockStore(tmp_path, plan) as store:
        monkeypatch.setattr("os.fsync", fsync)
        for k in (1, 2):
            store.add(k, blocks[k])
            # The values, then the journal.
            assert synced.acquire(timeout=PATIENCE)
            assert synced.acquire(timeout=PATIENCE)
        failing = True
        store.add(3, blocks[3])
        assert synced.acquire(timeout=PATIENCE)

        def add_until_it_fails() -> None:
            for _ in range(1000):  # the thread notes its failure soon
                store.add(4, blocks[4])
                time.sleep(0.01)

        with pytest.raises(OSError, match="made up"):
            add_until_it_fails()


def test_a_journal_cut_anywhere_names_whole_blocks(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path
) -> None:
    """Cut after any byte, as a power cut does, and with rubbish after it, as some file systems leave."""
    filled(tmp_path, plan, blocks, [1, 2, 3])
    journal = tmp_path / JOURNAL_NAME
    whole, values = journal.read_bytes(), (tmp_path / VALUES_NAME).read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    seen = set()
    for cut in [*range(0, len(whole), 37), *ends]:
        for rubbish in (b"", b"\0" * 50):
            journal.write_bytes(whole[:cut] + rubbish)
            (tmp_path / VALUES_NAME).write_bytes(values)
            complete = max(0, sum(end <= cut for end in ends) - 1)
            with BlockStore(tmp_path, plan, resume=True) as store:
                assert len(store) == complete
                seen.add(complete)
                for k in store.finished:
                    same(store.read(k, blocks[k].window), blocks[k])
                store.add(4, blocks[4])
            with BlockStore(tmp_path, plan, resume=True) as store:
                same(store.read(4, blocks[4].window), blocks[4])
                assert len(store) == complete + 1
    assert seen == {0, 1, 2, 3}


class Counting:
    """A classifier that counts the windows it computes."""

    def __init__(self, classifier: BlockClassifier) -> None:
        self._classifier = classifier
        self.computed: list[Window] = []

    def classify(self, window: Window) -> ClassifiedBlock:
        self.computed.append(window)
        return self._classifier.classify(window)

    def classify_all(self, windows: Iterator[Window], read_ahead: bool) -> Iterator[ClassifiedBlock]:
        # The windows are asked for one ahead, as the real one does.
        ahead = list(windows)
        yield from (self.classify(window) for window in ahead)


def every(counting: Counting, plan: ClassifyPlan, store: BlockStore) -> Iterator[ClassifiedBlock]:
    compute = computed_here(cast(BlockClassifier, counting))
    yield from stored_or_computed(plan, store, compute, counting.classify)


def test_damaged_values_are_computed_again(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path
) -> None:
    filled(tmp_path, plan, blocks, [1, 2, 4])
    values = bytearray((tmp_path / VALUES_NAME).read_bytes())
    values[len(values) // 2] ^= 1  # in block 2
    (tmp_path / VALUES_NAME).write_bytes(values[:-1])  # and block 4 lacks its last byte
    with plan.open() as classifier, BlockStore(tmp_path, plan, resume=True) as store:
        counting = Counting(classifier)
        found = list(every(counting, plan, store))
        for one, other in zip(found, blocks, strict=True):
            same(one, other)
        assert {(w.row, w.col) for w in counting.computed} == {
            (b.window.row, b.window.col) for k, b in enumerate(blocks) if k != 1
        }
        assert len(counting.computed) == len(blocks) - 1
    with plan.open() as classifier, BlockStore(tmp_path, plan, resume=True) as store:
        counting = Counting(classifier)
        for one, other in zip(every(counting, plan, store), blocks, strict=True):
            same(one, other)
        assert counting.computed == []


def test_blocks_of_another_plan_are_refused(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path
) -> None:
    filled(tmp_path, plan, blocks, [0, 1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = dataclasses.replace(plan, block_size=9, options=MapOptions(reject=0.5))
    with pytest.raises(InputError) as caught:
        BlockStore(tmp_path, other, resume=True)
    assert caught.value.message.endswith(
        "differs in --reject, --smooth, --probabilities or --entropy; the block size"
    )
    assert "--overwrite" in str(caught.value.hint)
    journal = tmp_path / JOURNAL_NAME
    header, *lines = journal.read_bytes().splitlines(keepends=True)
    newer = json.loads(header) | {"das2f-map": 99}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    journal.write_bytes(json.dumps(newer).encode() + b"\n" + b"".join(lines))
    with pytest.raises(InputError, match="another version of das2f-map"):
        BlockStore(tmp_path, plan, resume=True)


def test_another_draft_is_named_by_its_option(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path
) -> None:
    """Its blocks, its window and its engine differ as well, and no user has asked for that."""
    filled(tmp_path, plan, blocks, [0, 1])
    draft = dataclasses.replace(
        plan,
        options=MapOptions(every=2),
        block_size=5,
        window=Window(0, 0, 10, 13),
        engine=EngineChoice("shared", "cpu", "fp32"),
    )
    with pytest.raises(InputError) as caught:
        BlockStore(tmp_path, draft, resume=True)
    assert caught.value.message == "the unfinished run cannot go on, it differs in --every"
    assert (block_size_of(tmp_path), block_size_of(tmp_path, 2)) == (10, None)


def test_the_blocks_of_an_ended_run_are_looked_at(
    plan: ClassifyPlan, blocks: list[ClassifiedBlock], tmp_path: Path
) -> None:
    assert DoneBefore.left_in(tmp_path, plan) == NOTHING_DONE
    filled(tmp_path, plan, blocks, [0, 1, 4])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = DoneBefore.left_in(tmp_path, plan)
    assert found == DoneBefore(frozenset({0, 1, 4}), len(before[VALUES_NAME]))
    other = dataclasses.replace(plan, options=MapOptions(reject=0.5))
    with pytest.raises(InputError, match="differs in --reject"):
        DoneBefore.left_in(tmp_path, other)
    assert DoneBefore.left_in(tmp_path, other, or_none=True) == NOTHING_DONE
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
