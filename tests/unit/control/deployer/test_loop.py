"""The loop, with a deployer whose deployments do what their chart says."""

import threading
import time

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import Deployment, DeploymentState, DeploymentStatus
from batch_imaging.control.deployer import loop
from batch_imaging.control.deployer.loop import DeployerWork
from batch_imaging.control.leader import Leader
from batch_imaging.errors import PassingFailure

DEADLINE_S = 10.0


class Charts:
    """Charts `slow` and `stuck` wait for `release`, before and after; `unclear` has no state.

    `shaky` fails until `release`, as if it might pass.
    """

    def __init__(self, held=()):
        self.charts = dict.fromkeys(held, "plain")
        self.release = threading.Event()

    def recover(self, deploy_ids):
        return set(self.charts)

    def is_current(self, deployment):
        return self.charts.get(deployment.id) in {deployment.chart, "plain"}

    def install(self, deployment):
        if deployment.chart == "slow":
            self.release.wait(DEADLINE_S)
        if deployment.chart == "bad":
            raise ValueError("bad chart")
        if deployment.chart == "shaky" and not self.release.is_set():
            raise PassingFailure("no answer")
        self.charts[deployment.id] = deployment.chart

    def remove(self, deploy_id):
        if self.charts.get(deploy_id) == "stuck" and not self.release.is_set():
            raise OSError("stuck")
        self.charts.pop(deploy_id, None)

    def state(self, deployment, written):
        if self.charts[deployment.id] == "unclear":
            raise OSError("nobody knows")
        return DeploymentState(status=DeploymentStatus.RUNNING)


class Loop:
    """Steps of the loop until something is so."""

    def __init__(self, charts, config=None, leader=None):
        self.charts = charts
        self.config = config or Config(MemoryBackend())
        self.work = DeployerWork(self.config, charts, leader)

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

    def started(*held, **options):
        loops.append(Loop(Charts(held), **options))
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
        "slow": ("PENDING", "chart slow is being installed"),
        "unclear": ("PENDING", "its state is not known: nobody knows"),
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


def test_what_may_pass_is_tried_again_and_the_attempts_are_counted(start, monkeypatch):
    monkeypatch.setattr(loop, "BACK_OFF_S", 0.01)
    system = start()
    system.create("a", "shaky")
    given_up = ("FAILED", "given up after 5 attempts: no answer")
    said = set()
    system.until(lambda states: said.add(states["a"]) or states["a"] == given_up)
    assert ("PENDING", "attempt 2 of 5, again in 0.02 s: no answer") in said


def test_attempts_are_counted_on_after_a_restart(start):
    system = start()
    system.create("a", "shaky")
    for txn in system.config.txn():
        txn.set_deployment_state("a", loop.pending("attempt 4 of 5", 4))
    system.until(lambda states: states["a"] == ("FAILED", "given up after 5 attempts: no answer"))


def test_a_changed_entry_is_installed_anew(start):
    system = start()
    system.create("a", "bad")
    system.until(lambda states: states["a"] == ("FAILED", "bad chart"))
    for chart in ("unclear", "other"):
        deployment = Deployment(id="a", type="helm", args={"chart": chart})
        for txn in system.config.txn():
            txn.raw.update("/deploy/a", deployment.to_object())
        system.until(lambda _, chart=chart: system.charts.charts.get("a") == chart)
    system.until(lambda states: states["a"] == ("RUNNING", None))


def test_the_state_goes_last(start):
    system = start()
    system.create("a", "stuck")
    system.until(lambda states: states["a"] == ("RUNNING", None))
    for txn in system.config.txn():
        txn.raw.delete("/deploy/a")
    with system.config.follow() as follower:
        system.work.step(follower.view)
        assert "/deploy/a/state" in follower.view
    system.charts.release.set()
    system.work._remove_again_at_s.clear()

    def is_swept(_):
        with system.config.follow() as follower:
            return "/deploy/a/state" not in follower.view

    system.until(is_swept)
    assert not system.charts.charts


def test_a_state_that_is_unclear_stays_as_it_was(start):
    system = start()
    system.create("a", "plain")
    system.until(lambda states: states["a"] == ("RUNNING", None))
    system.charts.charts["a"] = "unclear"
    system.charts.is_current = lambda deployment: True
    for _ in range(3):
        with system.config.follow() as follower:
            system.work.step(follower.view)
    system.until(lambda states: states["a"] == ("RUNNING", None))


def test_what_is_being_removed_has_a_state_until_it_is_gone(start):
    system = start()
    system.create("a", "stuck")
    system.until(lambda states: states["a"] == ("RUNNING", None))
    system.delete("a")

    def state():
        with system.config.follow() as follower:
            return follower.view.get_deployment_state("a")

    system.until(lambda _: state() == loop.GOING)
    system.charts.release.set()
    system.work._remove_again_at_s.clear()
    system.until(lambda _: state() is None)
    assert not system.charts.charts


def test_who_does_not_lead_does_nothing(start):
    first = start()
    with Leader(first.config, "deployer") as ahead, Leader(first.config, "deployer") as behind:
        with first.config.follow() as follower:
            while not ahead.leads(follower.view):
                follower.wait(0.01)
        second = start(config=first.config, leader=behind)
        second.create("a", "plain")
        with second.config.follow() as follower:
            for _ in range(3):
                second.work.step(follower.view)
                follower.wait(0.01)
        assert not second.charts.charts
        ahead.resign()
        second.until(lambda states: states["a"] == ("RUNNING", None))


def test_an_entry_made_unreadable_is_not_removed(start):
    system = start()
    system.create("a", "plain")
    system.until(lambda states: states["a"] == ("RUNNING", None))
    for txn in system.config.txn():
        txn.raw.update("/deploy/a", {"id": 3})
    system.create("b", "plain")
    system.until(lambda states: states["b"] == ("RUNNING", None))
    assert set(system.charts.charts) == {"a", "b"}
