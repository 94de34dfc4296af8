"""The deployer for one machine: processes and directories under one folder.

buffers/<id>/       the files of a buffer
logs/<id>.log       what the programs of a deployment say
deployments/<id>/   their scratch, exit codes and process ids
"""

import fcntl
import logging
import os
import weakref
from collections.abc import Collection
from pathlib import Path

from batch_imaging.control.config.entities import Deployment, DeploymentState
from batch_imaging.control.deployer.local.charts import CHARTS, Chart
from batch_imaging.control.deployer.local.processes import (
    end_processes,
    find_processes,
    is_deploy_id,
)
from batch_imaging.control.deployer.local.programs import read_record, remove_programs
from batch_imaging.errors import ControlError

LOG = logging.getLogger(__name__)


class LocalDeployer:
    """Makes deployments real under a folder, alone there. What it started lives on without it.

    Raises
    ------
    ControlError: another deployer works in this folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made: dict[str, Chart] = {}
        lock = os.open(self.folder / "deployer.lock", os.O_CREAT | os.O_RDWR, 0o644)
        self.close = weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise ControlError(
                f"{folder}: another deployer works in this folder; end it, or choose another"
            ) from error

    def recover(self, deploy_ids: Collection[str] = ()) -> set[str]:
        """Take over the programs of earlier; return their deployments.

        What was started only in part is ended, to be installed anew. Buffers do not count as held:
        files that nobody asks for any more are not ours to delete.
        """
        scratches = {path.name for path in self.folder.glob("deployments/*")}
        for deploy_id in filter(is_deploy_id, scratches | find_processes(self.folder).keys()):
            record = read_record(self.folder, deploy_id)
            if record and record.chart in CHARTS:
                self._made[deploy_id] = CHARTS[record.chart](self.folder, deploy_id)
            else:
                remove_programs(self.folder, deploy_id)
        buffers = sorted(path.name for path in self.folder.glob("buffers/*"))
        if buffers:
            LOG.info("%s holds buffers of earlier: %s", self.folder, ", ".join(buffers))
        return set(self._made)

    def install(self, deployment: Deployment) -> None:
        """Make a deployment real.

        Raises
        ------
        ControlError: the chart is unknown, or a value of it is missing.
        ValueError: a value is none.
        ResourceError: there is no room for a buffer.
        """
        if deployment.chart not in CHARTS:
            known = ", ".join(sorted(CHARTS))
            raise ControlError(
                f"{deployment.id}: chart {deployment.chart!r} is unknown here; there are {known}"
            )
        made = CHARTS[deployment.chart](self.folder, deployment.id)
        made.install(deployment.values)
        self._made[deployment.id] = made

    def is_current(self, deployment: Deployment) -> bool:
        """Whether it is installed; programs that run are not changed with their entry."""
        return deployment.id in self._made

    def remove(self, deploy_id: str) -> None:
        """End all processes of a deployment and delete its files but for the log."""
        if deploy_id in self._made:
            self._made[deploy_id].remove()
            del self._made[deploy_id]

    def state(
        self, deployment: Deployment, written: DeploymentState | None = None
    ) -> DeploymentState:
        return self._made[deployment.id].state()

    def remove_all(self) -> None:
        """End the processes of all deployments; files, and how the processes ended, stay."""
        end_processes(str(self.folder), lambda: set().union(*find_processes(self.folder).values()))
