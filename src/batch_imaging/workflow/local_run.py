"""The job from a plain shell: buffers are folders, no control system is asked."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batch_imaging.errors import ProductError, ResourceError
from batch_imaging.execution.engines import EngineName, open_executor
from batch_imaging.execution.memory import shown_bytes
from batch_imaging.execution.plan import Plan, make_plan, plan_imaging
from batch_imaging.io.measurement_set import describe_measurement_set
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.batch import Buffers, RunIdentity
from batch_imaging.report.provenance import git_commit
from batch_imaging.workflow.job import Job

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
    job = Job(parameters, identity, buffers, engine, tuple(sets))
    report = job.run(open_executor(engine, parameters.n_workers, plan.memory_limit_bytes))
    LOG.info("Finished processing")
    return LocalRun(buffers, tuple(job.products()), report)


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
