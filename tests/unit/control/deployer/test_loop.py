"""The loop, with a deployer whose deployments do what their chart says."""

import threading
import time

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import Deployment, DeploymentState, DeploymentStatus
from batch_imaging.control.deployer import loop
from batch_imaging.control.deployer.loop import DeployerWork

DEADLINE_S = 10.0


class Charts:
    """Charts `slow` and `stuck` wait for `release`, before and after; `unclear` has no state."""

    def __init__(self, held=()):
        self.charts = dict.fromkeys(held, "plain")
        self.release = threading.Event()

    def recover(self):
        return set(self.charts)

    def install(self, deployment):
        if deployment.chart == "slow":
            self.release.wait(DEADLINE_S)
        if deployment.chart == "bad":
            raise ValueError("bad chart")
        self.charts[deployment.id] = deployment.chart

    def remove(self, deploy_id):
        if self.charts[deploy_id] == "stuck" and not self.release.is_set():
            raise OSError("stuck")
        del self.charts[deploy_id]

    def state(self, deploy_id):
        if self.charts[deploy_id] == "unclear":
            raise OSError("nobody knows")
        return DeploymentState(status=DeploymentStatus.RUNNING)


class Loop:
    """Steps of the loop until something is so."""

    def __init__(self, charts):
        self.charts = charts
        self.config = Config(MemoryBackend())
        self.work = DeployerWork(self.config, charts)

    def create(self, deploy_id, chart):
        deployment = Deployment(id=deploy_id, type="helm", args={"chart": chart})
        for txn in self.config.txn():
            txn.create_deployment(deployment)

    def delete(self, deploy_id):
        for txn in self.config.txn():
            txn.delete_deployment(deploy_id)

    def states(self, view):
        states = {each: view.get_deployment_state(each) for each in view.list_deployments()}
        return {each: state and (state.status, state.reason) for each, state in states.items()}

    def until(self, condition):
        deadline = time.monotonic() + DEADLINE_S
        with self.config.follow() as follower:
            while not condition(self.states(follower.view)):
                assert time.monotonic() < deadline, self.states(follower.view)
                self.work.step(follower.view)
                follower.wait(0.01)


@pytest.fixture
def start():
    loops = []

    def started(*held):
        loops.append(Loop(Charts(held)))
        return loops[-1]

    yield started
    for each in loops:
        each.charts.release.set()
        each.work.close()


def test_a_failure_or_a_slow_one_holds_up_no_other(start):
    system = start()
    for chart in ("bad", "plain", "slow", "unclear"):
        system.create(chart, chart)
    expected = {
        "bad": ("FAILED", "bad chart"),
        "plain": ("RUNNING", None),
        "slow": None,
        "unclear": ("FAILED", "its state is not known: nobody knows"),
    }
    system.until(lambda states: states == expected)
    system.charts.release.set()
    system.until(lambda states: states["slow"] == ("RUNNING", None))


def test_what_was_held_and_lost_its_entry_is_removed(start):
    system = start("old")
    system.until(lambda _: not system.charts.charts)


def test_a_removal_that_fails_is_tried_again(start, monkeypatch, caplog):
    monkeypatch.setattr(loop, "RETRY_S", 0.05)
    system = start()
    system.create("a", "stuck")
    system.until(lambda states: states["a"] == ("RUNNING", None))
    system.delete("a")
    system.until(lambda _: "a: not removed: stuck" in caplog.text)
    system.charts.release.set()
    system.until(lambda _: not system.charts.charts)


def test_an_entry_made_unreadable_is_not_removed(start):
    system = start()
    system.create("a", "plain")
    system.until(lambda states: states["a"] == ("RUNNING", None))
    for txn in system.config.txn():
        txn.raw.update("/deploy/a", {"id": 3})
    system.create("b", "plain")
    system.until(lambda states: states["b"] == ("RUNNING", None))
    assert set(system.charts.charts) == {"a", "b"}
