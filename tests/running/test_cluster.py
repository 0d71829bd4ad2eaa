"""Workers compute the map that one process computes, whatever becomes of them."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from block_runs import after, at
from dask_processes import dask_processes
from synthetic import make_pair
from tiny import tiny_bundle

import das2f_map.mapping.planned as planned_module
import das2f_map.running.cluster as cluster_module
from das2f_map.engines.per_patch import PerPatchEngine
from das2f_map.errors import ClusterError, InputError, MissingDependencyError
from das2f_map.running.cluster import Patience
from das2f_map.workflows.classify import classify

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gulf"
TIME = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a map by name, but for the report, which has times, and the GeoPackage's times of change."""
    return {p.name: TIME.sub(b"", p.read_bytes()) for p in folder.iterdir() if p.suffix != ".json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder, patch=8)
    return folder / "tiny"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_module, "BLOCK_SIZE", 16)
    monkeypatch.setattr(PerPatchEngine, "block_size", 16)


def run(scene: tuple[Path, Path], model: Path, folder: Path, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"coregistration": "off", "engine": "patch", "device": "cpu"}
    classify(
        *scene,
        folder / "m.tif",
        model=model,
        confidence=folder / "confidence.tif",
        **(settings | options),
    )
    return folder


@pytest.mark.slow
@pytest.mark.whole
def test_a_killed_worker_costs_its_blocks_only(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    scene = EXAMPLE / "ms.tif", EXAMPLE / "pan.tif"
    area = EXAMPLE / "window.geojson"
    whole = run(scene, model, tmp_path / "whole", aoi=area)
    with dask_processes(tmp_path, 2) as dask:

        def kill() -> None:
            dask.workers[0].send_signal(signal.SIGKILL)
            dask.add_worker()

        spread = run(
            scene, model, tmp_path / "spread", aoi=area, cluster=dask.address, progress=after(5, kill)
        )
        assert dask.workers[0].wait(60) == -signal.SIGKILL
    assert contents(spread) == contents(whole)


@pytest.mark.slow
@pytest.mark.whole
def test_a_cluster_that_shrinks_to_nothing_and_grows_again(model: Path, tmp_path: Path) -> None:
    """Workers come and are retired in the middle, as adaptive clusters and batch systems do it."""
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    scene = make_pair(tmp_path, ms_shape=(64, 80))
    whole = run(scene, model, tmp_path / "whole")
    with dask_processes(tmp_path, 1) as dask, distributed.Client(dask.address, set_as_default=False) as boss:
        present: list[int] = []

        def retire(count: int) -> None:
            boss.retire_workers([*boss.scheduler_info(n_workers=-1)["workers"]][:count], close_workers=True)

        def grow() -> None:
            for _ in range(2):
                dask.add_worker()
            boss.wait_for_workers(3, timeout=300)

        def note(act: Callable[[], None]) -> Callable[[], None]:
            def noted() -> None:
                act()
                present.append(len(boss.nthreads()))

            return noted

        def begin_anew() -> None:
            retire(3)
            # A scheduler keeps a worker whose results nobody else can take; a batch system ends it.
            for worker in dask.workers:
                worker.terminate()
            until = time.monotonic() + 120
            while boss.nthreads():
                assert time.monotonic() < until, "the last worker goes"
                time.sleep(0.1)
            dask.add_worker()

        spread = run(
            scene,
            model,
            tmp_path / "spread",
            cluster=dask.address,
            progress=at({2: note(grow), 6: note(lambda: retire(2)), 9: note(begin_anew), 13: note(grow)}),
        )
        assert present[0] == 3
        assert present[1] == 1
        assert present[2] <= 1
        assert present[3] == 3
        until = time.monotonic() + 120
        while any(worker.poll() is None for worker in dask.workers[:3]):
            assert time.monotonic() < until, "the first three end by themselves"
            time.sleep(0.2)
    assert contents(spread) == contents(whole)


@pytest.mark.slow
@pytest.mark.whole
def test_an_adaptive_cluster_makes_the_same_map(model: Path, tmp_path: Path) -> None:
    """Dask itself decides when workers begin and end; there is none at first."""
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    scene = make_pair(tmp_path, ms_shape=(40, 60))
    whole = run(scene, model, tmp_path / "whole")
    seen: set[int] = set()
    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="500ms")
        spread = run(
            scene,
            model,
            tmp_path / "spread",
            cluster=cluster.scheduler_address,
            progress=at(dict.fromkeys(range(1, 13), lambda: seen.add(len(cluster.workers)))),
        )
    assert max(seen) > 0
    assert contents(spread) == contents(whole)


@pytest.mark.slow
@pytest.mark.whole
def test_a_worker_that_hangs_loses_its_blocks_to_others(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    scene = make_pair(tmp_path, ms_shape=(40, 60))
    whole = run(scene, model, tmp_path / "whole")
    monkeypatch.setattr(cluster_module, "Patience", lambda: Patience(least_s=3.0, factor=0.0))
    with dask_processes(tmp_path, 2) as dask:

        def stop() -> None:
            dask.workers[0].send_signal(signal.SIGSTOP)

        with caplog.at_level("WARNING"):
            spread = run(scene, model, tmp_path / "spread", cluster=dask.address, progress=after(2, stop))
        dask.workers[0].send_signal(signal.SIGCONT)
    assert contents(spread) == contents(whole)
    assert "another worker gets it too" in caplog.text


@pytest.mark.slow
@pytest.mark.whole
def test_a_scheduler_that_is_gone_leaves_the_finished_blocks(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    scene = make_pair(tmp_path, ms_shape=(40, 60))
    whole = run(scene, model, tmp_path / "whole")
    with dask_processes(tmp_path, 1) as dask, pytest.raises(ClusterError, match="scheduler is gone"):
        run(scene, model, tmp_path / "spread", cluster=dask.address, progress=after(3, dask.scheduler.kill))
    resumed = run(scene, model, tmp_path / "spread", resume=True)
    assert contents(resumed) == contents(whole)


@pytest.mark.slow
@pytest.mark.whole
def test_processes_of_this_machine_make_the_same_map(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    scene = make_pair(tmp_path, ms_shape=(40, 60))
    whole = run(scene, model, tmp_path / "whole")
    assert contents(run(scene, model, tmp_path / "spread", workers=2)) == contents(whole)


def test_without_dask_the_error_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    scene = make_pair(tmp_path, ms_shape=(10, 12))
    with pytest.raises(MissingDependencyError, match="need dask and distributed") as caught:
        run(scene, model, tmp_path / "out", workers=2)
    assert "pip install dask distributed" in str(caught.value.hint)
    assert not any((tmp_path / "out").iterdir())


def test_workers_and_a_cluster_contradict_each_other(model: Path, tmp_path: Path) -> None:
    scene = make_pair(tmp_path, ms_shape=(10, 12))
    with pytest.raises(InputError, match="contradict each other"):
        run(scene, model, tmp_path / "out", workers=2, cluster="tcp://127.0.0.1:1")


def test_an_address_without_a_scheduler_is_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    monkeypatch.setattr(cluster_module, "CONNECT_S", 0.5)
    scene = make_pair(tmp_path, ms_shape=(10, 12))
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:1 cannot be reached"):
        run(scene, model, tmp_path / "out", cluster="tcp://127.0.0.1:1")
    assert not any((tmp_path / "out").iterdir())
