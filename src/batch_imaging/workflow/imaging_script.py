"""The script `batch_imaging`: buffers, Dask engine, simulation, ICAL, spectral imaging, report."""

import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path

from batch_imaging.control.config.entities import Resources
from batch_imaging.control.config.quantity import parse_quantity
from batch_imaging.errors import SettingError
from batch_imaging.execution.engines import open_executor
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.memory import available_memory_bytes
from batch_imaging.execution.plan import make_plan
from batch_imaging.execution.progress import Progress
from batch_imaging.parameters import Parameters, load_parameters
from batch_imaging.pipelines.batch import Buffers, RunIdentity
from batch_imaging.report.provenance import git_commit
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.deployments import (
    dask_engine,
    request_buffers,
    request_images,
    reserve_buffers,
    take_buffer,
)
from batch_imaging.workflow.input_sets import choose_steps
from batch_imaging.workflow.job import Job

LOG = logging.getLogger("batch_imaging")

WORKER_MEMORY = "BATCH_IMAGING_WORKER_MEMORY"


def process_imaging(claimed: ClaimedBlock) -> None:
    """Process a block of `batch_imaging`.

    Raises
    ------
    BatchImagingError: of any kind; what was reached is in the buffers, with a report.
    """
    parameters = load_parameters(claimed.block.parameters).with_buffers(claimed.id)
    if parameters.image:  # what cannot be read is refused before anything is deployed
        choose_steps(parameters, Path())
    source = take_buffer(claimed, parameters.input.buffer) if parameters.input.buffer else None
    if source:  # what is needed is found out by the workers, which see its sets
        limit_bytes = worker_limit_bytes() or available_memory_bytes() // parameters.n_workers
        requests = request_images(parameters)
    else:
        plan = make_plan(parameters, worker_limit_bytes=worker_limit_bytes())
        for warning in plan.warnings:
            LOG.warning("%s", warning)
        limit_bytes, requests = plan.memory_limit_bytes, request_buffers(parameters, plan)
    sizes_bytes = {request.name: request.size_bytes for request in requests}
    if source:  # it needs no room, but must not be removed
        sizes_bytes[str(parameters.input.buffer)] = 0
    claimed.wait_for_resources(Resources(workers=parameters.n_workers, buffers=sizes_bytes))

    LOG.info("Creating buffer reservations")
    folders = reserve_buffers(claimed, requests, parameters.retain)
    vis, img = str(parameters.buffer_vis), str(parameters.buffer_img)
    job = Job(
        parameters,
        RunIdentity(claimed.id, claimed.block.sbi_id or "", git_commit() or ""),
        Buffers(folders[vis], folders[img]),
        engine="dask-ee" if parameters.engine.name == "auto" else parameters.engine.name,
        source=source,
        limit_bytes=limit_bytes,
        progress=Progress(claimed.report),
    )
    claimed.report("engine", 0.0)
    job.run(_engine(claimed, parameters, limit_bytes, sorted(folders)))
    LOG.info("Finished processing")


def _engine(
    claimed: ClaimedBlock, parameters: Parameters, limit_bytes: int, buffers: list[str]
) -> AbstractContextManager[Executor]:
    """Return the engine that the deployer brings, or the one that the parameters name."""
    n_workers = parameters.n_workers
    if parameters.engine.name != "auto":
        return open_executor(parameters.engine, n_workers, limit_bytes)
    LOG.info("Deploying Dask EE")
    source, logs = parameters.input.buffer, str(parameters.buffer_img)
    return dask_engine(claimed, n_workers, limit_bytes, buffers, source, logs)


def worker_limit_bytes() -> int | None:
    """Return the most that one worker may take where each has memory of its own, else None.

    Raises
    ------
    SettingError: the variable is no size.
    """
    text = os.environ.get(WORKER_MEMORY)
    if not text:
        return None
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise SettingError(f"{WORKER_MEMORY} = {error}") from error
