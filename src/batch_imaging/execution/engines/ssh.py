"""Workers on hosts that ssh reaches, by the processes of Dask's SSHCluster; ~/.ssh/config says how.

All hosts need this Python environment, and the data, under the same paths.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from typing import Any

import dask
from distributed import SpecCluster
from distributed.deploy import ssh

from batch_imaging.errors import EngineError, ParameterError
from batch_imaging.execution.engines.batch_jobs import COMMAND_S, SCHEDULER_AWAY_S
from batch_imaging.parameters import Engine as EngineParameters

LOG = logging.getLogger(__name__)

KEPT_LINES = 1000


class _Remote(ssh.Process):
    """Starts in time or not at all, and is read on, for unread output would halt it one day."""

    proc: Any

    def __init__(self, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self._deadline = deadline
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await super().start()  # type: ignore[no-untyped-call]
        except Exception as error:
            await self.close()  # type: ignore[no-untyped-call]
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"{self.address} did not start in time") from error
            raise
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        from asyncssh import DEVNULL

        await self.proc.redirect_stdout(DEVNULL)
        async for line in self.proc.stderr:
            ssh.logger.info(line.rstrip())


class _Scheduler(_Remote, ssh.Scheduler):
    pass


class _Worker(_Remote, ssh.Worker):
    pass


class _LastLines(logging.Handler):
    """Keeps what remote processes said last."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class SshEngine:
    """A scheduler on the first host, workers on all in turn; Dask's nannies restart them."""

    def __init__(self, wanted: EngineParameters, memory_bytes: int) -> None:
        if not wanted.hosts:
            raise ParameterError('engine ssh: which hosts? Set engine.hosts=["node1","node2"]')
        self.cores = wanted.cores
        self.wanted = wanted
        self.memory_bytes = memory_bytes
        self._cluster: Any = None
        self._said = _LastLines()

    def start(self, n_workers: int, deadline_s: float) -> str:
        hosts = self.wanted.hosts
        further = {"interface": self.wanted.interface} if self.wanted.interface else {}
        scheduler = {
            "port": 0,
            "dashboard": self.wanted.dashboard,
            "dashboard_address": "127.0.0.1:0",
            "idle_timeout": "1 hour",
        }
        worker = {
            "nthreads": 1,
            "memory_limit": self.memory_bytes,
            "death_timeout": SCHEDULER_AWAY_S,
        }
        deadline = time.monotonic() + deadline_s  # the clock of asyncio, too

        def process(cls: type[_Remote], host: str, options: dict[str, Any]) -> dict[str, Any]:
            return {
                "cls": cls,
                "options": {
                    "address": host,
                    "connect_options": {"connect_timeout": deadline_s, "login_timeout": deadline_s},
                    "kwargs": options | further,
                    "deadline": deadline,
                },
            }

        ssh.logger.setLevel(logging.INFO)
        ssh.logger.addHandler(self._said)
        try:
            # Addresses are read from what scheduler and workers log.
            with dask.config.set({"distributed.logging": {"distributed": "info"}}):
                self._cluster = SpecCluster(
                    dict(
                        enumerate(
                            process(_Worker, host, worker)
                            for host in itertools.islice(itertools.cycle(hosts), n_workers)
                        )
                    ),
                    process(_Scheduler, hosts[0], scheduler),
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
        lines = "\n".join(self._said.lines)
        return {"scheduler and workers": lines} if lines else {}

    def stop(self) -> None:
        ssh.logger.removeHandler(self._said)
        ssh.logger.setLevel(logging.NOTSET)
        if self._cluster is not None:
            try:
                self._cluster.close(timeout=COMMAND_S)
            except TimeoutError:
                LOG.warning("workers on %s may be left", ", ".join(self.wanted.hosts))
