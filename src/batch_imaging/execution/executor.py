"""Run a function on units of work: here, one after the other, or on Dask workers.

Pipelines are written against the Executor protocol and never see Dask. A unit is a small value that
says what to do; the function reads what it needs from disk and returns something small, so any
worker can do any unit, and a unit whose worker died is simply done again.
"""

import os
import resource
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from batch_imaging.errors import ResourceError, WorkerLost
from batch_imaging.kernels.gridding import set_native_threads

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """Which process did a unit and the most memory it has held so far, bytes."""

    pid: int
    peak_rss_bytes: int


class Executor(Protocol):
    """Runs units of work.

    Attributes
    ----------
    n_workers: units that run at the same time.
    native_threads: threads a unit may use in ducc0 and radler.
    peak_rss_bytes: highest memory of every process that did a unit, by process id.
    """

    n_workers: int
    native_threads: int
    peak_rss_bytes: dict[int, int]

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        """Yield ``function(unit, *shared)`` for every unit, in their order.

        Only a bounded number of results is held. The first error is raised, after what had not
        begun was cancelled.
        """

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return ``function(*arguments)``, done as one unit that may use all cores."""


class SerialExecutor:
    """Runs everything in this process."""

    def __init__(self, native_threads: int = 1) -> None:
        self.n_workers = 1
        self.native_threads = native_threads
        self.peak_rss_bytes: dict[int, int] = {}
        set_native_threads(native_threads)

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        for unit in units:
            result, report = _reported(function, unit, *shared)
            self.peak_rss_bytes[report.pid] = report.peak_rss_bytes
            yield result

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        results: Iterator[Result] = self.map(_apply, [arguments], function)
        return _only(results)


class DaskExecutor:
    """Runs units on the workers of a Dask cluster, at most two a worker in flight.

    A unit prefers one worker, the same in every call with as many units, because that worker may
    still have its data in memory; it may go elsewhere.
    """

    UNITS_IN_FLIGHT_PER_WORKER = 2
    WAITS_FOR_WORKERS = 10

    def __init__(self, client: Client, n_workers: int, native_threads: int) -> None:
        self.n_workers = n_workers
        self.native_threads = native_threads
        self.peak_rss_bytes: dict[int, int] = {}
        self._client = client
        client.register_plugin(_NativeThreads(native_threads))

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        waiting: deque[tuple[Unit, Future[Any]]] = deque()
        remaining = iter(enumerate(units))
        try:
            while True:
                while len(waiting) < self.UNITS_IN_FLIGHT_PER_WORKER * self.n_workers:
                    try:
                        index, unit = next(remaining)
                    except StopIteration:
                        break
                    preferred = workers[index % len(workers)] if workers else None
                    future = self._submit(function, unit, shared, preferred)
                    waiting.append((unit, future))
                if not waiting:
                    return
                unit, future = waiting.popleft()
                yield self._result(function, unit, shared, future)
        finally:
            if waiting:
                with suppress(Exception):  # the cluster may be gone already
                    self._client.cancel([future for _, future in waiting])

    def _submit(
        self,
        function: Callable[..., Result],
        unit: Any,
        shared: tuple[Any, ...],
        preferred: str | None,
    ) -> Future[Any]:
        return self._client.submit(
            _reported,
            function,
            unit,
            *shared,
            workers=preferred,
            allow_other_workers=preferred is not None,
            pure=False,
        )

    def _result(
        self,
        function: Callable[..., Result],
        unit: Any,
        shared: tuple[Any, ...],
        future: Future[Any],
    ) -> Result:
        try:
            result, report = self._outcome(function, unit, shared, future)
        except KilledWorker as error:
            raise WorkerLost(
                f"{function.__name__}({unit}): its worker died again and again, mostly for want of "
                "memory; give workers more memory, or make units smaller with fewer pixels"
            ) from error
        except MemoryError as error:
            raise ResourceError(f"{function.__name__}({unit}): not enough memory") from error
        self.peak_rss_bytes[report.pid] = report.peak_rss_bytes
        return result

    def _outcome(
        self,
        function: Callable[..., Result],
        unit: Any,
        shared: tuple[Any, ...],
        future: Future[Any],
    ) -> tuple[Result, WorkerReport]:
        """Wait for a result, also through moments in which all workers are gone.

        What Dask holds back in such a moment it gives to no worker at a new address, even if its
        preference was loose, and fails after "no-workers-timeout": then it is submitted again.
        """
        for _ in range(self.WAITS_FOR_WORKERS):
            try:
                return future.result()  # type: ignore[no-any-return]
            except (NoValidWorkerError, NoWorkerError):
                future = self._submit(function, unit, shared, preferred=None)
        raise WorkerLost(
            f"{function.__name__}({unit}): all Dask workers ended, mostly for want of memory, and "
            "none came back; use fewer workers (n_workers), or make units smaller with fewer pixels"
        )

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        results: Iterator[Result] = self.map(_apply, [arguments], function)
        return _only(results)


class _NativeThreads(WorkerPlugin):
    """Sets ducc0's threads in every worker, also in those that come later in place of dead ones."""

    name = "native-threads"

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def setup(self, worker: Worker) -> None:
        set_native_threads(self._threads)


def _only(results: Iterator[Result]) -> Result:
    (result,) = results
    return result


def _apply(arguments: tuple[Any, ...], function: Callable[..., Result]) -> Result:
    return function(*arguments)


def _reported(
    function: Callable[..., Result], unit: Any, *shared: Any
) -> tuple[Result, WorkerReport]:
    result = function(unit, *shared)
    return result, WorkerReport(os.getpid(), peak_rss_bytes())


def peak_rss_bytes() -> int:
    """Return the most memory this process has held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
