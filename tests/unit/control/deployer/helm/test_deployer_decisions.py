"""What the deployer does with what it finds; cluster and helm are played by records of both."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import Deployment, DeploymentState
from batch_imaging.control.deployer.helm.cluster import CHART, FINGERPRINT, MARK, Release
from batch_imaging.control.deployer.helm.deployer import HelmDeployer
from batch_imaging.control.deployer.helm.objects import Objects
from batch_imaging.errors import ControlError, PassingFailure
from batch_imaging.kubernetes_names import kubernetes_name, release_name

OWNER = kubernetes_name("Test.control")
BUFFER = Path(__file__).with_name("objects") / "bound.json"


class World:
    """A namespace and the helm that works in it; `said` is what helm was told."""

    namespace = "sdp"

    def __init__(self):
        self.found: dict[str, Release] = {}
        self.claims: list[dict] = []
        self.said: list[tuple] = []
        self.refusal: Exception | None = None

    def releases(self):
        return dict(self.found)

    def claim(self, name):
        return next((each for each in self.claims if each["metadata"]["name"] == name), None)

    def forget(self, release):
        self.said.append(("forget", release.name))
        del self.found[release.name]

    def wait_until_gone(self, name):
        self.said.append(("wait", name))

    def objects(self, release=None):
        if self.refusal:
            raise self.refusal
        entry = json.loads(BUFFER.read_text())
        return Objects(datetime.fromisoformat(entry["now"]), claims=entry["claims"])

    def upgrade(self, name, chart, values, labels):
        self.said.append(("upgrade", name, chart.name, values))
        if self.refusal:
            raise self.refusal
        self.found[name] = Release(name, 1, "deployed", f"secret-{name}", dict(labels))

    def uninstall(self, name):
        self.said.append(("uninstall", name))
        self.found.pop(name, None)

    def add(self, name, status="deployed", **labels):
        self.found[name] = Release(name, 1, status, f"secret-{name}", labels)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def config():
    return Config(MemoryBackend())


@pytest.fixture
def deployer(world, tmp_path, config):
    for chart in ("buffer", "dask-ee", "workflow"):
        (tmp_path / chart).mkdir()
        (tmp_path / chart / "Chart.yaml").touch()
    defaults = {"buffer": {"class": "fast"}}
    return HelmDeployer(world, world, tmp_path, defaults, config, "Test.control")


def deployment(deploy_id, chart="buffer", **values):
    return Deployment(id=deploy_id, type="helm", args={"chart": chart, "values": values})


def ours(chart="buffer"):
    return {MARK: OWNER, CHART: chart}


def test_defaults_are_below_the_values_of_an_entry(deployer, world):
    deployer.install(deployment("bound", size="1Gi"))
    assert world.said == [("upgrade", "bound", "buffer", {"class": "fast", "size": "1Gi"})]


def test_what_is_as_it_should_be_is_not_touched(deployer, world):
    wanted = deployment("bound", size="1Gi")
    deployer.install(wanted)
    assert deployer.is_current(wanted)
    assert not deployer.is_current(deployment("bound", size="2Gi"))
    world.said.clear()
    deployer.install(wanted)
    assert world.said == []


def test_what_runs_is_known_after_a_restart(deployer, world):
    deployer.install(deployment("proc-PB-a", "workflow", pb_id="PB-a"))
    name = release_name("proc-PB-a")
    world.add("proc-b", **ours("dask-ee"))
    world.add("buff-of-nobody", **ours())
    world.add("stranger", **{MARK: "elsewhere"})
    assert deployer.recover({"proc-PB-a"}) == {"proc-PB-a", "proc-b"}
    assert deployer.is_current(deployment("proc-PB-a", "workflow", pb_id="PB-a"))
    assert deployer.recover(set()) == {name, "proc-b"}


def test_releases_of_others_are_left_alone(deployer, world):
    world.add("bound")
    with pytest.raises(ControlError, match="somebody else has a Helm release of this name"):
        deployer.install(deployment("bound"))
    deployer.remove("bound")
    assert world.said == []


def test_a_claim_of_somebody_else_is_used_and_not_removed(deployer, world):
    world.claims = [{"metadata": {"name": "bound"}}]
    deployer.install(deployment("bound"))
    state = deployer.state(deployment("bound"), None)
    assert (state.status, state.path) == ("RUNNING", "/buffer/bound")
    assert state.to_object()["adopted"] is True
    deployer.remove("bound")
    assert world.said == []


@pytest.mark.parametrize("labels", [ours(), {MARK: "elsewhere", CHART: "buffer"}])
def test_a_buffer_of_earlier_is_used_as_it_is(deployer, world, config, labels):
    world.claims = [{"metadata": {"name": "bound"}}]
    world.add("bound", **labels, **{FINGERPRINT: "of another size"})
    wanted = deployment("bound", size="2Gi")
    for txn in config.txn():
        txn.create_deployment(wanted)
    for _ in range(2):  # and again after a restart
        deployer.recover({"bound"})
        deployer.install(wanted)
        state = deployer.state(wanted, None)
        assert state.adopted
        for txn in config.txn():
            txn.set_deployment_state("bound", state)
    deployer.remove("bound")
    is_ours = labels[MARK] == OWNER
    assert world.said == [("uninstall", "bound"), ("wait", "bound")] * is_ours


def test_a_buffer_of_its_own_may_be_changed_also_after_a_restart(deployer, world, config):
    wanted = deployment("bound", size="1Gi")
    for txn in config.txn():
        txn.create_deployment(wanted)
    deployer.install(wanted)
    state = deployer.state(wanted, None)
    assert "adopted" not in state.to_object()
    for txn in config.txn():
        txn.set_deployment_state("bound", state)
    world.claims = [{"metadata": {"name": "bound"}}]
    deployer.recover({"bound"})
    assert deployer.is_current(wanted)
    deployer.install(deployment("bound", size="2Gi"))
    assert [said[3]["size"] for said in world.said] == ["1Gi", "2Gi"]


def test_a_volume_that_is_going_is_waited_for(deployer, world):
    world.claims = [{"metadata": {"name": "bound", "deletionTimestamp": "2026-11-21T16:00:00Z"}}]
    with pytest.raises(PassingFailure, match="claim bound: is being deleted"):
        deployer.install(deployment("bound"))


@pytest.mark.parametrize(
    ("status", "before"),
    [
        ("pending-install", [("forget", "bound")]),
        ("pending-upgrade", [("forget", "bound")]),
        ("uninstalling", [("uninstall", "bound"), ("wait", "bound")]),
        ("failed", []),
    ],
)
def test_what_was_cut_off_is_done_again(deployer, world, status, before):
    world.add("bound", status, **ours())
    deployer.install(deployment("bound"))
    assert world.said == [*before, ("upgrade", "bound", "buffer", {"class": "fast"})]
    assert world.found["bound"].labels[FINGERPRINT]


def test_what_is_refused_leaves_nothing_and_what_may_pass_is_kept(deployer, world):
    for refusal, after in ((ControlError("no"), ["uninstall"]), (PassingFailure("later"), [])):
        world.refusal = refusal
        with pytest.raises(type(refusal)):
            deployer.install(deployment("bound"))
        assert [said[0] for said in world.said] == ["upgrade", *after]
        world.said.clear()


def test_charts_have_aliases_and_unknown_ones_are_refused(deployer, world):
    deployer.install(deployment("a", "dask"))
    assert world.said[0][:3] == ("upgrade", "a", "dask-ee")
    with pytest.raises(ControlError, match="'x/y' is unknown here; there are buffer, dask-ee, wo"):
        deployer.install(deployment("a", "x/y"))


@pytest.mark.parametrize("refusal", [PassingFailure("no answer"), ControlError("403: forbidden")])
def test_states_stay_while_the_cluster_is_away(deployer, world, refusal, caplog, monkeypatch):
    monkeypatch.setattr("batch_imaging.control.deployer.helm.deployer.LOOK_AGAIN_S", 0.0)
    wanted, written = deployment("bound"), DeploymentState(status="RUNNING")
    deployer.install(wanted)
    world.refusal = refusal
    assert deployer.state(wanted, written) is written
    state = deployer.state(wanted, None)
    assert (state.status, state.reason) == ("PENDING", f"its state is not known: {refusal}")
    assert caplog.text.count(str(refusal)) == 1


def test_a_removal_is_waited_for_until_it_is_done(deployer, world, monkeypatch):
    deployer.install(deployment("bound"))

    def never(name):
        raise PassingFailure(name)

    with monkeypatch.context() as patch:
        patch.setattr(world, "wait_until_gone", never)
        for _ in range(2):
            with pytest.raises(PassingFailure):
                deployer.remove("bound")
    deployer.remove("bound")
    assert [said[0] for said in world.said] == ["upgrade", "uninstall", "wait"]


def test_a_folder_without_charts_is_refused(world, tmp_path):
    with pytest.raises(ControlError, match="has no charts; set BATCH_IMAGING_CHARTS"):
        HelmDeployer(world, world, tmp_path, {}, Config(MemoryBackend()), "sdp")


def test_objects_are_those_of_the_release(world):
    objects = world.objects()
    assert objects.of("bound").count == 1
    assert replace(objects, claims=[]).of("bound").count == objects.of("other").count == 0
