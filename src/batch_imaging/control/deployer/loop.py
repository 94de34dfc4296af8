"""The loop of a deployer: make real what the entries ask for, and say what became of it."""

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from batch_imaging.control.config import Config, Transaction, View
from batch_imaging.control.config.entities import Deployment, DeploymentState, DeploymentStatus
from batch_imaging.control.config.reader import deploy_path, deploy_state_path
from batch_imaging.control.leader import Leader
from batch_imaging.errors import (
    BatchImagingError,
    ConfigVanished,
    ControlError,
    PassingFailure,
)

LOG = logging.getLogger(__name__)

OUR_TYPE = "helm"
POLL_S = 0.25
QUIET_POLL_S = 1.0
"""How often it looks while nothing is being made or removed; changes of entries come at once."""
RETRY_S = 10.0
MAX_ATTEMPTS = 5
BACK_OFF_S = 5.0
"""Before the second attempt to install; twice as long before each further one."""
MAX_TASKS = 8


class Deployer(Protocol):
    """Makes deployments real.

    `install` and `remove` may take long and are called from several threads, but for one deployment
    by one at a time, and never together with its `is_current` and `state`.
    """

    def recover(self, deploy_ids: Collection[str]) -> set[str]:
        """Return the ids of deployments that it made real before and must remove some day.

        Parameters
        ----------
        deploy_ids: of the entries there are.
        """

    def install(self, deployment: Deployment) -> None:
        """Make a deployment real, or what it was before what it is now.

        Raises
        ------
        PassingFailure: it may well work in a while.
        """

    def is_current(self, deployment: Deployment) -> bool:
        """Whether what is installed is what the entry asks for."""

    def remove(self, deploy_id: str) -> None:
        """Take away what was made real, and return when it is gone."""

    def state(self, deployment: Deployment, written: DeploymentState | None) -> DeploymentState:
        """Return what became of an installed deployment; soon, it is asked all the time.

        Parameters
        ----------
        written: what was said of it last, perhaps by a deployer before this one.
        """


def run_deployer(
    config: Config,
    deployer: Deployer,
    leader_name: str | None = None,
    beat: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Follow the deployments of the database for ever, also through its absences.

    Parameters
    ----------
    leader_name: of several deployers with this name one acts; unset, this is the only one.
    beat: is called whenever the loop comes round.
    """
    lost = False
    with ExitStack() as stack:
        leader = stack.enter_context(Leader(config, leader_name)) if leader_name else None
        work = DeployerWork(config, deployer, leader)
        stack.callback(work.close)
        while True:
            try:
                with config.follow() as follower:
                    while True:
                        beat()
                        work.step(follower.view)
                        if lost:
                            LOG.info("it works again")
                            lost = False
                        follower.wait(POLL_S if work.is_busy else QUIET_POLL_S)
            except ControlError as error:
                beat()
                if not lost:
                    LOG.warning("%s; deployments stay as they are, trying again", error)
                    lost = True
                time.sleep(POLL_S)


def failed(reason: str) -> DeploymentState:
    return DeploymentState(status=DeploymentStatus.FAILED, reason=reason)


def pending(reason: str, attempts: int | None = None) -> DeploymentState:
    counted = {} if attempts is None else {"attempts": attempts}
    return DeploymentState(status=DeploymentStatus.PENDING, reason=reason, **counted)


GOING = pending("it is being removed")
"""What is said of a deployment whose entry is gone, until it is gone itself."""


@dataclass(frozen=True, slots=True)
class Unmade:
    """A deployment that was not installed, and what is said of it until it is tried again."""

    deployment: Deployment
    state: DeploymentState
    again_at_s: float = float("inf")


class DeployerWork:
    """What a deployer has at hand: deployments that are held, refused or being worked on.

    Attributes
    ----------
    is_busy: whether something is being made or removed.
    """

    def __init__(self, config: Config, deployer: Deployer, leader: Leader | None = None) -> None:
        self._config = config
        self._deployer = deployer
        self._leader = leader
        self.is_busy = False
        self._acts = False
        self._held: set[str] = set()
        self._renewed: set[str] = set()
        self._unmade: dict[str, Unmade] = {}
        self._tasks: dict[str, Future[None]] = {}
        self._remove_again_at_s: dict[str, float] = {}
        self._unclear: set[str] = set()
        self._entries: set[str] = set()
        self._sweeps = True
        self._pool = ThreadPoolExecutor(MAX_TASKS, thread_name_prefix="deploy")

    def close(self) -> None:
        """Finish what is being installed or removed, and begin nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def step(self, view: View) -> None:
        """Begin what the entries ask for, and write the states that have changed."""
        if self._leader and not self._leader.leads(view):
            self._acts = False
            return
        for deploy_id in [each for each, task in self._tasks.items() if task.done()]:
            self._tasks.pop(deploy_id).result()
            self._sweeps = True
        self.is_busy = bool(self._tasks)
        entries = set(view.list_deployments())
        if not self._acts:
            self._recover(entries)
        for deploy_id in self._unmade.keys() - entries:
            del self._unmade[deploy_id]
        # An unreadable entry is an entry.
        for deploy_id in (self._held | self._tasks.keys()) - entries:
            if view.get_deployment_state(deploy_id) != GOING:
                self._say_going(deploy_id)
            if time.monotonic() >= self._remove_again_at_s.get(deploy_id, 0.0):
                self._begin(deploy_id, partial(self._remove, deploy_id))
        for deploy_id in sorted(entries):
            deployment = view.get_deployment(deploy_id)
            if deployment and deployment.type == OUR_TYPE and deploy_id not in self._tasks:
                self._advance(deploy_id, deployment, view.get_deployment_state(deploy_id))
        if self._sweeps or self._entries - entries:
            self._sweep()
        self._entries = entries

    def _recover(self, entries: set[str]) -> None:
        self._held = self._deployer.recover(entries)
        self._acts = self._sweeps = True
        if self._held:
            LOG.info("holding deployments of earlier: %s", ", ".join(sorted(self._held)))

    def _advance(
        self, deploy_id: str, deployment: Deployment, written: DeploymentState | None
    ) -> None:
        unmade = self._unmade.get(deploy_id)
        is_known = unmade is not None and unmade.deployment == deployment
        if unmade and is_known and time.monotonic() < unmade.again_at_s:
            state = unmade.state
        elif deploy_id in self._held and self._is_current(deployment):
            state = self._state(deployment, None if deploy_id in self._renewed else written)
        else:
            attempts = 0
            if written and written.status == DeploymentStatus.PENDING and (is_known or not unmade):
                attempts = written.attempts or 0
            install = partial(self._install, deploy_id, deployment, attempts + 1)
            if self._begin(deploy_id, install) and written in (None, GOING):
                self._write(deploy_id, pending(f"chart {deployment.chart} is being installed"))
            return
        self.is_busy |= state.status == DeploymentStatus.PENDING
        if state != written:
            self._write(deploy_id, state)
        self._renewed.discard(deploy_id)

    def _is_current(self, deployment: Deployment) -> bool:
        try:
            return self._deployer.is_current(deployment)
        except (BatchImagingError, ValueError):  # `install` says what is wrong with it
            return False

    def _state(self, deployment: Deployment, written: DeploymentState | None) -> DeploymentState:
        deploy_id = deployment.id
        try:
            state = self._deployer.state(deployment, written)
        except Exception as error:  # it is unclear alone
            if deploy_id not in self._unclear:
                LOG.warning("%s: its state is not known: %s", deploy_id, error)
            self._unclear.add(deploy_id)
            return written or pending(f"its state is not known: {error}")
        self._unclear.discard(deploy_id)
        return state

    def _write(self, deploy_id: str, state: DeploymentState) -> None:
        level = logging.WARNING if state.status == DeploymentStatus.FAILED else logging.INFO
        LOG.log(level, "%s: %s", deploy_id, ", ".join(filter(None, (state.status, state.reason))))
        with suppress(ConfigVanished):  # deleted in this moment
            for txn in self._config.txn():
                if self._may_write(txn):
                    txn.set_deployment_state(deploy_id, state)

    def _say_going(self, deploy_id: str) -> None:
        path = deploy_state_path(deploy_id)
        for txn in self._config.txn():
            if self._may_write(txn) and txn.raw.value(deploy_path(deploy_id)) is None:
                write = txn.raw.create if txn.raw.value(path) is None else txn.raw.update
                write(path, GOING.to_object())

    def _sweep(self) -> None:
        """Delete the states of deployments that have lost their entry and are gone themselves."""
        for txn in self._config.txn():
            paths = txn.raw.list_keys("/deploy/", 1) if self._may_write(txn) else []
            for path in paths:
                entry, _, name = path.rpartition("/")
                deploy_id = entry.removeprefix("/deploy/")
                is_held = deploy_id in self._held or deploy_id in self._tasks
                if name == "state" and not is_held and deploy_path(deploy_id) not in paths:
                    txn.raw.delete(path)
        self._sweeps = False

    def _may_write(self, txn: Transaction) -> bool:
        return self._leader is None or self._leader.confirm(txn)

    def _begin(self, deploy_id: str, task: Callable[[], None]) -> bool:
        if deploy_id in self._tasks:
            return False
        self._tasks[deploy_id] = self._pool.submit(task)
        self.is_busy = True
        return True

    def _install(self, deploy_id: str, deployment: Deployment, attempt: int) -> None:
        LOG.info("%s: installing chart %s", deploy_id, deployment.chart)
        self._unmade.pop(deploy_id, None)
        self._held.add(deploy_id)  # a part of it may stay even if this fails
        try:
            if deployment.id != deploy_id:
                raise ControlError(f"/deploy/{deploy_id}: its id is {deployment.id}")
            self._deployer.install(deployment)
        except Exception as error:  # it fails alone
            expected = isinstance(error, BatchImagingError | OSError | ValueError)
            LOG.warning("%s: not installed: %s", deploy_id, error, exc_info=not expected)
            self._unmade[deploy_id] = _unmade(deployment, error, attempt)
        else:
            self._renewed.add(deploy_id)

    def _remove(self, deploy_id: str) -> None:
        LOG.info("%s: removing", deploy_id)
        try:
            self._deployer.remove(deploy_id)
        except Exception as error:
            LOG.warning("%s: not removed: %s; trying again in %g s", deploy_id, error, RETRY_S)
            self._remove_again_at_s[deploy_id] = time.monotonic() + RETRY_S
        else:
            self._held.discard(deploy_id)
            self._remove_again_at_s.pop(deploy_id, None)


def _unmade(deployment: Deployment, error: Exception, attempt: int) -> Unmade:
    if not isinstance(error, PassingFailure):
        return Unmade(deployment, failed(str(error)))
    if attempt >= MAX_ATTEMPTS:
        return Unmade(deployment, failed(f"given up after {attempt} attempts: {error}"))
    wait_s = BACK_OFF_S * 2 ** (attempt - 1)
    reason = f"attempt {attempt} of {MAX_ATTEMPTS}, again in {wait_s:g} s: {error}"
    return Unmade(deployment, pending(reason, attempt), time.monotonic() + wait_s)
