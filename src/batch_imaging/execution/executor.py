"""Run a function on units of work: here, one after the other, or on Dask workers.

Pipelines are written against the Executor protocol and never see Dask. A unit is a small value that
says what to do; the function reads what it needs from disk and returns something small, so any
worker can do any unit, and a unit whose worker died is simply done again.
"""

import os
import platform
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Protocol, Self, TypeVar

from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, wait
from distributed.client import FutureCancelledError
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from batch_imaging.errors import EngineError, ResourceError, WorkerLost
from batch_imaging.kernels.gridding import set_native_threads

POLL_S = 0.2
Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """Which process did a unit and the most memory it has held so far, bytes."""

    process: str
    peak_rss_bytes: int

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(f"{platform.node()}:{os.getpid()}", peak_rss_bytes())


class Executor(Protocol):
    """Runs units of work.

    Attributes
    ----------
    n_workers: units that run at the same time.
    native_threads: threads a unit may use in ducc0 and radler.
    peak_rss_bytes: highest memory of every process that did a unit, by `host:process id`.
    """

    n_workers: int
    native_threads: int
    peak_rss_bytes: dict[str, int]

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        """Yield ``function(unit, *shared)`` for every unit, in their order.

        Only a bounded number of results is held. The first error is raised, after what had not
        begun was cancelled.
        """

    def run(
        self, function: Callable[..., Result], *arguments: Any, deadline_s: float | None = None
    ) -> Result:
        """Return ``function(*arguments)``, done as one unit that may use all cores.

        Raises
        ------
        EngineError: a worker has not done it within ``deadline_s``.
        """

    def abandon(self, deadline_s: float) -> None:
        """End the units that still run after an error, so that workers are free for clean-up."""


class SerialExecutor:
    """Runs everything in this process."""

    def __init__(self, native_threads: int = 1) -> None:
        self.n_workers = 1
        self.native_threads = native_threads
        self.peak_rss_bytes: dict[str, int] = {}
        set_native_threads(native_threads)

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        for unit in units:
            yield self.run(function, unit, *shared)

    def run(
        self, function: Callable[..., Result], *arguments: Any, deadline_s: float | None = None
    ) -> Result:
        result, report = _reported(function, *arguments)
        self.peak_rss_bytes[report.process] = report.peak_rss_bytes
        return result

    def abandon(self, deadline_s: float) -> None:
        """Do nothing: no unit runs on after an error."""


class DaskExecutor:
    """Runs units on the workers of a Dask cluster, at most two a worker in flight.

    A unit prefers one worker, the same in every call with as many units, because that worker may
    still have its data in memory; it may go elsewhere.
    """

    UNITS_IN_FLIGHT_PER_WORKER = 2
    WORKERS_AWAY_S = 120.0
    """How long all workers may be away; a pod takes half a minute to come back."""
    SCHEDULER_AWAY_S = 60.0

    def __init__(self, client: Client, n_workers: int, native_threads: int) -> None:
        self.n_workers = n_workers
        self.native_threads = native_threads
        self.peak_rss_bytes: dict[str, int] = {}
        self._client = client
        self._set_threads()

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        waiting: deque[tuple[tuple[Any, ...], Future[Any]]] = deque()
        remaining = iter(enumerate(units))
        try:
            while True:
                while len(waiting) < self.UNITS_IN_FLIGHT_PER_WORKER * self.n_workers:
                    try:
                        index, unit = next(remaining)
                    except StopIteration:
                        break
                    preferred = workers[index % len(workers)] if workers else None
                    arguments = (unit, *shared)
                    waiting.append((arguments, self._submit(function, arguments, preferred)))
                if not waiting:
                    return
                arguments, future = waiting.popleft()
                yield self._result(function, arguments, future)
        finally:
            if waiting:
                with suppress(Exception):  # the cluster may be gone already
                    self._client.cancel([future for _, future in waiting])

    def run(
        self, function: Callable[..., Result], *arguments: Any, deadline_s: float | None = None
    ) -> Result:
        future = self._submit(function, arguments)
        if deadline_s is None:
            return self._result(function, arguments, future)
        deadline = time.monotonic() + deadline_s
        try:
            wait([future], timeout=deadline_s)
        except TimeoutError as error:
            raise EngineError(
                f"{_shown(function, arguments)}: no Dask worker did it within {deadline_s:g} s"
            ) from error
        return self._result(function, arguments, future, max(0.0, deadline - time.monotonic()))

    def abandon(self, deadline_s: float) -> None:
        if self._client.status != "running":
            raise self._scheduler_lost()
        # A busy worker is killed after 4 s; one that is not gone in time is left out.
        with suppress(TimeoutError):
            self._client.restart(timeout=deadline_s, wait_for_workers=False)

    def _set_threads(self) -> None:
        self._client.register_plugin(_NativeThreads(self.native_threads))

    def _submit(
        self,
        function: Callable[..., Result],
        arguments: tuple[Any, ...],
        preferred: str | None = None,
    ) -> Future[Any]:
        self._require_scheduler()
        return self._client.submit(
            _reported,
            function,
            *arguments,
            workers=preferred,
            allow_other_workers=preferred is not None,
            pure=False,
        )

    def _require_scheduler(self) -> None:
        """Wait a while for the scheduler, if the connection to it is lost.

        Where somebody else watches the engine, the wait is interrupted with what they know of it.
        """
        deadline = time.monotonic() + self.SCHEDULER_AWAY_S
        while self._client.status != "running":
            if time.monotonic() > deadline:
                raise self._scheduler_lost()
            time.sleep(POLL_S)

    def _scheduler_lost(self) -> EngineError:
        return EngineError(
            "the Dask scheduler went away and did not come back; its log, and the events of the "
            "platform it runs on, may say why"
        )

    def _result(
        self,
        function: Callable[..., Result],
        arguments: tuple[Any, ...],
        future: Future[Any],
        workers_away_s: float = WORKERS_AWAY_S,
    ) -> Result:
        try:
            result, report = self._outcome(function, arguments, future, workers_away_s)
        except KilledWorker as error:
            raise WorkerLost(
                f"{_shown(function, arguments)}: its worker died again and again, mostly for want "
                "of memory; give workers more memory, or make units smaller with fewer pixels"
            ) from error
        except MemoryError as error:
            raise ResourceError(f"{_shown(function, arguments)}: not enough memory") from error
        self.peak_rss_bytes[report.process] = report.peak_rss_bytes
        return result

    def _outcome(
        self,
        function: Callable[..., Result],
        arguments: tuple[Any, ...],
        future: Future[Any],
        workers_away_s: float,
    ) -> tuple[Result, WorkerReport]:
        """Wait for a result, also through moments in which all workers or the scheduler are gone.

        What Dask holds back in a moment without workers it gives to no worker at a new address,
        even if its preference was loose, and fails after "no-workers-timeout"; what a scheduler
        had is cancelled when the connection to it is lost: then it is submitted again.
        """
        while True:
            try:
                return future.result()  # type: ignore[no-any-return]
            except (NoValidWorkerError, NoWorkerError):
                self._require_worker(_shown(function, arguments), workers_away_s)
            except FutureCancelledError:
                self._require_scheduler()
                self._set_threads()
            future = self._submit(function, arguments)

    def _require_worker(self, unit: str, workers_away_s: float) -> None:
        """Wait a while for a worker, if there is none."""
        try:
            self._client.wait_for_workers(1, timeout=workers_away_s)
        except TimeoutError as error:
            raise WorkerLost(
                f"{unit}: all Dask workers ended, mostly for want of memory, and none came back; "
                "use fewer workers (n_workers), or make units smaller with fewer pixels"
            ) from error


class _NativeThreads(WorkerPlugin):
    """Sets ducc0's threads in every worker, also in those that come later in place of dead ones."""

    name = "native-threads"

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def setup(self, worker: Worker) -> None:
        set_native_threads(self._threads)


def _reported(function: Callable[..., Result], *arguments: Any) -> tuple[Result, WorkerReport]:
    result = function(*arguments)
    return result, WorkerReport.of_this_process()


def _shown(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return the function and its first argument, the unit, in few words."""
    return f"{function.__name__}({shorten(str(arguments[0]), 200) if arguments else ''})"


def peak_rss_bytes() -> int:
    """Return the most memory this process has held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
