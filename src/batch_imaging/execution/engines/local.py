"""A Dask cluster on this machine: a scheduler in this process, workers as child processes."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from dask.system import cpu_count
from distributed import Client, LocalCluster

from batch_imaging.errors import ClusterStartTimeout
from batch_imaging.execution.engines.settings import LOCAL_SETTINGS, dask_settings
from batch_imaging.execution.executor import DaskExecutor

START_DEADLINE_S = 60.0


@contextmanager
def local_executor(
    n_workers: int,
    memory_limit_bytes: int,
    deadline_s: float = START_DEADLINE_S,
    *,
    dashboard: bool = False,
) -> Iterator[DaskExecutor]:
    """Start ``n_workers`` worker processes, yield an executor on them, stop them.

    Each worker does one unit at a time; native libraries get the cores that are left over.

    Raises
    ------
    ClusterStartTimeout: not all workers connected within ``deadline_s``.
    """
    with (
        tempfile.TemporaryDirectory(prefix="batch-imaging-workers-") as folder,
        dask.config.set(dask_settings(LOCAL_SETTINGS), temporary_directory=folder),
    ):
        try:
            cluster = LocalCluster(
                n_workers=0,  # they start in the background, so that the deadline counts for them
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # The scheduler has a page even without a dashboard; on any free port.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": dashboard},
                memory_limit=memory_limit_bytes,
                local_directory=folder,
                silence_logs=logging.WARNING,
            )
        except (TimeoutError, RuntimeError) as error:
            raise ClusterStartTimeout(f"local Dask cluster did not start: {error}") from error
        with cluster, Client(cluster) as client:
            cluster.scale(n_workers)
            try:
                client.wait_for_workers(n_workers, timeout=deadline_s)
            except TimeoutError as error:
                here = len(client.scheduler_info(n_workers=-1)["workers"])
                raise ClusterStartTimeout(
                    f"{here} of {n_workers} local Dask workers connected within {deadline_s:g} s; "
                    "is the machine out of memory or processes? Try fewer with --workers"
                ) from error
            threads = max(1, available_cores() // n_workers)
            yield DaskExecutor(client, n_workers, threads, own_stderr=False)


def available_cores() -> int:
    """Return the number of cores this process may use: the machine's, or its container's."""
    return cpu_count()
