"""A job from its buffers to its report, wherever the executor comes from."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from batch_imaging.errors import Cancelled, EngineError
from batch_imaging.execution.conducting import conduct
from batch_imaging.execution.executor import Executor, WorkerReport
from batch_imaging.execution.plan import ImagingPlan, plan_imaging
from batch_imaging.execution.progress import Progress
from batch_imaging.execution.worker_logs import LOGS
from batch_imaging.io.measurement_set import describe_measurement_set
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.batch import BatchResult, Buffers, RunIdentity, run_pipelines
from batch_imaging.report import RunRecord, declare_products, write_report
from batch_imaging.workflow.input_sets import ImageJob, find_sets, image_sets

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
    source: folder of the input buffer, in which the sets are found instead.
    limit_bytes: that a worker may take, for what can only be planned when sets are seen.
    engine: what the report calls the executor.
    performance_report: gets Dask's report of the workers, as HTML.
    """

    parameters: Parameters
    identity: RunIdentity
    buffers: Buffers
    engine: str
    sets: tuple[Path, ...] = ()
    source: Path | None = None
    limit_bytes: int = 0
    performance_report: Path | None = None
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
        combined = self.parameters.engine.combined_log
        with (
            opened as executor,
            executor.log_to(self.buffers.img / LOGS, combined=combined),
            executor.keep_performance_report(self.performance_report),
        ):
            self.peak_rss_bytes = executor.peak_rss_bytes
            executor.run(
                declare_products, self.buffers.img, self.parameters, self.started, self.identity
            )
            try:
                self._make_products(executor)
            except BaseException as error:
                self._report_failure(executor, error)
                raise
            with self.progress.stage("report"):
                return executor.run(write_report, self._record())

    def _make_products(self, executor: Executor) -> None:
        if self.source:
            self.sets = executor.run(find_sets, self.source, self.parameters.input.sets)
            if self.parameters.image:
                self._make_images(executor, self.source)
                return
            self._check_sets(executor)
        run_pipelines(
            self.parameters,
            self.buffers,
            self.identity,
            executor,
            self.progress,
            self.result,
            self.sets,
        )

    def _make_images(self, executor: Executor, source: Path) -> None:
        """Run the flow of `batch-imaging image`, which a later job in the same buffer goes on."""
        job = ImageJob(self.parameters, self.identity, source, self.sets, self.buffers.img)
        LOG.info("Running imaging of %d Measurement Sets", len(self.sets))
        self.result.line = conduct(executor, self.progress, image_sets, job, self.limit_bytes)

    def _check_sets(self, executor: Executor) -> None:
        """Refuse sets that the workers have no memory for."""
        plan = executor.run(
            plan_sets, self.sets, self.parameters, self.limit_bytes * self.parameters.n_workers
        )
        for warning in plan.warnings:
            LOG.warning("%s", warning)

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
        if self.result.line:
            yield from self.result.line.files
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


def plan_sets(sets: Sequence[Path], parameters: Parameters, available_bytes: int) -> ImagingPlan:
    """Plan the imaging of sets from what they say of themselves (a unit)."""
    infos = [describe_measurement_set(path) for path in sets]
    return plan_imaging(parameters, infos, available_bytes=available_bytes)


def close_failed_run(run: RunRecord) -> Path:
    """Remove what units that were stopped in the middle had begun, and write the report.

    Cubes of `image` stay as they are: a later run goes on with them.
    """
    for folder in () if run.parameters.image else (run.buffers.vis, run.buffers.img):
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
