"""What commands leave in the database, and what is shown of it."""

import json
import logging

import pytest

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import (
    ProcessingBlockState,
    SchedulingStatus,
    Status,
    Subarray,
)
from batch_imaging.control.devices.commands import Refused, record_command
from batch_imaging.control.devices.observation import observe
from batch_imaging.control.devices.states import NotAllowed, ObsState
from batch_imaging.control.devices.validation import InvalidArgument

SBI = "sbi-1"


def assignment(workflow="test_realtime", sbi_id=SBI, target="pb-0", **members):
    return json.dumps(
        {
            "id": sbi_id,
            "max_length": 10,
            "scan_types": [{"id": "a"}, {"id": "b"}],
            "processing_blocks": [
                {
                    "id": "pb-0",
                    "workflow": {"type": "realtime", "id": workflow, "version": "1"},
                    "parameters": {},
                },
                {
                    "id": "pb-1",
                    "workflow": {"type": "batch", "id": "test_batch", "version": "1"},
                    "parameters": {},
                    "dependencies": [{"pb_id": target, "type": ["none"]}],
                },
            ],
        }
        | members
    )


class Played:
    """A subarray in a database of its own, ON."""

    def __init__(self):
        self.config = Config("memory")
        for txn in self.config.txn():
            txn.create_subarray("01", Subarray())
        self.do("On")

    def do(self, name, argument=""):
        log = logging.LoggerAdapter(logging.getLogger("batch_imaging"), {})
        for txn in self.config.txn():
            record_command(txn, "01", name, argument, f"txn-{name}", log)
        return self

    def read(self, path):
        for txn in self.config.txn():
            entry = txn.raw.get(path)
        return entry

    @property
    def shown(self):
        with self.config.follow() as follower:
            return observe(follower.view, "01")

    def set_state(self, **state):
        for txn in self.config.txn():
            write = (
                txn.update_processing_block_state
                if txn.get_processing_block_state("pb-0")
                else txn.create_processing_block_state
            )
            write("pb-0", ProcessingBlockState(**state))

    def announce(self):
        """Do what a receive workflow does."""
        for txn in self.config.txn():
            block = txn.get_scheduling_block(SBI)
            txn.update_scheduling_block(block.model_copy(update={"pb_receive_addresses": "pb-0"}))
        self.set_state(status=Status.RUNNING, receive_addresses={"a": {"host": [[0, "h"]]}})


@pytest.fixture
def subarray():
    return Played()


@pytest.fixture
def assigned(subarray):
    return subarray.do("AssignResources", assignment())


def test_subarray_entry_has_what_the_original_writes(subarray):
    assert subarray.read("/subarray/01") == {
        "last_command": "On",
        "obs_state_target": "EMPTY",
        "sbi_id": None,
        "state": "ON",
        "transaction_id": "txn-On",
    }


def test_assign_resources_records_all(assigned):
    assert assigned.read("/subarray/01")["sbi_id"] == SBI
    block = assigned.read(f"/sb/{SBI}")
    assert (block["status"], block["subarray_id"], block["max_length"]) == ("ACTIVE", "01", 10)
    assert (block["pb_realtime"], block["pb_batch"]) == (["pb-0"], ["pb-1"])
    assert assigned.read("/pb/pb-1") == {
        "id": "pb-1",
        "sbi_id": SBI,
        "workflow": {"type": "batch", "id": "test_batch", "version": "1"},
        "parameters": {},
        "dependencies": [{"pb_id": "pb-0", "type": ["none"]}],
    }
    assert assigned.read("/pb/pb-0/state") is None


def test_without_receive_workflow_it_is_idle_at_once(assigned):
    assert assigned.shown.obs_state == ObsState.IDLE
    assert assigned.shown.receive_addresses is None


def test_with_receive_workflow_it_is_idle_when_the_addresses_are_there(subarray):
    subarray.do("AssignResources", assignment("test_receive_addresses"))
    assert subarray.shown.obs_state == ObsState.RESOURCING
    with pytest.raises(NotAllowed, match="ReleaseResources not allowed when obsState is RESOURC"):
        subarray.do("ReleaseResources")
    subarray.set_state(status=Status.RUNNING)
    assert subarray.shown.obs_state == ObsState.RESOURCING
    subarray.announce()
    assert subarray.shown.obs_state == ObsState.IDLE
    assert subarray.shown.receive_addresses == {"a": {"host": [[0, "h"]]}}


def test_receive_workflow_that_failed_leaves_a_fault_with_a_way_out(subarray):
    subarray.do("AssignResources", assignment("test_receive_addresses"))
    subarray.set_state(status=Status.FAILED, reason="no")
    assert subarray.shown.obs_state == ObsState.FAULT
    assert subarray.do("Restart").shown.obs_state == ObsState.EMPTY


def test_observing(assigned):
    assigned.do("Configure", '{"scan_type": "c", "new_scan_types": [{"id": "c"}]}')
    assert (assigned.shown.obs_state, assigned.shown.scan_type) == (ObsState.READY, "c")
    assert [each["id"] for each in assigned.read(f"/sb/{SBI}")["scan_types"]] == ["a", "b", "c"]
    assigned.do("Scan", '{"id": 4}')
    assert (assigned.shown.obs_state, assigned.shown.scan_id) == (ObsState.SCANNING, 4)
    assigned.do("EndScan")
    assert (assigned.shown.obs_state, assigned.shown.scan_id) == (ObsState.READY, None)
    assigned.do("End")
    assert (assigned.shown.obs_state, assigned.shown.scan_type) == (ObsState.IDLE, None)
    assigned.do("Configure", '{"scan_type": "a"}').do("Scan", '{"id": 5}').do("Abort")
    assert (assigned.shown.obs_state, assigned.shown.scan_id) == (ObsState.ABORTED, 5)
    assigned.do("ObsReset")
    assert (assigned.shown.obs_state, assigned.shown.scan_id) == (ObsState.IDLE, None)
    assert assigned.read(f"/sb/{SBI}")["status"] == "ACTIVE"


@pytest.mark.parametrize(
    ("commands", "status", "state"),
    [
        (["ReleaseResources"], "FINISHED", "ON"),
        (["Off"], "CANCELLED", "OFF"),
        (["Abort", "Restart"], "CANCELLED", "ON"),
    ],
)
def test_ways_to_let_go(assigned, commands, status, state):
    for command in commands:
        assigned.do(command)
    assert assigned.shown.state == state
    assert assigned.shown.obs_state == ObsState.EMPTY
    assert assigned.read("/subarray/01")["sbi_id"] is None
    block = assigned.read(f"/sb/{SBI}")
    assert (block["status"], block["subarray_id"]) == (status, None)
    assert (block["current_scan_type"], block["scan_id"]) == (None, None)


def test_release_leaves_a_cancelled_scheduling_block_cancelled(assigned):
    for txn in assigned.config.txn():
        block = txn.get_scheduling_block(SBI)
        update = {"status": SchedulingStatus.CANCELLED}
        txn.update_scheduling_block(block.model_copy(update=update))
    assert assigned.do("ReleaseResources").read(f"/sb/{SBI}")["status"] == "CANCELLED"


def test_ids_are_not_used_again(assigned):
    assigned.do("ReleaseResources")
    with pytest.raises(Refused) as refusal:
        assigned.do("AssignResources", assignment(sbi_id="sbi-2"))
    words = "Duplicate SBI ID or PB ID in configuration: pb-0, pb-1 in the database already"
    assert str(refusal.value).startswith(words)
    assert assigned.read("/sb/sbi-2") is None
    assert assigned.shown.obs_state == ObsState.EMPTY


def test_unknown_dependency_is_refused_and_nothing_written(subarray):
    with pytest.raises(InvalidArgument, match='pb_id = "pb-x": there is no such block'):
        subarray.do("AssignResources", assignment(target="pb-x"))
    assert subarray.read(f"/sb/{SBI}") is None
    assert subarray.read("/pb/pb-0") is None


def test_dependency_may_be_in_the_database(subarray):
    subarray.do("AssignResources", assignment()).do("ReleaseResources")
    argument = assignment(sbi_id="sbi-2", target="pb-1").replace('"id": "pb-', '"id": "other-')
    subarray.do("AssignResources", argument)
    assert subarray.read("/pb/other-1")["dependencies"][0]["pb_id"] == "pb-1"


def test_state_is_refused_before_the_argument(assigned):
    with pytest.raises(NotAllowed, match="AssignResources not allowed when obsState is IDLE"):
        assigned.do("AssignResources", "not JSON")


def test_vanished_scheduling_block_has_a_way_out(assigned):
    for txn in assigned.config.txn():
        txn.raw.delete(f"/sb/{SBI}")
    with pytest.raises(Refused, match="sbi-1: is not in the database any more; Off"):
        assigned.do("Configure", '{"scan_type": "a"}')
    assert assigned.do("Off").do("On").shown.obs_state == ObsState.EMPTY


def test_original_entry_without_our_members_is_understood(subarray):
    for txn in subarray.config.txn():
        txn.raw.update(
            "/subarray/01",
            {"last_command": None, "obs_state_target": "EMPTY", "sbi_id": None, "state": "OFF"},
        )
    assert subarray.shown.state == "OFF"


def test_no_entry_shows_nothing():
    with Config("memory") as config, config.follow() as follower:
        assert observe(follower.view, "01") is None


@pytest.mark.parametrize("command", ["Off", "Restart"])
def test_a_malformed_scheduling_block_does_not_keep_a_subarray(assigned, caplog, command):
    for txn in assigned.config.txn():
        txn.raw.update(f"/sb/{SBI}", {"status": "odd"})
    if command == "Restart":
        assigned.do("Abort")
    assigned.do(command)
    subarray = assigned.read("/subarray/01")
    assert (subarray["sbi_id"], subarray["last_command"]) == (None, command)
    assert assigned.read(f"/sb/{SBI}") == {"status": "odd"}
    assert f"/sb/{SBI}: is not a SchedulingBlock" in caplog.text


@pytest.mark.parametrize("path", ["/pb/pb-0", "/pb/pb-0/state"])
def test_nor_does_a_malformed_processing_block(subarray, path):
    subarray.do("AssignResources", assignment("test_receive_addresses"))
    subarray.set_state(status=Status.RUNNING)
    for txn in subarray.config.txn():
        txn.raw.update(path, {"status": "odd"})
    subarray.do("Off")
    assert subarray.read(f"/sb/{SBI}")["status"] == "CANCELLED"
