"""The job from a plain shell: buffers are folders, no control system is asked."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from batch_imaging.errors import ProductError, ResourceError
from batch_imaging.execution.engines import EngineName, open_executor
from batch_imaging.execution.executor import peak_rss_bytes
from batch_imaging.execution.memory import shown_bytes
from batch_imaging.execution.plan import Plan, make_plan, plan_imaging
from batch_imaging.execution.progress import Progress
from batch_imaging.io.measurement_set import describe_measurement_set
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.batch import BatchResult, Buffers, RunIdentity, run_pipelines
from batch_imaging.report import RunRecord, declare_products, write_report
from batch_imaging.report.provenance import git_commit

LOG = logging.getLogger("batch_imaging")

LOCAL_PB_ID = "pb-local"
"""Stands for the processing block where there is no control system."""


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A finished run: where its data, its images and its report are.

    Attributes
    ----------
    products: in the order they were made; Measurement Sets and truth of a simulation first.
    """

    buffers: Buffers
    products: tuple[Path, ...]
    report: Path


def run_locally(
    parameters: Parameters,
    output: Path,
    engine: EngineName = "local",
    sets: Sequence[Path] = (),
) -> LocalRun:
    """Run the whole job in folders under ``output`` and write its report.

    Parameters
    ----------
    output: gets a folder for each buffer; products of an earlier run there are replaced.
    sets: Measurement Sets to image instead of a simulation.

    Raises
    ------
    BatchImagingError: of any kind; a report of what was reached is written all the same.
    """
    parameters = parameters.with_buffers(LOCAL_PB_ID)
    if engine == "serial":
        parameters = parameters.model_copy(update={"n_workers": 1})
    plan = (
        plan_imaging(parameters, [describe_measurement_set(path) for path in sets])
        if sets
        else make_plan(parameters)
    )
    for warning in plan.warnings:
        LOG.warning("%s", warning)
    buffers = _make_buffers(parameters, output, plan.disk_bytes if isinstance(plan, Plan) else 0)
    identity = RunIdentity(LOCAL_PB_ID, "", git_commit() or "")
    run = _Run(parameters, identity, buffers, tuple(sets), engine)
    declare_products(buffers.img, parameters, run.started, identity)
    try:
        with open_executor(engine, parameters.n_workers, plan.memory_limit_bytes) as executor:
            run.peak_rss_bytes = executor.peak_rss_bytes
            run_pipelines(
                parameters, buffers, identity, executor, run.progress, run.result, run.sets
            )
    except BaseException as error:
        _remove_partial_products(buffers)
        try:
            report = write_report(run.record(_reason(error)))
            LOG.info("What was reached is in %s", report)
        except Exception as second:
            LOG.warning("no report of the failed run: %s", second)
        raise
    with run.progress.stage("report"):
        report = write_report(run.record())
    LOG.info("Finished processing")
    return LocalRun(buffers, tuple(_products(run.result)), report)


@dataclass(slots=True)
class _Run:
    """What the report will need, collected as the run goes."""

    parameters: Parameters
    identity: RunIdentity
    buffers: Buffers
    sets: tuple[Path, ...]
    engine: EngineName
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    progress: Progress = field(default_factory=Progress)
    result: BatchResult = field(default_factory=BatchResult)
    peak_rss_bytes: dict[int, int] = field(default_factory=dict)

    def record(self, error: str = "") -> RunRecord:
        return RunRecord(
            parameters=self.parameters,
            identity=self.identity,
            buffers=self.buffers,
            result=self.result,
            started=self.started,
            finished=datetime.now(UTC),
            sets=self.sets,
            stages=tuple(self.progress.stages),
            peak_rss_bytes=self.peak_rss_bytes | {os.getpid(): peak_rss_bytes()},
            engine=self.engine,
            error=error,
        )


def _products(result: BatchResult) -> Iterator[Path]:
    """Yield what a run has made and is there; not all it might have made."""
    if result.simulation:
        yield from result.simulation.sets
    for made in (result.simulation, result.ical, result.spectral):
        if made:
            yield from filter(Path.exists, made.files.values())


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return "stopped by a signal"
    return str(error) or type(error).__name__


def _remove_partial_products(buffers: Buffers) -> None:
    """Remove what workers that were stopped in the middle had begun to write."""
    for folder in (buffers.vis, buffers.img):
        for partial in folder.glob("*.partial"):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def _make_buffers(parameters: Parameters, output: Path, needed_bytes: int) -> Buffers:
    buffers = Buffers(
        output.absolute() / str(parameters.buffer_vis),
        output.absolute() / str(parameters.buffer_img),
    )
    try:
        for folder in (buffers.vis, buffers.img):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProductError(
            f"{output}: buffers cannot be made there ({error}); choose another --output"
        ) from error
    free_bytes = shutil.disk_usage(buffers.vis).free
    if needed_bytes > free_bytes:
        raise ResourceError(
            f"{output}: {shown_bytes(needed_bytes)} are needed and {shown_bytes(free_bytes)} free; "
            "choose another --output or fewer windows, times or pixels"
        )
    return buffers
