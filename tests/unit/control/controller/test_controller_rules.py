"""What the controller makes of the database, rule by rule."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_imaging import __version__
from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import WorkflowDefinition, WorkflowName
from batch_imaging.control.controller.actions import apply
from batch_imaging.control.controller.definitions import Definitions
from batch_imaging.control.controller.resources import Capacity
from batch_imaging.control.controller.rules import decide
from batch_imaging.control.controller.service import Controller
from batch_imaging.control.leader import Leader

GI = 2**30


class TestStart:
    def test_deployment_and_state_are_as_the_prototype_writes_them(self, room, monkeypatch):
        monkeypatch.setenv("SDP_CONFIG_HOST", "etcd.sdp")
        room.arrive("pb-a", sbi_id="sbi-a")
        room.settle()
        assert room.deployment("proc-pb-a-workflow") == {
            "id": "proc-pb-a-workflow",
            "type": "helm",
            "args": {
                "chart": "workflow",
                "values": {
                    "env.SDP_CONFIG_HOST": "etcd.sdp",
                    "env.SDP_HELM_NAMESPACE": "sdp",
                    "wf_image": f"batch-imaging:{__version__}",
                    "pb_id": "pb-a",
                    "sbi_id": "sbi-a",
                },
            },
        }
        assert room.state("pb-a") == {"resources_available": False, "status": "STARTING"}

    def test_the_script_is_told_what_is_not_the_default(self, room, monkeypatch):
        monkeypatch.setenv("SDP_CONFIG_PORT", "4001")
        monkeypatch.setenv("SDP_CONFIG_PROTOCOL", "https")
        monkeypatch.setenv("SDP_CONFIG_PREFIX", "/x")
        room.arrive("pb-a")
        room.settle()
        values = room.deployment("proc-pb-a-workflow")["args"]["values"]
        assert values["env.SDP_CONFIG_PORT"] == "4001"
        assert values["env.SDP_CONFIG_PROTOCOL"] == "https"
        assert values["env.SDP_CONFIG_PREFIX"] == "/x"

    def test_an_unknown_workflow_fails_and_the_known_are_named(self, room):
        room.arrive("pb-a", workflow=WorkflowName(type="batch", id="unknown", version="2"))
        room.settle()
        state = room.state("pb-a")
        assert state.keys() == {"status", "reason"}
        assert state["status"] == "FAILED"
        assert "batch:unknown:2" in state["reason"]
        assert "batch:batch_imaging (any version)" in state["reason"]
        assert room.deployment("proc-pb-a-workflow") is None

    def test_it_waits_for_definitions_that_could_not_be_read_yet(self, room):
        name = WorkflowName(type="batch", id="other", version="2")
        room.definitions = Definitions(are_read=False)
        room.arrive("pb-a", workflow=name)
        room.settle()
        assert room.state("pb-a") is None
        room.definitions = Definitions({str(name): "there/other:2"})
        room.settle()
        assert room.state("pb-a")["status"] == "STARTING"

    def test_the_database_wins_over_the_file_and_that_over_our_own(self, room):
        names = [WorkflowName(type="batch", id="batch_imaging", version=str(i)) for i in range(3)]
        room.definitions = Definitions({str(names[0]): "file:0", str(names[1]): "file:1"})
        for txn in room.config.txn():
            txn.set_workflow(names[0], WorkflowDefinition(image="entry:0"))
        for name in names:
            room.arrive(f"pb-{name.version}", workflow=name)
        room.settle()
        assert [
            room.deployment(f"proc-pb-{i}-workflow")["args"]["values"]["wf_image"] for i in range(3)
        ] == ["entry:0", "file:1", f"batch-imaging:{__version__}"]

    def test_malformed_entries_stop_nothing(self, room, caplog):
        for txn in room.config.txn():
            txn.raw.create("/pb/pb-bad", {"id": "pb-bad"})
            txn.raw.create("/pb/pb-odd/state", {"status": "SLEEPING"})
            txn.raw.create("/deploy/buff-bad", {"chart": 1})
            txn.raw.create("/deploy/proc-pb-bad-workflow", {"id": "proc-pb-bad-workflow"})
        room.arrive("pb-odd")
        room.arrive("pb-good")
        room.settle()
        assert room.state("pb-good")["status"] == "STARTING"
        assert room.state("pb-bad") is None
        assert room.state("pb-odd") == {"status": "SLEEPING"}
        assert room.deployment("proc-pb-bad-workflow")
        assert "/pb/pb-bad" in caplog.text


class TestDependencies:
    def test_a_block_is_released_when_all_have_finished(self, room):
        room.arrive("pb-a")
        room.arrive("pb-b")
        room.wait_with("pb-c", 0, ["pb-a", "pb-b"])
        room.settle()
        assert not room.is_released("pb-c")
        assert room.reason("pb-c") == "waits for pb-a (STARTING), pb-b (STARTING)"
        room.claim("pb-a")
        room.finish("pb-a")
        room.settle()
        assert room.reason("pb-c") == "waits for pb-b (STARTING)"
        room.claim("pb-b")
        room.finish("pb-b")
        room.settle()
        assert room.state("pb-c") == {
            "status": "WAITING",
            "resources_available": True,
            "resources": {"workers": 0, "buffers": {}},
        }

    @pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
    @pytest.mark.parametrize("is_waiting", [False, True])
    def test_it_shares_a_bad_end(self, room, status, is_waiting):
        room.arrive("pb-a")
        room.arrive("pb-b", "pb-a")
        room.arrive("pb-c", "pb-b")
        room.settle()
        if is_waiting:
            room.claim("pb-b")
            room.set("pb-b", "WAITING")
            room.settle()
        room.set("pb-a", status)
        room.settle()
        assert room.state("pb-b")["status"] == status
        assert room.reason("pb-b") == f"depends on pb-a, which is {status}"
        assert room.reason("pb-c") == f"depends on pb-b, which is {status}"

    def test_what_does_not_exist_fails_it_before_it_starts(self, room):
        room.arrive("pb-a", "pb-none")
        room.settle()
        assert room.state("pb-a") == {
            "status": "FAILED",
            "reason": "depends on pb-none, which does not exist",
        }

    def test_circles_are_named(self, room):
        for txn in room.config.txn():  # arrivals in one: none of them can be seen alone
            for pb_id, needed in (("pb-a", "pb-b"), ("pb-b", "pb-c"), ("pb-c", "pb-a")):
                entry = {"id": pb_id, "sbi_id": None, "parameters": {}}
                entry["workflow"] = {"type": "batch", "id": "batch_imaging", "version": "1"}
                entry["dependencies"] = [{"pb_id": needed, "type": ["none"]}]
                txn.raw.create(f"/pb/{pb_id}", entry)
        room.arrive("pb-d", "pb-c")
        room.settle()
        assert all(room.state(f"pb-{x}")["status"] == "FAILED" for x in "abcd")
        circles = ("a → pb-b → pb-c → pb-a", "b → pb-c → pb-a → pb-b", "c → pb-a → pb-b → pb-c")
        assert room.reason("pb-a") in {f"dependencies are circular: pb-{each}" for each in circles}

    def test_a_block_that_needs_itself_fails(self, room):
        room.arrive("pb-a", "pb-a")
        room.settle()
        assert room.reason("pb-a") == "dependencies are circular: pb-a → pb-a"

    def test_a_running_block_is_not_disturbed(self, room):
        room.arrive("pb-a")
        room.arrive("pb-b", "pb-a")
        room.settle()
        room.claim("pb-b")
        room.set("pb-b", "RUNNING", resources_available=True)
        room.delete("/pb/pb-a")
        room.settle()
        assert room.state("pb-b")["status"] == "RUNNING"


def test_a_cancelled_scheduling_block_cancels_its_blocks(room):
    room.schedule("sbi-1")
    room.arrive("pb-a", sbi_id="sbi-1")
    room.settle()
    room.claim("pb-a")
    room.set("pb-a", "RUNNING")
    room.arrive("pb-done", sbi_id="sbi-1")
    room.set("pb-done", "FINISHED")
    room.schedule("sbi-1", "CANCELLED")
    room.arrive("pb-late", sbi_id="sbi-1")
    room.settle()
    assert room.state("pb-a")["status"] == "CANCELLED"
    assert room.reason("pb-a") == "scheduling block sbi-1 was cancelled"
    assert room.state("pb-late")["status"] == "CANCELLED"
    assert room.deployment("proc-pb-late-workflow") is None
    assert room.state("pb-done") == {"status": "FINISHED"}


class TestResources:
    def test_who_does_not_fit_holds_up_those_behind(self, make_room):
        room = make_room(workers=4)
        for pb_id, workers in (("pb-1", 2), ("pb-2", 4), ("pb-3", 1), ("pb-4", 0)):
            room.wait_with(pb_id, workers)
        room.settle()
        assert room.is_released("pb-1")
        assert room.reason("pb-2") == "waits for 4 workers: 2 of 4 are in use by pb-1"
        assert room.reason("pb-3") == "waits behind pb-2"
        assert room.is_released("pb-4")
        room.finish("pb-1")
        room.settle()
        assert room.is_released("pb-2")
        assert room.reason("pb-2") is None
        assert room.reason("pb-3") == "waits for 1 worker: 4 of 4 are in use by pb-2"

    def test_order_is_that_of_arrival_not_of_names(self, make_room):
        room = make_room(workers=1)
        room.wait_with("pb-z", 1)
        room.wait_with("pb-a", 1)
        room.settle()
        assert room.is_released("pb-z")
        assert not room.is_released("pb-a")

    def test_who_waits_for_dependencies_is_passed(self, make_room):
        room = make_room(workers=1)
        room.arrive("pb-0")
        room.wait_with("pb-1", 1, ["pb-0"])
        room.wait_with("pb-2", 1)
        room.settle()
        assert room.is_released("pb-2")

    def test_what_can_never_be_fails_with_the_difference(self, make_room):
        room = make_room(workers=4, buffers="500Gi")
        room.wait_with("pb-1", 7)
        room.wait_with("pb-2", 1, vis=520 * GI)
        room.settle()
        assert room.state("pb-1")["status"] == "FAILED"
        assert room.reason("pb-1") == "asks for 7 workers, 3 more than there are (4)"
        assert room.reason("pb-2") == "asks for 520Gi of buffers, 20Gi more than there are (500Gi)"

    def test_buffers_stay_counted_after_the_end_once_they_are_deployed(self, make_room):
        room = make_room(buffers="10Gi")
        room.wait_with("pb-1", 0, buff_1=6 * GI)
        room.settle()
        assert room.is_released("pb-1")
        room.deploy("buff-1", "buffer", size="6Gi")
        room.finish("pb-1")
        room.wait_with("pb-2", 0, buff_2=5 * GI)
        room.wait_with("pb-3", 0, buff_1=6 * GI)
        room.settle()
        assert room.reason("pb-2") == "waits for 5Gi of buffers: 6Gi of 10Gi are in use by buff-1"
        assert room.is_released("pb-3"), "what it needs is there"
        room.delete("/deploy/buff-1")
        room.finish("pb-3")
        room.settle()
        assert room.is_released("pb-2")

    def test_a_shared_buffer_counts_once(self, make_room):
        room = make_room(buffers="10Gi")
        room.wait_with("pb-1", 0, shared=6 * GI)
        room.wait_with("pb-2", 0, shared=8 * GI)
        room.settle()
        assert room.is_released("pb-1")
        assert room.is_released("pb-2")

    def test_a_dead_script_frees_its_workers(self, make_room):
        room = make_room(workers=1)
        room.wait_with("pb-1", 1)
        room.settle()
        room.wait_with("pb-2", 1)
        room.set("pb-1", "RUNNING")
        room.disown("pb-1")
        room.settle()
        assert room.state("pb-1")["status"] == "FAILED"
        assert room.is_released("pb-2")


class TestScripts:
    @pytest.mark.parametrize("status", ["WAITING", "RUNNING"])
    def test_one_that_is_gone_fails_its_block(self, room, status):
        room.arrive("pb-a")
        room.settle()
        room.deployed("proc-pb-a-workflow", "FAILED", reason="exit code -9")
        room.set("pb-a", status)
        room.settle()
        assert room.state("pb-a")["status"] == "FAILED"
        assert room.reason("pb-a") == f"its script is gone, it was {status}: exit code -9"

    def test_one_that_died_before_it_owned_the_block_fails_it(self, room):
        room.arrive("pb-a")
        room.settle()
        room.deployed("proc-pb-a-workflow", "RUNNING")
        room.settle()
        assert room.state("pb-a")["status"] == "STARTING"
        room.deployed("proc-pb-a-workflow", "FAILED", reason="no such image")
        room.settle()
        assert (
            room.reason("pb-a") == "its script has ended before it owned the block: no such image"
        )

    def test_one_whose_deployment_was_removed_fails_its_block(self, room):
        room.arrive("pb-a")
        room.settle()
        room.delete("/deploy/proc-pb-a-workflow")
        room.settle()
        assert "was removed" in room.reason("pb-a")


class TestStartWithoutDeployer:
    """Decisions on a script that nobody has taken up for some time."""

    @staticmethod
    def decide(room, waited_s):
        room.follower.wait(0)
        actions = decide(
            room.follower.view, Definitions(), Capacity(), lambda _: False, lambda _: waited_s
        )
        for action in actions:
            assert apply(room.config, action)
        return room.state("pb-a")

    @pytest.fixture
    def starting(self, room):
        room.arrive("pb-a")
        room.settle()
        return room

    def test_at_first_it_is_only_starting(self, starting):
        assert "reason" not in self.decide(starting, 9.9)

    def test_then_it_says_what_it_waits_for(self, starting):
        state = self.decide(starting, 10.0)
        assert state["status"] == "STARTING"
        assert state["reason"] == (
            "waits for a deployer to take up proc-pb-a-workflow; does one run?"
        )
        assert self.decide(starting, 11.0) == state

    def test_in_the_end_it_fails(self, starting):
        state = self.decide(starting, 300.0)
        assert state["status"] == "FAILED"
        assert state["reason"] == (
            "no deployer has taken up proc-pb-a-workflow within 300 s; start one"
        )

    def test_not_once_a_deployer_has_taken_it_up(self, starting):
        self.decide(starting, 20.0)
        starting.deployed("proc-pb-a-workflow", "PENDING", reason="no node has room")
        assert self.decide(starting, 1000.0)["reason"] == "no node has room"
        starting.deployed("proc-pb-a-workflow", "RUNNING")
        assert "reason" not in self.decide(starting, 1000.0)

    def test_nor_once_its_script_owns_it(self, starting):
        starting.claim("pb-a")
        assert "reason" not in self.decide(starting, 1000.0)


class TestCleanUp:
    def test_engines_go_at_once_and_scripts_after_their_retention(self, make_room):
        room = make_room(retention_s=0.2)
        room.arrive("pb-a")
        room.settle()
        room.claim("pb-a")
        room.deploy("proc-pb-a-dask")
        room.deploy("buff-pb-a-vis", "buffer")
        room.set("pb-a", "FAILED", reason="broken")
        room.settle()
        assert room.deployment("proc-pb-a-dask"), "its script may still be at work"
        room.disown("pb-a")
        room.settle()
        assert room.deployment("proc-pb-a-dask") is None
        assert room.deployment("proc-pb-a-workflow")
        time.sleep(0.3)
        room.settle()
        assert room.deployment("proc-pb-a-workflow") is None
        assert room.deployment("buff-pb-a-vis")
        assert room.state("pb-a")["reason"] == "broken"

    def test_what_has_gone_is_forgotten(self, room):
        room.arrive("pb-a")
        room.settle()
        room.set("pb-a", "FINISHED")
        room.settle()
        assert list(room.controller._since_s) == ["pb-a ended"]
        room.delete("/pb/pb-a")
        room.settle()
        assert not room.controller._since_s

    @pytest.mark.parametrize("pb_id", ["pb-a-20200101-00001", "odd", "pb-a-1-3-x"])
    def test_a_deleted_block_takes_its_deployments_along(self, room, pb_id):
        room.arrive(pb_id)
        room.settle()
        room.deploy(f"proc-{pb_id}-dask")
        room.deploy("buff-x", "buffer")
        room.settle()
        assert room.deployment(f"proc-{pb_id}-workflow")
        room.delete(f"/pb/{pb_id}")
        room.settle()
        assert room.deployment(f"proc-{pb_id}-workflow") is None
        assert room.deployment(f"proc-{pb_id}-dask") is None
        assert room.deployment("buff-x")

    def test_names_of_several_words_and_siblings_are_told_apart(self, room):
        room.arrive("pb-a")
        room.arrive("pb-a-1")
        room.settle()
        room.deploy("proc-pb-a-1-my-engine")
        room.deploy("proc-lone")
        room.set("pb-a", "FINISHED")
        room.settle()
        assert room.deployment("proc-pb-a-1-my-engine")
        assert room.deployment("proc-lone")
        room.set("pb-a-1", "FINISHED")
        room.settle()
        assert room.deployment("proc-pb-a-1-my-engine") is None


class TestTwoControllers:
    def test_an_action_is_done_once(self, room):
        room.arrive("pb-a")
        room.follower.wait(0)
        (action,) = decide(
            room.follower.view, Definitions(), Capacity(), lambda _: False, lambda _: 0.0
        )
        other = Config(room.backend, "")
        assert apply(room.config, action)
        assert not apply(other, action)

    def test_an_owner_that_came_meanwhile_saves_its_block(self, room):
        room.arrive("pb-a")
        room.settle()
        room.deployed("proc-pb-a-workflow", "FAILED")
        room.follower.wait(0)
        (action,) = decide(
            room.follower.view, Definitions(), Capacity(), lambda _: False, lambda _: 0.0
        )
        room.claim("pb-a")
        assert not apply(room.config, action)
        assert room.state("pb-a")["status"] == "STARTING"

    def test_the_one_that_stands_by_does_nothing_until_it_leads(self, make_room):
        room = make_room()
        room.settle()
        config = Config(room.backend, "")
        leader = Leader(config, "processing-controller")
        other = Controller(config, leader, Capacity(), 3600)
        room.arrive("pb-a")
        with config.follow() as follower:
            other.step(follower.view, Definitions())
            assert room.state("pb-a") is None
            room.leader.resign()
            for _ in range(3):
                follower.wait(0)
                other.step(follower.view, Definitions())
        assert room.state("pb-a")["status"] == "STARTING"
        room.arrive("pb-b")
        room.controller.step(room.follower.view, Definitions())  # it has an old view
        assert room.state("pb-b") is None


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 4),
    needs=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    choices=st.lists(st.integers(0, 20), max_size=30),
)
def test_never_more_workers_than_there_are_and_in_order_of_arrival(
    make_room, capacity, needs, choices
):
    """Scripts arrive and finish in any order; in the end all that can run have run."""
    room = make_room(workers=capacity)
    needs = dict(enumerate(needs))
    arriving, waiting, released, order = list(needs), [], [], []
    for choice in [*choices, *[0] * 20]:
        if arriving and choice % 2 == 0:
            number = arriving.pop(0)
            room.wait_with(f"pb-{number}", needs[number])
            waiting.append(number)
        elif released:
            room.finish(f"pb-{released.pop(choice % len(released))}")
        room.settle()
        for number in tuple(waiting):
            if room.state(f"pb-{number}")["status"] == "FAILED":
                assert needs[number] > capacity
                waiting.remove(number)
            elif room.is_released(f"pb-{number}"):
                waiting.remove(number)
                released.append(number)
                order.append(number)
        assert sum(needs[number] for number in released) <= capacity
    in_need = [number for number in order if needs[number]]
    assert in_need == sorted(in_need)
    assert not waiting


def test_500_finished_blocks_cost_little(room):
    for number in range(500):
        room.arrive(f"pb-{number}")
        room.set(f"pb-{number}", "FINISHED")
        room.deploy(f"proc-pb-{number}-workflow", "workflow")
    room.follower.wait(0)
    decide(room.follower.view, Definitions(), Capacity(), lambda _: False, lambda _: 0.0)
    begun = time.process_time()
    for _ in range(20):
        assert not decide(
            room.follower.view, Definitions(), Capacity(), lambda _: False, lambda _: 0.0
        )
    assert (time.process_time() - begun) / 20 < 0.1, "a decision takes some 5 ms"
