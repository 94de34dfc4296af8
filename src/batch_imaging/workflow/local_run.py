"""The job from a plain shell: buffers are folders, no control system is asked."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batch_imaging.errors import DataError, ParameterError, ProductError, ResourceError
from batch_imaging.execution.engines import chosen_engine, open_executor
from batch_imaging.execution.memory import available_memory_bytes, shown_bytes
from batch_imaging.execution.plan import ImagingPlan, Plan, make_plan, plan_imaging
from batch_imaging.io.measurement_set import describe_measurement_set
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.batch import Buffers, RunIdentity
from batch_imaging.report.provenance import git_commit
from batch_imaging.workflow.input_sets import choose_steps, find_sets
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
    sets: Sequence[Path] = (),
    performance_report: Path | None = None,
) -> LocalRun:
    """Run the whole job in folders under ``output`` and write its report.

    Parameters
    ----------
    output: gets a folder for each buffer; products of an earlier run there are replaced.
    sets: Measurement Sets to image instead of a simulation.
    performance_report: gets Dask's report of its workers, as HTML.

    Raises
    ------
    BatchImagingError: of any kind; a report of what was reached is written all the same.
    """
    parameters = parameters.with_buffers(LOCAL_PB_ID)
    engine = chosen_engine(parameters.engine)
    if engine == "serial":
        parameters = parameters.model_copy(update={"n_workers": 1})
    source = _source(parameters, output)
    plan: Plan | ImagingPlan
    if source and sets:
        raise ParameterError("Measurement Sets and input.buffer are both given; keep one of them")
    if source:  # what is needed is found out when its sets are seen
        find_sets(source, parameters.input.sets)
        if parameters.image:
            choose_steps(parameters, source)
        plan = ImagingPlan(available_memory_bytes() // parameters.n_workers, ())
    elif sets:
        plan = plan_imaging(parameters, [describe_measurement_set(path) for path in sets])
    else:
        plan = make_plan(parameters)
    for warning in plan.warnings:
        LOG.warning("%s", warning)
    buffers = _make_buffers(parameters, output, plan.disk_bytes if isinstance(plan, Plan) else 0)
    identity = RunIdentity(LOCAL_PB_ID, "", git_commit() or "")
    job = Job(
        parameters,
        identity,
        buffers,
        engine,
        tuple(sets),
        source,
        plan.memory_limit_bytes,
        performance_report,
    )
    report = job.run(
        open_executor(parameters.engine, parameters.n_workers, plan.memory_limit_bytes)
    )
    LOG.info("Finished processing")
    return LocalRun(buffers, tuple(job.products()), report)


def _source(parameters: Parameters, output: Path) -> Path | None:
    """Return the folder of the input buffer, which must be there.

    Raises
    ------
    DataError: it is not.
    """
    name = parameters.input.buffer
    if name is None:
        return None
    folder = output.absolute() / name
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder, which input.buffer names; give one within "
            "--output, or an absolute path"
        )
    return folder


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
