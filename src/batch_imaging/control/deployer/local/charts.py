"""What the charts mean on one machine: a buffer is a directory, the others are programs.

Each takes its values from a deployment's `values`, which are flat: `worker.replicas`, `env.NAME`.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from batch_imaging.control.config.entities import DeploymentState, DeploymentStatus
from batch_imaging.control.config.quantity import parse_quantity, quantity_text
from batch_imaging.control.deployer.local.programs import Programs
from batch_imaging.errors import ControlError, ResourceError
from batch_imaging.execution.engines.settings import write_dask_settings

DEFAULT_SIZE = "1Gi"
MEASURE_S = 5.0
"""How often a buffer is measured."""

Values = Mapping[str, Any]


class Chart(Protocol):
    """One deployment of a chart."""

    def __init__(self, folder: Path, deploy_id: str) -> None: ...

    def install(self, values: Values) -> None: ...

    def state(self) -> DeploymentState: ...

    def remove(self) -> None: ...


class Buffer:
    """A directory, `buffers/<id>`, that should not grow beyond its size."""

    def __init__(self, folder: Path, deploy_id: str) -> None:
        self.path = folder / "buffers" / deploy_id
        self._size_bytes = 0
        self._used_bytes = 0
        self._measure_at_s = 0.0

    def install(self, values: Values) -> None:
        """Make the directory, or take the one that is there.

        Raises
        ------
        ResourceError: the disk has less free than what the buffer has not used yet.
        """
        self._size_bytes = parse_quantity(str(values.get("size", DEFAULT_SIZE)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(self.path.parent).free
        wanted_bytes = self._size_bytes - used_bytes(self.path)
        if wanted_bytes > free_bytes:
            raise ResourceError(
                f"{self.path.name}: {quantity_text(wanted_bytes)} are wanted and "
                f"{quantity_text(free_bytes)} free in {self.path.parent}; make room, or a smaller "
                "buffer"
            )
        self.path.mkdir(exist_ok=True)

    def state(self) -> DeploymentState:
        now_s = time.monotonic()
        if now_s >= self._measure_at_s:
            self._used_bytes = used_bytes(self.path)
            self._measure_at_s = now_s + MEASURE_S
        if not self.path.is_dir():
            return self._failed(f"{self.path}: somebody has removed this directory")
        if self._used_bytes > self._size_bytes:
            return self._failed(
                f"{self.path}: holds {quantity_text(self._used_bytes)}, more than its size of "
                f"{quantity_text(self._size_bytes)}; remove files, or make a larger buffer"
            )
        return DeploymentState(status=DeploymentStatus.RUNNING, path=str(self.path))

    def remove(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)

    def _failed(self, reason: str) -> DeploymentState:
        return DeploymentState(status=DeploymentStatus.FAILED, reason=reason, path=str(self.path))


class Workflow(Programs):
    """A processing script: it ends by itself, and is not started again."""

    chart: ClassVar = "workflow"

    def install(self, values: Values) -> None:
        if not (pb_id := values.get("pb_id")):
            raise ControlError(f"{self.deploy_id}: its values do not say which pb_id to process")
        given = {
            name.removeprefix("env."): str(value)
            for name, value in values.items()
            if name.startswith("env.")
        }
        # What leads this deployer to the database leads there from this machine; where the
        # controller runs, it may have another name.
        ours = {name: value for name, value in os.environ.items() if name.startswith("SDP_CONFIG_")}
        command = [sys.executable, "-m", "batch_imaging", "workflow", str(pb_id)]
        self.make_scratch()
        self.start(self.chart, {"workflow": command}, {**os.environ, **given, **ours})

    def state_after(self, exit_codes: Mapping[str, int | None]) -> DeploymentState:
        status, reason = DeploymentStatus.RUNNING, None
        if "workflow" in exit_codes:
            code = exit_codes["workflow"]
            status = DeploymentStatus.FINISHED if code == 0 else DeploymentStatus.FAILED
            reason = None if code == 0 else self.failure(code)
        return DeploymentState(
            status=status, reason=reason, pods={"workflow": status}, log=str(self.log)
        )


class Engine(Programs):
    """A Dask scheduler and workers, on ports of the loopback interface that the kernel chooses."""

    chart: ClassVar = "dask-ee"

    def install(self, values: Values) -> None:
        """Start them at the same time; the workers wait for the scheduler's file."""
        n_workers = int(values.get("worker.replicas", 2))
        if n_workers < 1:
            raise ControlError(
                f"{self.deploy_id}: worker.replicas = {n_workers}: must be 1 or more"
            )
        memory = values.get("worker.resources.limits.memory")
        memory_limit = str(parse_quantity(str(memory))) if memory else "auto"
        shared = [
            *("--host", "127.0.0.1", "--scheduler-file", str(self._scheduler_file)),
            # The page of a dashboard that is not wanted is served all the same.
            *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
        ]
        workers = [
            *("--nworkers", str(n_workers), "--nthreads", "1", "--memory-limit", memory_limit),
            *("--local-directory", str(self.scratch)),
        ]
        dask = [sys.executable, "-m"]
        self.make_scratch()
        settings = self.scratch / "dask.yaml"
        write_dask_settings(settings)
        self.start(
            self.chart,
            {
                "scheduler": [*dask, "distributed.cli.dask_scheduler", "--port", "0", *shared],
                "workers": [*dask, "distributed.cli.dask_worker", *workers, *shared],
            },
            {**os.environ, "DASK_CONFIG": str(settings)},
        )

    def state_after(self, exit_codes: Mapping[str, int | None]) -> DeploymentState:
        scheduler = self._scheduler()
        status = DeploymentStatus.RUNNING if scheduler else DeploymentStatus.PENDING
        reason = None if scheduler else "its scheduler is starting"
        pods = {
            name: DeploymentStatus.FAILED if name in exit_codes else status
            for name in ("scheduler", "workers")
        }
        if exit_codes:
            status = DeploymentStatus.FAILED
            reason = "; ".join(f"{name}: {self.failure(code)}" for name, code in exit_codes.items())
        return DeploymentState(
            status=status, reason=reason, pods=pods, scheduler=scheduler, log=str(self.log)
        )

    @property
    def _scheduler_file(self) -> Path:
        return self.scratch / "scheduler.json"

    def _scheduler(self) -> str | None:
        """Return the scheduler's address, which it writes as soon as it answers there."""
        try:
            return str(json.loads(self._scheduler_file.read_text())["address"])
        except (OSError, ValueError):  # not there, or half written
            return None


CHARTS: dict[str, type[Chart]] = {
    "buffer": Buffer,
    Workflow.chart: Workflow,
    Engine.chart: Engine,
}


def used_bytes(folder: Path) -> int:
    """Return the size of all files of a directory that may be written to meanwhile."""
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                used += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return used
