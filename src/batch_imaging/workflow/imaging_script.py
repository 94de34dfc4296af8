"""The script `batch_imaging`: buffers, Dask engine, simulation, ICAL, spectral imaging, report."""

import logging

from batch_imaging.control.config.entities import Resources
from batch_imaging.execution.plan import make_plan
from batch_imaging.execution.progress import Progress
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.batch import Buffers, RunIdentity
from batch_imaging.report.provenance import git_commit
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.deployments import buffer_size_bytes, dask_engine, reserve_buffers
from batch_imaging.workflow.job import Job

LOG = logging.getLogger("batch_imaging")


def process_imaging(claimed: ClaimedBlock) -> None:
    """Process a block of `batch_imaging`.

    Raises
    ------
    BatchImagingError: of any kind; what was reached is in the buffers, with a report.
    """
    parameters = load_parameters(claimed.block.parameters).with_buffers(claimed.id)
    plan = make_plan(parameters)
    for warning in plan.warnings:
        LOG.warning("%s", warning)
    vis, img = str(parameters.buffer_vis), str(parameters.buffer_img)
    if vis == img:
        sizes_bytes = {vis: buffer_size_bytes(plan.disk_bytes)}
    else:
        sizes_bytes = {
            vis: buffer_size_bytes(plan.measurement_set_bytes),
            img: buffer_size_bytes(plan.disk_bytes - plan.measurement_set_bytes),
        }
    claimed.wait_for_resources(Resources(workers=parameters.n_workers, buffers=sizes_bytes))

    LOG.info("Creating buffer reservations")
    folders = reserve_buffers(claimed, sizes_bytes)
    job = Job(
        parameters,
        RunIdentity(claimed.id, claimed.block.sbi_id or "", git_commit() or ""),
        Buffers(folders[vis], folders[img]),
        engine="dask-ee",
        progress=Progress(claimed.report),
    )
    LOG.info("Deploying Dask EE")
    claimed.report("engine", 0.0)
    job.run(
        dask_engine(claimed, parameters.n_workers, plan.memory_limit_bytes, sorted(sizes_bytes))
    )
    LOG.info("Finished processing")
