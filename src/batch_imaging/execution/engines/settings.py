"""How Dask is set up for units that allocate large images and keep nothing on the workers."""

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
    # The arguments of a unit may be images; they go to one worker, once.
    "distributed.admin.large-graph-warning-threshold": "1 GiB",
    # Dask hands freed memory back at once; images are allocated again in the next moment, and the
    # page faults cost a quarter of the time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEPT_FREE_BYTES,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": KEPT_FREE_BYTES,
}


def write_dask_settings(path: Path) -> None:
    """Write the file that DASK_CONFIG of a scheduler or worker names.

    Variables of the environment would not do: Dask turns their names into lower case. They say more
    than those of a cluster that shares a terminal with its user, for they have logs of their own.
    """
    nested: dict[str, Any] = {}
    dask.config.set(DASK_SETTINGS, config=nested)
    nested["distributed"]["logging"] = {"distributed": "info"}
    path.write_text(yaml.safe_dump(nested))
