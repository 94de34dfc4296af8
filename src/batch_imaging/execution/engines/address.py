"""A Dask cluster that somebody else brings up and takes down, known by its scheduler's address."""

import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import dask
from distributed import Client

from batch_imaging.errors import ClusterStartTimeout
from batch_imaging.execution.engines.local import available_cores
from batch_imaging.execution.engines.versions import require_same_versions
from batch_imaging.execution.executor import DaskExecutor

LOG = logging.getLogger(__name__)

POLL_S = 0.1
CONNECT_S = 5.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""The same for all containers of a machine."""


@contextmanager
def address_executor(
    address: str,
    n_workers: int,
    deadline_s: float,
    trouble: Callable[[], str],
    cores: int | None = None,
) -> Iterator[DaskExecutor]:
    """Connect to a scheduler, wait for its workers, yield an executor on them, disconnect.

    Parameters
    ----------
    trouble: what the platform says of the cluster, for the error; may raise to end the wait.
    cores: of a worker; by default what workers find where they run.

    Raises
    ------
    ClusterStartTimeout: the scheduler, or not all workers, came within ``deadline_s``.
    VersionMismatch: they run other versions than this process.
    """
    deadline = time.monotonic() + deadline_s
    with (
        # The arguments of a unit may be images; they go to one worker, once.
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}),
        _connected(address, deadline, deadline_s, trouble) as client,
    ):
        while (here := _count_workers(client)) < n_workers:
            said = trouble()
            if time.monotonic() > deadline:
                raise ClusterStartTimeout(
                    f"{here} of {n_workers} Dask workers connected to {address} within "
                    f"{deadline_s:g} s" + (f": {said}" if said else "")
                )
            time.sleep(POLL_S)
        require_same_versions(client)
        yield DaskExecutor(client, n_workers, cores or _cores_per_worker(client))


def _connected(
    address: str, deadline: float, deadline_s: float, trouble: Callable[[], str]
) -> Client:
    while True:
        try:
            return Client(address, timeout=CONNECT_S)
        except (OSError, TimeoutError) as error:
            said = trouble()
            if time.monotonic() > deadline:
                raise ClusterStartTimeout(
                    f"the Dask scheduler at {address} did not answer within {deadline_s:g} s: "
                    f"{said or error}"
                ) from error
            time.sleep(POLL_S)


def _count_workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


@dataclass(frozen=True, slots=True)
class _Cores:
    """Cores that a process may use, and those of the machine it runs on, under whatever address."""

    machine: str
    here: int
    of_machine: int

    @classmethod
    def of_this_process(cls) -> Self:
        try:
            machine = BOOT_ID.read_text()
        except OSError:
            machine = platform.node()
        return cls(machine, available_cores(), os.cpu_count() or 1)


def _cores_per_worker(client: Client) -> int:
    """Return the cores that each worker may use, if all on a host, or a machine, share evenly.

    Each pod is a host of its own, with an address and perhaps a limit; a machine has many.
    """
    workers: dict[str, _Cores] = client.run(_Cores.of_this_process)
    hosts = {address: urlsplit(address).hostname for address in workers}
    on_host = Counter(hosts.values())
    on_machine = Counter(cores.machine for cores in workers.values())
    shares = (
        min(cores.here // on_host[hosts[address]], cores.of_machine // on_machine[cores.machine])
        for address, cores in workers.items()
    )
    return max(1, min(shares))
