"""Run a function on units of work: here, one after the other, or on Dask workers.

Pipelines are written against the Executor protocol and never see Dask. A unit is a small value that
says what to do; the function reads what it needs from disk and returns something small, so any
worker can do any unit, and a unit whose worker died is simply done again.
"""

import itertools
import logging
import os
import platform
import resource
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Generic, Protocol, Self, TypeVar

from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, wait
from distributed.client import FutureCancelledError
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from batch_imaging.errors import EngineError, ParameterError, ResourceError, WorkerLost
from batch_imaging.execution.dashboard import announce_dashboard, kept_performance_report
from batch_imaging.execution.worker_logs import WorkerLog, combine_logs, serial_log, show_warnings
from batch_imaging.kernels.gridding import set_native_threads
from batch_imaging.logging_format import FILE_ONLY, PACKAGE, current_tags, log_tags

LOG = logging.getLogger(__name__)

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

    def log_to(
        self, folder: Path | None, *, combined: bool = False
    ) -> AbstractContextManager[None]:
        """Let every worker log into a file in ``folder``, as workers see it, while inside.

        Each record names the worker, and the stage, unit and channel it was working on. Whether
        there is a folder or not, warnings are logged in this process, too.

        Parameters
        ----------
        combined: put all files into one at the end.
        """

    def keep_performance_report(self, path: Path | None) -> AbstractContextManager[None]:
        """Write Dask's report of what its workers do while inside, if there is a ``path``.

        Raises
        ------
        ParameterError: there are no workers, or bokeh, which draws it, is not installed.
        """


@dataclass(frozen=True, slots=True)
class _Call(Generic[Result]):
    """A unit of work: a function, its arguments, and what its log records are tagged with."""

    function: Callable[..., Result]
    arguments: tuple[Any, ...]
    tags: Mapping[str, object]

    @classmethod
    def of_unit(
        cls, function: Callable[..., Result], index: int, unit: object, shared: tuple[Any, ...]
    ) -> Self:
        channel = getattr(unit, "channel", None)
        tags = {"unit": index} | ({} if channel is None else {"channel": channel})
        return cls(function, (unit, *shared), {**current_tags(), **tags})

    def __str__(self) -> str:
        """Return the function and its first argument, the unit, in few words."""
        first = shorten(str(self.arguments[0]), 200) if self.arguments else ""
        return f"{self.function.__name__}({first})"

    def do(self) -> tuple[Result, WorkerReport]:
        name = self.function.__name__
        with log_tags(**self.tags):
            LOG.info("%s begins", name, extra=FILE_ONLY)
            begin = time.perf_counter()
            try:
                result = self.function(*self.arguments)
            except Exception:
                LOG.exception("%s failed", name, extra=FILE_ONLY)
                raise
            report = WorkerReport.of_this_process()
            LOG.info(
                "%s done in %.3f s, memory at most %.0f MB",
                name,
                time.perf_counter() - begin,
                report.peak_rss_bytes / 1e6,
                extra=FILE_ONLY,
            )
        return result, report


@dataclass(frozen=True, slots=True)
class _Batch(Generic[Result]):
    """Units that one worker does in turn, as one task of Dask's."""

    calls: tuple[_Call[Result], ...]

    def __str__(self) -> str:
        return str(self.calls[0])

    @property
    def key(self) -> str:
        return f"{self.calls[0].function.__name__}-{uuid.uuid4()}"

    def do(self) -> "_Done[Result]":
        begin = time.perf_counter()
        results: list[Result] = []
        for call in self.calls:
            try:
                results.append(call.do()[0])
            except Exception:
                if not results:
                    raise
                break  # the client submits the rest again, and then gets the error itself
        return _Done(results, time.perf_counter() - begin, WorkerReport.of_this_process())


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    """The results of the first units of a batch, mostly of all."""

    results: Sequence[Result]
    wall_s: float
    report: WorkerReport | None


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
        for index, unit in enumerate(units):
            yield self._result(_Call.of_unit(function, index, unit, shared))

    def run(
        self, function: Callable[..., Result], *arguments: Any, deadline_s: float | None = None
    ) -> Result:
        return self._result(_Call(function, arguments, current_tags()))

    def abandon(self, deadline_s: float) -> None:
        """Do nothing: no unit runs on after an error."""

    def log_to(
        self, folder: Path | None, *, combined: bool = False
    ) -> AbstractContextManager[None]:
        return serial_log(folder, combined=combined) if folder else nullcontext()

    def keep_performance_report(self, path: Path | None) -> AbstractContextManager[None]:
        if path:
            raise ParameterError(f"{path}: a performance report is of Dask's workers; use some")
        return nullcontext()

    def _result(self, call: _Call[Result]) -> Result:
        result, report = call.do()
        self.peak_rss_bytes[report.process] = report.peak_rss_bytes
        return result


class DaskExecutor:
    """Runs units on the workers of a Dask cluster, at most two a worker in flight.

    Units that take less than ``TASK_S`` go several together, for Dask takes milliseconds a task.

    A unit prefers one worker, the same in every call with as many units, because that worker may
    still have its data in memory; it may go elsewhere.
    """

    TASKS_IN_FLIGHT_PER_WORKER = 2
    TASK_S = 0.1
    UNITS_PER_TASK = 100
    WORKERS_AWAY_S = 120.0
    """How long all workers may be away; a pod takes half a minute to come back."""
    TIMES_ALONE = 4
    """How often all workers may be away while a unit waits."""
    SCHEDULER_AWAY_S = 60.0
    COMBINE_S = 10.0

    def __init__(
        self, client: Client, n_workers: int, native_threads: int, *, own_stderr: bool = True
    ) -> None:
        """Take the workers of a cluster.

        Parameters
        ----------
        own_stderr: whether workers write to another stderr than this process, which they then use.
        """
        self.n_workers = n_workers
        self.native_threads = native_threads
        self.peak_rss_bytes: dict[str, int] = {}
        self._client = client
        self._own_stderr = own_stderr
        self._logs: Path | None = None
        self._set_up()
        announce_dashboard(client)

    @property
    def client(self) -> Client:
        return self._client

    def map(
        self, function: Callable[..., Result], units: Sequence[Unit], *shared: Any
    ) -> Iterator[Result]:
        workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        waiting: deque[tuple[_Batch[Result], Future[Any]]] = deque()
        remaining = (_Call.of_unit(function, k, unit, shared) for k, unit in enumerate(units))
        turns = itertools.cycle(workers or [None])
        size = 1
        try:
            while True:
                while len(waiting) < self.TASKS_IN_FLIGHT_PER_WORKER * self.n_workers:
                    batch = _Batch(tuple(itertools.islice(remaining, size)))
                    if not batch.calls:
                        break
                    waiting.append((batch, self._submit(batch, next(turns))))
                if not waiting:
                    return
                batch, future = waiting.popleft()
                done = self._result(batch, future)
                n_done = len(done.results)
                wanted = int(self.TASK_S * n_done / done.wall_s) if done.wall_s else 1
                size = max(1, min(wanted, 2 * size, self.UNITS_PER_TASK))
                yield from done.results
                left = batch.calls[n_done:]
                for calls in filter(None, (left[1:], left[:1])):  # the one in trouble alone
                    rest = _Batch(calls)
                    waiting.appendleft((rest, self._submit(rest)))
        finally:
            if waiting:
                with suppress(Exception):  # the cluster may be gone already
                    self._client.cancel([future for _, future in waiting])

    def run(
        self, function: Callable[..., Result], *arguments: Any, deadline_s: float | None = None
    ) -> Result:
        batch = _Batch((_Call(function, arguments, current_tags()),))
        future = self._submit(batch)
        if deadline_s is None:
            return self._result(batch, future).results[0]
        deadline = time.monotonic() + deadline_s
        try:
            wait([future], timeout=deadline_s)
        except TimeoutError as error:
            raise EngineError(f"{batch}: no Dask worker did it within {deadline_s:g} s") from error
        left_s = max(0.0, deadline - time.monotonic())
        return self._result(batch, future, left_s).results[0]

    def abandon(self, deadline_s: float) -> None:
        if self._client.status != "running":
            raise self._scheduler_lost()
        # A busy worker is killed after 4 s; one that is not gone in time is left out.
        with suppress(TimeoutError):
            self._client.restart(timeout=deadline_s, wait_for_workers=False)

    @contextmanager
    def log_to(self, folder: Path | None, *, combined: bool = False) -> Iterator[None]:
        self._logs = folder
        self._set_logs()
        try:
            yield
            self._logs = None
            self._set_logs()
        finally:
            if folder and combined:
                try:
                    self.run(combine_logs, folder, deadline_s=self.COMBINE_S)
                except Exception as error:
                    LOG.warning("%s: the logs of workers are not combined: %s", folder, error)

    def keep_performance_report(self, path: Path | None) -> AbstractContextManager[None]:
        return kept_performance_report(path) if path else nullcontext()

    def _set_up(self) -> None:
        """Let all workers have the threads and logs that this executor wants."""
        show_warnings(self._client)
        self._set_logs()
        self._client.register_plugin(_NativeThreads(self.native_threads))

    def _set_logs(self) -> None:
        level = logging.getLogger(PACKAGE).level or logging.INFO
        log = WorkerLog(self._logs, min(level, logging.INFO), to_stderr=self._own_stderr)
        self._client.register_plugin(log)

    def _submit(self, batch: _Batch[Any], preferred: str | None = None) -> Future[Any]:
        self._require_scheduler()
        return self._client.submit(
            batch.do,
            key=batch.key,
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
        self, batch: _Batch[Result], future: Future[Any], workers_away_s: float = WORKERS_AWAY_S
    ) -> _Done[Result]:
        try:
            done = self._outcome(batch, future, workers_away_s)
        except (KilledWorker, _AllDied) as error:
            if len(batch.calls) > 1:
                return _Done((), 0.0, None)
            raise WorkerLost(
                f"{batch}: its worker died again and again, mostly for want of memory; give "
                "workers more memory, or make units smaller with fewer pixels"
            ) from error
        except MemoryError as error:
            raise ResourceError(f"{batch}: not enough memory") from error
        if done.report:
            self.peak_rss_bytes[done.report.process] = done.report.peak_rss_bytes
        return done

    def _outcome(
        self, batch: _Batch[Result], future: Future[Any], workers_away_s: float
    ) -> _Done[Result]:
        """Wait for a result, also through moments in which all workers or the scheduler are gone.

        What Dask holds back in a moment without workers it gives to no worker at a new address,
        even if its preference was loose, and fails after "no-workers-timeout"; what a scheduler
        had is cancelled when the connection to it is lost: then it is submitted again.
        """
        times_alone = 0
        while True:
            try:
                return future.result()  # type: ignore[no-any-return]
            except (NoValidWorkerError, NoWorkerError) as error:
                times_alone += 1
                if times_alone == self.TIMES_ALONE:  # it may be what ends the workers
                    raise _AllDied from error
                self._require_worker(batch, workers_away_s)
            except FutureCancelledError:
                self._require_scheduler()
                self._set_up()
            future = self._submit(batch)

    def _require_worker(self, batch: _Batch[Any], workers_away_s: float) -> None:
        """Wait a while for a worker, if there is none."""
        try:
            self._client.wait_for_workers(1, timeout=workers_away_s)
        except TimeoutError as error:
            raise WorkerLost(
                f"{batch}: all Dask workers ended, mostly for want of memory, and none came back; "
                "use fewer workers (n_workers), or make units smaller with fewer pixels"
            ) from error


class _AllDied(Exception):
    """All workers went away again and again."""


class _NativeThreads(WorkerPlugin):
    """Sets ducc0's threads in every worker, also in those that come later in place of dead ones."""

    name = "native-threads"

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def setup(self, worker: Worker) -> None:
        set_native_threads(self._threads)


def peak_rss_bytes() -> int:
    """Return the most memory this process has held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
