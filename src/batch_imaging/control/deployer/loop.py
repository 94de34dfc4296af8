"""The loop of a deployer: make real what the entries ask for, and say what became of it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NoReturn, Protocol

from batch_imaging.control.config import Config, View
from batch_imaging.control.config.entities import Deployment, DeploymentState, DeploymentStatus
from batch_imaging.errors import (
    BatchImagingError,
    ConfigUnavailable,
    ConfigVanished,
    ControlError,
)

LOG = logging.getLogger(__name__)

OUR_TYPE = "helm"
POLL_S = 0.25
RETRY_S = 10.0
MAX_TASKS = 8


class Deployer(Protocol):
    """Makes deployments real.

    `install` and `remove` may take long and are called from several threads, but for one deployment
    by one at a time, and never together with its `state`.
    """

    def recover(self) -> set[str]:
        """Return the ids of deployments that it made real before and must remove some day."""

    def install(self, deployment: Deployment) -> None:
        """Make a deployment real; nothing of it is left if this raises."""

    def remove(self, deploy_id: str) -> None:
        """Take away what was made real, and return when it is gone."""

    def state(self, deploy_id: str) -> DeploymentState:
        """Return what became of an installed deployment; soon, it is asked all the time."""


def run_deployer(config: Config, deployer: Deployer) -> NoReturn:
    """Follow the deployments of the database for ever, also through its absences."""
    work = DeployerWork(config, deployer)
    lost = False
    try:
        while True:
            try:
                with config.follow() as follower:
                    while True:
                        work.step(follower.view)
                        if lost:
                            LOG.info("the configuration database is back")
                            lost = False
                        follower.wait(POLL_S)
            except ConfigUnavailable as error:
                if not lost:
                    LOG.warning("%s; deployments stay as they are until it is back", error)
                    lost = True
                time.sleep(POLL_S)
    finally:
        work.close()


def failed(reason: str) -> DeploymentState:
    return DeploymentState(status=DeploymentStatus.FAILED, reason=reason)


class DeployerWork:
    """What a deployer has at hand: deployments that are held, refused or being worked on."""

    def __init__(self, config: Config, deployer: Deployer) -> None:
        self._config = config
        self._deployer = deployer
        self._held = deployer.recover()
        self._refused: dict[str, tuple[Deployment, str]] = {}
        self._tasks: dict[str, Future[None]] = {}
        self._remove_again_at_s: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(MAX_TASKS, thread_name_prefix="deploy")
        if self._held:
            LOG.info("holding deployments of earlier: %s", ", ".join(sorted(self._held)))

    def close(self) -> None:
        """Finish what is being installed or removed, and begin nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def step(self, view: View) -> None:
        """Begin what the entries ask for, and write the states that have changed."""
        for deploy_id in [each for each, task in self._tasks.items() if task.done()]:
            self._tasks.pop(deploy_id).result()
        entries = set(view.list_deployments())
        for deploy_id in self._refused.keys() - entries:
            del self._refused[deploy_id]
        for deploy_id in self._held - entries:  # an unreadable entry is an entry
            if time.monotonic() >= self._remove_again_at_s.get(deploy_id, 0.0):
                self._begin(deploy_id, partial(self._remove, deploy_id))
        for deploy_id in sorted(entries):
            deployment = view.get_deployment(deploy_id)
            if deployment and deployment.type == OUR_TYPE and deploy_id not in self._tasks:
                self._advance(deploy_id, deployment, view.get_deployment_state(deploy_id))

    def _advance(
        self, deploy_id: str, deployment: Deployment, written: DeploymentState | None
    ) -> None:
        refused, reason = self._refused.get(deploy_id, (None, ""))
        if deploy_id in self._held:
            state = self._state(deploy_id)
        elif refused == deployment:
            state = failed(reason)
        else:
            self._begin(deploy_id, partial(self._install, deploy_id, deployment))
            return
        if state != written:
            self._write(deploy_id, state)

    def _state(self, deploy_id: str) -> DeploymentState:
        try:
            return self._deployer.state(deploy_id)
        except Exception as error:  # it fails alone
            return failed(f"its state is not known: {error}")

    def _write(self, deploy_id: str, state: DeploymentState) -> None:
        level = logging.WARNING if state.status == DeploymentStatus.FAILED else logging.INFO
        LOG.log(level, "%s: %s", deploy_id, ", ".join(filter(None, (state.status, state.reason))))
        with suppress(ConfigVanished):  # deleted in this moment
            for txn in self._config.txn():
                txn.set_deployment_state(deploy_id, state)

    def _begin(self, deploy_id: str, task: Callable[[], None]) -> None:
        if deploy_id not in self._tasks:
            self._tasks[deploy_id] = self._pool.submit(task)

    def _install(self, deploy_id: str, deployment: Deployment) -> None:
        LOG.info("%s: installing chart %s", deploy_id, deployment.chart)
        try:
            if deployment.id != deploy_id:
                raise ControlError(f"/deploy/{deploy_id}: its id is {deployment.id}")
            self._deployer.install(deployment)
        except Exception as error:  # it fails alone
            expected = isinstance(error, BatchImagingError | OSError | ValueError)
            LOG.warning("%s: not installed: %s", deploy_id, error, exc_info=not expected)
            self._refused[deploy_id] = deployment, str(error)
        else:
            self._refused.pop(deploy_id, None)
            self._held.add(deploy_id)

    def _remove(self, deploy_id: str) -> None:
        LOG.info("%s: removing", deploy_id)
        try:
            self._deployer.remove(deploy_id)
        except Exception as error:
            LOG.warning("%s: not removed: %s; trying again in %g s", deploy_id, error, RETRY_S)
            self._remove_again_at_s[deploy_id] = time.monotonic() + RETRY_S
        else:
            self._held.discard(deploy_id)
