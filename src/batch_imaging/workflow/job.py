"""A job from its buffers to its report, wherever the executor comes from."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from batch_imaging.errors import Cancelled, EngineError
from batch_imaging.execution.executor import Executor, WorkerReport
from batch_imaging.execution.progress import Progress
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.batch import BatchResult, Buffers, RunIdentity, run_pipelines
from batch_imaging.report import RunRecord, declare_products, write_report

LOG = logging.getLogger("batch_imaging")

ABANDON_S = 10.0
REPORT_S = 300.0
URGENT_REPORT_S = 15.0
"""For a run that was told to end, and is killed after 30 s in a cluster, or has no workers."""


@dataclass(slots=True)
class Job:
    """A job: what it is asked for, and what the report will need, collected as it goes.

    Attributes
    ----------
    sets: Measurement Sets to image instead of a simulation.
    engine: what the report calls the executor.
    """

    parameters: Parameters
    identity: RunIdentity
    buffers: Buffers
    engine: str
    sets: tuple[Path, ...] = ()
    progress: Progress = field(default_factory=Progress)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    result: BatchResult = field(default_factory=BatchResult)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)

    def run(self, opened: AbstractContextManager[Executor]) -> Path:
        """Run the pipelines on an executor and return the path of the report.

        Products of an earlier run in the same buffers are replaced.

        Raises
        ------
        BatchImagingError: of any kind; a report of what was reached is written all the same.
        """
        with opened as executor:
            self.peak_rss_bytes = executor.peak_rss_bytes
            executor.run(
                declare_products, self.buffers.img, self.parameters, self.started, self.identity
            )
            try:
                run_pipelines(
                    self.parameters,
                    self.buffers,
                    self.identity,
                    executor,
                    self.progress,
                    self.result,
                    self.sets,
                )
            except BaseException as error:
                self._report_failure(executor, error)
                raise
            with self.progress.stage("report"):
                return executor.run(write_report, self._record())

    def _report_failure(self, executor: Executor, error: BaseException) -> None:
        """Write what was reached, and of what was begun leave nothing, if the workers still can."""
        is_urgent = isinstance(error, Cancelled | EngineError) or not isinstance(error, Exception)
        try:
            executor.abandon(ABANDON_S)
            report = executor.run(
                close_failed_run,
                self._record(_reason(error)),
                deadline_s=URGENT_REPORT_S if is_urgent else REPORT_S,
            )
            LOG.info("What was reached is in %s", report)
        except Exception as second:
            LOG.warning("no report of the failed run: %s", second)

    def products(self) -> Iterator[Path]:
        """Yield what was made and is there, in the order it was made; not all it might have."""
        if self.result.simulation:
            yield from self.result.simulation.sets
        for made in (self.result.simulation, self.result.ical, self.result.spectral):
            if made:
                yield from filter(Path.exists, made.files.values())

    def _record(self, error: str = "") -> RunRecord:
        here = WorkerReport.of_this_process()
        return RunRecord(
            parameters=self.parameters,
            identity=self.identity,
            buffers=self.buffers,
            result=self.result,
            started=self.started,
            finished=datetime.now(UTC),
            sets=self.sets,
            stages=tuple(self.progress.stages),
            peak_rss_bytes=self.peak_rss_bytes | {here.process: here.peak_rss_bytes},
            engine=self.engine,
            error=error,
        )


def close_failed_run(run: RunRecord) -> Path:
    """Remove what units that were stopped in the middle had begun, and write the report."""
    for folder in (run.buffers.vis, run.buffers.img):
        for partial in folder.glob("*.partial"):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
    return write_report(run)


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return "stopped by a signal"
    return str(error) or type(error).__name__
