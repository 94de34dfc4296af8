"""The script `batch_imaging`: buffers, Dask engine, simulation, ICAL, spectral imaging, report."""

import logging
import os

from batch_imaging.control.config.entities import Resources
from batch_imaging.control.config.quantity import parse_quantity
from batch_imaging.errors import SettingError
from batch_imaging.execution.plan import make_plan
from batch_imaging.execution.progress import Progress
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.batch import Buffers, RunIdentity
from batch_imaging.report.provenance import git_commit
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.deployments import dask_engine, request_buffers, reserve_buffers
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
    plan = make_plan(parameters, worker_limit_bytes=worker_limit_bytes())
    for warning in plan.warnings:
        LOG.warning("%s", warning)
    requests = request_buffers(parameters, plan)
    sizes_bytes = {request.name: request.size_bytes for request in requests}
    claimed.wait_for_resources(Resources(workers=parameters.n_workers, buffers=sizes_bytes))

    LOG.info("Creating buffer reservations")
    folders = reserve_buffers(claimed, requests, parameters.retain)
    vis, img = str(parameters.buffer_vis), str(parameters.buffer_img)
    job = Job(
        parameters,
        RunIdentity(claimed.id, claimed.block.sbi_id or "", git_commit() or ""),
        Buffers(folders[vis], folders[img]),
        engine="dask-ee",
        progress=Progress(claimed.report),
    )
    LOG.info("Deploying Dask EE")
    claimed.report("engine", 0.0)
    engine = dask_engine(
        claimed, parameters.n_workers, plan.memory_limit_bytes, sorted(folders), img
    )
    job.run(engine)
    LOG.info("Finished processing")


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
