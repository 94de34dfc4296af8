"""A Dask cluster that somebody else brings up and takes down, known by its scheduler's address."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import dask
from distributed import Client

from batch_imaging.errors import ClusterStartTimeout
from batch_imaging.execution.engines.local import available_cores
from batch_imaging.execution.executor import DaskExecutor

LOG = logging.getLogger(__name__)

POLL_S = 0.1
CONNECT_S = 5.0


@contextmanager
def address_executor(
    address: str, n_workers: int, deadline_s: float, trouble: Callable[[], str]
) -> Iterator[DaskExecutor]:
    """Connect to a scheduler, wait for its workers, yield an executor on them, disconnect.

    Parameters
    ----------
    trouble: what the platform says of the cluster, for the error; may raise to end the wait.

    Raises
    ------
    ClusterStartTimeout: the scheduler, or not all workers, came within ``deadline_s``.
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
        yield DaskExecutor(client, n_workers, _cores_per_worker(client))


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


def _cores_per_worker(client: Client) -> int:
    """Return the cores that each worker may use, if those of one host share them evenly."""
    cores: dict[str, int] = client.run(available_cores)
    on_host = Counter(urlsplit(address).hostname for address in cores)
    return max(1, min(n // on_host[urlsplit(address).hostname] for address, n in cores.items()))
