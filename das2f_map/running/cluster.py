"""Blocks computed by other processes: Dask workers on this machine or on many.

Every worker gets the plan once, opens the pair and loads the model, and computes whole blocks with
:func:`das2f_map.running.plan.classify_block`. A few blocks for each worker are under way at a time; the
caller alone writes. A worker that dies, hangs or is slow costs its blocks only: they go to another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from das2f_map._version import __version__
from das2f_map.errors import ClusterError, Das2fMapError, MissingDependencyError
from das2f_map.running.blocks import ClassifiedBlock
from das2f_map.running.plan import ClassifyPlan
from das2f_map.running.worker import block_here
from das2f_map.scene.grid import Window

log = logging.getLogger(__name__)

_EACH: Final = 2
"""Blocks under way for each thread of the workers: one that is computed and one that waits."""

_TRIES: Final = 3
"""Times that a block may fail."""

CONNECT_S = 20.0
"""Seconds in which the scheduler has to answer."""

_POLL_S: Final = 0.5
_GOODBYE_S: Final = 5.0

_Lost = (Exception, asyncio.CancelledError)
"""Errors of a future; one that was lost counts as cancelled, which is no ``Exception``."""


@dataclass(frozen=True)
class Patience:
    """How long a block may take before another worker gets it too.

    Attributes
    ----------
    least_s:
        Seconds that every block has.
    factor:
        A block may take this many times as long as the slowest one so far.
    """

    least_s: float = 120.0
    factor: float = 10.0


def require_dask() -> None:
    """Raise :class:`MissingDependencyError` where Dask is not installed."""
    try:
        import distributed  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingDependencyError(
            "--workers and --cluster need dask and distributed",
            "pip install '.[cluster]' in the checkout, or pip install dask distributed",
        ) from error


@contextmanager
def dask_client(plan: ClassifyPlan) -> Iterator[Any]:
    """A Dask client of the workers that a plan asks for; workers on this machine end with the block.

    Raises
    ------
    MissingDependencyError
        Dask is not installed.
    ClusterError
        The scheduler cannot be reached, or no worker can be started.
    """
    require_dask()
    import dask
    import distributed

    # Dask's own messages are about its inner life; the errors that matter are raised here.
    quiet = {"distributed.logging.distributed": "critical", "distributed.admin.tick.limit": "1h"}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(quiet))
        for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            if plan.resources.cluster is not None:
                address: Any = plan.resources.cluster
                what = f"the Dask scheduler {address}"
            else:
                address = stack.enter_context(_local_cluster(plan))
                what = "the workers"
            client = stack.enter_context(distributed.Client(address, timeout=CONNECT_S, set_as_default=False))
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise ClusterError(f"{what} cannot be reached: {error}", "is its address right?") from error
        yield client


def _local_cluster(plan: ClassifyPlan) -> Any:
    """Workers on this machine, with the cores or the GPUs shared out among them."""
    import distributed
    import torch

    workers = plan.resources.workers or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cuda = torch.cuda.device_count() if str(plan.engine.device).startswith("cuda") else 0
    threads = max(1, cores // workers)
    options = []
    for k in range(workers):
        # Workers inherit no number of threads: Dask's own default is one for each library.
        env = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        if cuda > 1:
            env["CUDA_VISIBLE_DEVICES"] = _visible(k % cuda)
        # On a GPU one thread reads while the other one's block is computed.
        options.append(
            {
                "nthreads": 2 if cuda else 1,
                "memory_limit": 0,
                "env": env,
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
            }
        )
    return distributed.SpecCluster(
        workers={k: {"cls": distributed.Nanny, "options": one} for k, one in enumerate(options)},
        scheduler={
            "cls": distributed.Scheduler,
            "options": {"dashboard": False, "host": "127.0.0.1", "port": 0},
        },
        silence_logs=logging.CRITICAL,
    )


def _visible(index: int) -> str:
    """Name of a GPU for ``CUDA_VISIBLE_DEVICES``, also where the variable is set already."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[index] if index < len(named) else str(index)


def computed_by(
    client: Any, plan: ClassifyPlan, patience: Patience | None = None
) -> Callable[[Iterator[tuple[int, Window]]], Generator[tuple[int, ClassifiedBlock], None, None]]:
    """A function that has blocks with some numbers and windows computed by a client's workers, in any order.

    Raises
    ------
    ClusterError
        The scheduler is gone, or a block has failed on several workers.
    Das2fMapError
        A block fails as it would in this process.
    """
    sent = plan.elsewhere()

    def compute(
        items: Iterator[tuple[int, Window]],
    ) -> Generator[tuple[int, ClassifiedBlock], None, None]:
        work = _Work(client, sent, patience or Patience())
        with _plan_on_workers(client, sent):
            try:
                yield from work.results(items)
            finally:
                work.cancel()

    return compute


@dataclass
class _Block:
    """A block under way: the futures that compute it, and when the last one was sent."""

    number: int
    window: Window
    futures: list[Any]
    sent_at: float
    failures: int = 0


class _Work:
    """The blocks that workers have at the moment."""

    def __init__(self, client: Any, plan: ClassifyPlan, patience: Patience) -> None:
        self._client, self._plan, self._patience = client, plan, patience
        self._blocks: dict[int, _Block] = {}
        self._slowest = 0.0
        self._told_at = time.monotonic()
        self._threads, self._counted_at = 0, -1.0

    def results(
        self, items: Iterator[tuple[int, Window]]
    ) -> Generator[tuple[int, ClassifiedBlock], None, None]:
        """Each block with its number, as soon as a worker has it."""
        exhausted = False
        while True:
            room = self._room() - len(self._blocks)
            while room > 0 and not exhausted:
                item = next(items, None)
                if item is None:
                    exhausted = True
                    break
                number, window = item
                self._blocks[number] = _Block(number, window, [self._submit(window)], time.monotonic())
                room -= 1
            if exhausted and not self._blocks:
                return
            for number in self._settled():
                block = self._blocks[number]
                result = self._result(block)
                if result is not None:
                    self._slowest = max(self._slowest, time.monotonic() - block.sent_at)
                    self._drop(block)
                    yield number, result
            self._send_late_ones_again()

    def cancel(self) -> None:
        """Let go of everything that is under way."""
        for block in list(self._blocks.values()):
            self._drop(block)

    def _room(self) -> int:
        """Blocks that may be under way; workers may come and go."""
        now = time.monotonic()
        if now - self._counted_at > _POLL_S:
            try:
                self._threads = sum(self._client.nthreads().values())
            except Exception as error:  # of many kinds, by the way in which the scheduler was lost
                raise _gone(error) from error
            self._counted_at = now
        if not self._threads and now - self._told_at > 30:
            log.warning("The cluster has no workers; waiting for some")
            self._told_at = now
        return max(1, _EACH * self._threads)

    def _submit(self, window: Window, avoid: set[str] | None = None) -> Any:
        # A worker that had the block and hangs is left out, unless it is the only one.
        others = None
        if avoid:
            others = [w for w in self._client.nthreads() if w not in avoid] or None
        try:
            return self._client.submit(
                block_here, self._plan.key, window, pure=False, workers=others, retries=0
            )
        except Exception as error:  # as above: the scheduler is gone
            raise _gone(error) from error

    def _settled(self) -> list[int]:
        """Numbers of blocks of which a future has ended; waits a little for one."""
        until = time.monotonic() + _POLL_S
        while True:
            if self._client.status != "running":
                raise _gone(None)
            found = [n for n, b in self._blocks.items() if any(f.status != "pending" for f in b.futures)]
            if found or time.monotonic() > until:
                return found
            time.sleep(0.005)

    def _result(self, block: _Block) -> ClassifiedBlock | None:
        """A block's values, if a future has them; failures are counted and sent again."""
        for future in list(block.futures):
            if future.status == "pending":
                continue
            try:
                found = future.result(timeout=60)
            except _Lost as error:
                block.futures.remove(future)
                self._failed(block, error)
                continue
            assert isinstance(found, ClassifiedBlock)
            return found
        return None

    def _failed(self, block: _Block, error: BaseException) -> None:
        """Send a block again, or raise its error if it has failed too often."""
        if self._client.status != "running":
            raise _gone(error) from error
        block.failures += 1
        place = f"row {block.window.row}, column {block.window.col}"
        if block.failures >= _TRIES:
            if isinstance(error, Das2fMapError):
                raise error
            raise ClusterError(
                f"the block at {place} failed {_TRIES} times, the last time with {_in_words(error)}",
                "the finished blocks are kept",
            ) from error
        log.warning("The block at %s failed (%s); it is computed again", place, _in_words(error))
        time.sleep(0.2 * 4 ** (block.failures - 1))
        block.futures.append(self._submit(block.window))
        block.sent_at = time.monotonic()

    def _send_late_ones_again(self) -> None:
        """Give blocks that take too long to another worker as well; the first result counts."""
        allowed = max(self._patience.least_s, self._patience.factor * self._slowest)
        now = time.monotonic()
        late = [b for b in self._blocks.values() if now - b.sent_at > allowed and len(b.futures) < _TRIES]
        if not late:
            return
        try:
            busy = self._client.processing()
        except Exception as error:  # as above: the scheduler is gone
            raise _gone(error) from error
        for block in late:
            keys = {str(f.key) for f in block.futures}
            holders = {worker for worker, had in busy.items() if keys & {str(k) for k in had}}
            if not holders:
                continue  # no worker has it: there is none
            log.warning(
                "The block at row %d, column %d takes over %.0f s on %s; another worker gets it too",
                block.window.row,
                block.window.col,
                allowed,
                ", ".join(sorted(holders)),
            )
            block.futures.append(self._submit(block.window, avoid=holders))
            block.sent_at = now

    def _drop(self, block: _Block) -> None:
        del self._blocks[block.number]
        with suppress(Exception):  # a scheduler that is gone has nothing to cancel
            self._client.cancel([f for f in block.futures if f.status == "pending"])
        for future in block.futures:
            with suppress(Exception):
                future.release()


def _gone(error: BaseException | None) -> ClusterError:
    why = "" if error is None else f": {_in_words(error)}"
    return ClusterError(f"the Dask scheduler is gone{why}", "the finished blocks are kept for --resume")


def _in_words(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _plan_on_workers(client: Any, plan: ClassifyPlan) -> Iterator[None]:
    """Inside the ``with`` block every worker has the plan, those that come later too."""
    from das2f_map.running.worker_plugin import PlanPlugin

    name = f"das2f-map-{plan.key}"
    try:
        client.register_plugin(PlanPlugin(plan.key, __version__, pickle.dumps(plan)), name=name)
    except Exception as error:  # of any kind: it was raised on a worker
        raise ClusterError(
            f"the workers cannot take the plan: {_in_words(error)}",
            f"they need das2f-map {__version__}, as this machine has",
        ) from error
    try:
        yield
    finally:
        # In a thread: a worker that hangs would keep this process waiting.
        end = threading.Thread(target=_unregister, args=(client, name), daemon=True)
        end.start()
        end.join(_GOODBYE_S)


def _unregister(client: Any, name: str) -> None:
    with suppress(Exception, asyncio.CancelledError):
        client.unregister_worker_plugin(name)
