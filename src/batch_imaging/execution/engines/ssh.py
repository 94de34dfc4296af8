"""Workers on hosts that ssh reaches, by Dask's SSHCluster; ~/.ssh/config says how.

All hosts need this Python environment, and the data, under the same paths.
"""

import itertools
import logging
from typing import Any

import dask
from distributed import SSHCluster

from batch_imaging.errors import EngineError, ParameterError
from batch_imaging.execution.engines.batch_jobs import COMMAND_S, SCHEDULER_AWAY_S
from batch_imaging.parameters import Engine as EngineParameters

LOG = logging.getLogger(__name__)


class SshEngine:
    """A scheduler on the first host, workers on all in turn; Dask's nannies restart them."""

    def __init__(self, wanted: EngineParameters, memory_bytes: int) -> None:
        if not wanted.hosts:
            raise ParameterError('engine ssh: which hosts? Set engine.hosts=["node1","node2"]')
        self.cores = wanted.cores
        self.wanted = wanted
        self.memory_bytes = memory_bytes
        self._cluster: Any = None

    def start(self, n_workers: int, deadline_s: float) -> str:
        hosts = self.wanted.hosts
        options = {"interface": self.wanted.interface} if self.wanted.interface else {}
        try:
            # SSHCluster reads addresses from what scheduler and workers log.
            with dask.config.set({"distributed.logging": {"distributed": "info"}}):
                self._cluster = SSHCluster(
                    [hosts[0], *itertools.islice(itertools.cycle(hosts), n_workers)],
                    connect_options={"connect_timeout": deadline_s, "login_timeout": deadline_s},
                    worker_options=options
                    | {
                        "nthreads": 1,
                        "memory_limit": self.memory_bytes,
                        "death_timeout": SCHEDULER_AWAY_S,
                    },
                    scheduler_options=options
                    | {
                        "port": 0,
                        "dashboard": self.wanted.dashboard,
                        "dashboard_address": "127.0.0.1:0",
                        "idle_timeout": "1 hour",
                    },
                    silence_logs=logging.WARNING,
                )
        except Exception as error:
            raise EngineError(
                f"engine ssh: {', '.join(hosts)}: {error}; does `ssh HOST` work without a "
                "password, and has each host this Python environment?"
            ) from error
        return str(self._cluster.scheduler_address)

    def trouble(self) -> str:
        return f"hosts: {', '.join(self.wanted.hosts)}"

    def scale(self, n_workers: int) -> None:
        """Do nothing: nannies restart workers, and a host that is gone stays away."""

    def logs(self) -> dict[str, str]:
        return {}

    def stop(self) -> None:
        if self._cluster is not None:
            try:
                self._cluster.close(timeout=COMMAND_S)
            except TimeoutError:
                LOG.warning("workers on %s may be left", ", ".join(self.wanted.hosts))
