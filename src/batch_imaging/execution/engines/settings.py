"""How Dask is set up for units that allocate large images and keep nothing on the workers.

A variable of the environment wins: DASK_DISTRIBUTED__COMM__RETRY__COUNT=10 sets
distributed.comm.retry.count.
"""

from pathlib import Path
from typing import Any

import dask
import yaml

RESTART_S = 3.0  # a worker needs about one; DaskExecutor then waits on
KEPT_FREE_BYTES = 128 * 2**20

DASK_SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.no-workers-timeout": RESTART_S,
    # A worker that Dask pauses would stay so for good: what it frees it keeps for the next image
    # (below). There is nothing to spill either.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.97,
    "distributed.logging": {"distributed": "warning"},
    # What a scheduler keeps of each transition and event is kilobytes.
    "distributed.admin.low-level-log-length": 1000,
    # A crowded network, or a node that swaps, is slow and not gone; yet what a dead worker had is
    # asked for all the while, and only then computed again.
    "distributed.comm.retry.count": 1,
    "distributed.comm.timeouts.connect": "30s",
    "distributed.comm.timeouts.tcp": "60s",
    # The arguments of a unit may be images; they go to one worker, once.
    "distributed.admin.large-graph-warning-threshold": "1 GiB",
    # Dask hands freed memory back at once; images are allocated again in the next moment, and the
    # page faults cost a quarter of the time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEPT_FREE_BYTES,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": KEPT_FREE_BYTES,
}


LOCAL_SETTINGS: dict[str, Any] = DASK_SETTINGS | {
    # On one machine, what does not answer is gone.
    "distributed.comm.retry.count": 0,
    "distributed.comm.timeouts.connect": "10s",
}
"""Of workers on this machine."""

JOB_SETTINGS: dict[str, Any] = DASK_SETTINGS | {
    # The batch system watches over the memory of its jobs and says so in their logs.
    "distributed.worker.memory.terminate": False,
    "distributed.logging": {"distributed": "info"},
}
"""Of workers in jobs."""


def dask_settings(settings: dict[str, Any] = DASK_SETTINGS) -> dict[str, Any]:
    """Return settings by dotted name, with the values that the environment gives instead."""
    given = dask.config.collect_env()
    return {name: dask.config.get(name, value, config=given) for name, value in settings.items()}


def inherited_settings() -> str:
    """Return the value of DASK_INTERNAL_INHERIT_CONFIG that sets up workers in jobs.

    No file that they would have to share, and all variables of this environment that Dask knows.
    """
    nested = dask.config.collect_env()
    dask.config.set(dask_settings(JOB_SETTINGS), config=nested)
    return str(dask.config.serialize(nested))


def write_dask_settings(path: Path) -> None:
    """Write the file that DASK_CONFIG of a scheduler or worker names.

    Variables of the environment would not do: Dask turns their names into lower case. They say more
    than those of a cluster that shares a terminal with its user, for they have logs of their own.
    """
    nested: dict[str, Any] = {}
    dask.config.set(DASK_SETTINGS, config=nested)
    nested["distributed"]["logging"] = {"distributed": "info"}
    path.write_text(yaml.safe_dump(nested))
