"""The processing script as a process, on a real etcd; the test plays the processing controller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import (
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    SchedulingStatus,
    Status,
)
from batch_imaging.errors import Cancelled, ControlError
from batch_imaging.workflow.placeholders import receive_addresses

pytestmark = pytest.mark.integration

SBI_ID = "sbi-test-20200523-00000"
DEADLINE_S = 30
EXIT = {"cancelled": Cancelled.exit_code, "control": ControlError.exit_code}
SCAN_TYPES = [
    {
        "id": "science",
        "channels": [{"count": 4, "start": 0, "stride": 1}, {"count": 4, "start": 100}],
    }
]


def create_block(config: Config, workflow_id: str, pb_id: str = "pb-test-20200523-00000") -> str:
    block = ProcessingBlock.model_validate(
        {
            "id": pb_id,
            "sbi_id": SBI_ID,
            "workflow": {"type": "realtime", "id": workflow_id, "version": "0.1.0"},
        }
    )
    for txn in config.txn():
        if txn.get_scheduling_block(SBI_ID) is None:
            txn.create_scheduling_block(SchedulingBlock(id=SBI_ID, scan_types=SCAN_TYPES))
        txn.create_processing_block(block)
        txn.create_processing_block_state(pb_id, ProcessingBlockState(status=Status.STARTING))
    return pb_id


def end_scheduling_block(config: Config, status: SchedulingStatus) -> None:
    for txn in config.txn():
        block = txn.get_scheduling_block(SBI_ID)
        txn.update_scheduling_block(block.model_copy(update={"status": status}))


def change_state(config: Config, pb_id: str, **members) -> None:
    for txn in config.txn():
        state = txn.get_processing_block_state(pb_id)
        txn.update_processing_block_state(pb_id, state.model_copy(update=members))


def wait_for(config: Config, pb_id: str, status: Status) -> ProcessingBlockState:
    deadline = time.monotonic() + DEADLINE_S
    state = None
    for txn in config.txn():
        state = txn.get_processing_block_state(pb_id)
        if state.status != status:
            assert time.monotonic() < deadline, f"still {state}"
            txn.loop(wait=True, timeout=1.0)
    return state


class Scripts:
    """Starts scripts and ends those that a test leaves behind."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.running: list[subprocess.Popen] = []

    def start(self, pb_id: str) -> subprocess.Popen:
        script = subprocess.Popen(
            [sys.executable, "-m", "batch_imaging", "workflow", pb_id],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(script)
        return script


@pytest.fixture
def scripts(etcd, config_prefix) -> Iterator[Scripts]:
    scripts = Scripts(etcd.environment(config_prefix))
    yield scripts
    for script in scripts.running:
        script.kill()
        script.communicate()


def owner_of(config: Config, pb_id: str):
    with config.follow() as follower:
        return follower.view.get_processing_block_owner(pb_id)


def test_a_realtime_block_runs_until_its_scheduling_block_is_finished(config, scripts):
    pb_id = create_block(config, "test_realtime")
    script = scripts.start(pb_id)
    wait_for(config, pb_id, Status.WAITING)
    assert owner_of(config, pb_id).pid == script.pid
    change_state(config, pb_id, resources_available=True)
    wait_for(config, pb_id, Status.RUNNING)
    end_scheduling_block(config, SchedulingStatus.FINISHED)
    output, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 0
    assert output.splitlines() == [
        f"INFO:batch_imaging:Claimed processing block {pb_id}",
        "INFO:batch_imaging:Waiting for resources to be available",
        "INFO:batch_imaging:Resources are available",
    ]
    assert wait_for(config, pb_id, Status.FINISHED).reason is None
    assert owner_of(config, pb_id) is None


def test_receive_addresses_are_published(config, scripts):
    pb_id = create_block(config, "test_receive_addresses")
    script = scripts.start(pb_id)
    wait_for(config, pb_id, Status.WAITING)
    change_state(config, pb_id, resources_available=True)
    wait_for(config, pb_id, Status.RUNNING)
    for txn in config.txn():
        if txn.get_scheduling_block(SBI_ID).pb_receive_addresses is None:
            txn.loop(wait=True, timeout=DEADLINE_S)
    state = wait_for(config, pb_id, Status.RUNNING)
    assert state.receive_addresses == {
        "science": {
            "host": [[0, "127.0.0.1"], [100, "127.0.0.1"]],
            "port": [[0, 9000, 1], [100, 9000, 1]],
        }
    }
    end_scheduling_block(config, SchedulingStatus.FINISHED)
    script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 0


def test_addresses_of_a_scan_type_without_channels_are_empty():
    block = SchedulingBlock(id="sbi", scan_types=[{"id": "science"}])
    assert receive_addresses(block) == {"science": {"host": [], "port": []}}


@pytest.mark.parametrize("how", ["state", "scheduling block", "signal", "deleted", "owner"])
def test_what_ends_a_block_from_outside(config, scripts, how):
    pb_id = create_block(config, "test_realtime")
    script = scripts.start(pb_id)
    wait_for(config, pb_id, Status.WAITING)
    change_state(config, pb_id, resources_available=True)
    wait_for(config, pb_id, Status.RUNNING)
    if how == "state":
        change_state(config, pb_id, status=Status.CANCELLED, reason="not wanted")
    elif how == "scheduling block":
        end_scheduling_block(config, SchedulingStatus.CANCELLED)
    elif how == "signal":
        script.terminate()
    else:
        for txn in config.txn():
            if how == "deleted":
                txn.delete_processing_block(pb_id)
            else:
                txn.raw.delete(f"/pb/{pb_id}/owner")
    output, _ = script.communicate(timeout=DEADLINE_S)
    with config.follow() as follower:
        state = follower.view.get_processing_block_state(pb_id)
    if how == "owner":
        assert script.returncode == EXIT["control"]
        assert "its owner is nobody" in output
        assert state.status == Status.RUNNING  # the processing controller will say that it FAILED
        return
    assert script.returncode == EXIT["cancelled"], output
    expected = {
        "state": "not wanted",
        "scheduling block": f"{pb_id}: scheduling block {SBI_ID} was cancelled",
        "signal": f"{pb_id}: stopped by SIGTERM",
    }
    if how == "deleted":
        assert state is None
        assert "was deleted" in output
    else:
        assert state.status == Status.CANCELLED
        assert state.reason == expected[how]


def test_an_unknown_workflow_fails_with_the_reason(config, scripts):
    pb_id = create_block(config, "pss_search")
    script = scripts.start(pb_id)
    output, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 2
    reason = wait_for(config, pb_id, Status.FAILED).reason
    assert "realtime:pss_search:0.1.0" in reason
    assert "batch_imaging, test_realtime" in reason
    assert f"error: {reason}" in output


def test_bad_parameters_fail_with_all_mistakes(config, scripts):
    pb_id = create_block(config, "batch_imaging")
    for txn in config.txn():
        block = txn.get_processing_block(pb_id)
        bad = {"nfreqwin": 0, "n_workres": 3}
        txn.raw.update(f"/pb/{pb_id}", block.model_copy(update={"parameters": bad}).to_object())
    script = scripts.start(pb_id)
    script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 2
    reason = wait_for(config, pb_id, Status.FAILED).reason
    assert "nfreqwin" in reason
    assert "n_workres" in reason


def test_a_block_is_claimed_once(config, scripts):
    pb_id = create_block(config, "test_realtime")
    racers = [scripts.start(pb_id) for _ in range(3)]
    wait_for(config, pb_id, Status.WAITING)
    deadline = time.monotonic() + DEADLINE_S
    while sum(racer.poll() is None for racer in racers) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    winner = owner_of(config, pb_id).pid
    for racer in racers:
        if racer.pid == winner:
            racer.terminate()
            racer.communicate(timeout=DEADLINE_S)
        else:
            output, _ = racer.communicate(timeout=DEADLINE_S)
            assert racer.returncode == EXIT["control"]
            assert f"/pb/{pb_id}/owner: exists already" in output


def test_no_such_block(scripts):
    script = scripts.start("pb-none")
    output, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == EXIT["control"]
    assert "there is no such processing block" in output


def test_an_ended_block_is_not_claimed(config, scripts):
    pb_id = create_block(config, "test_realtime")
    change_state(config, pb_id, status=Status.FINISHED)
    script = scripts.start(pb_id)
    output, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == EXIT["control"]
    assert "is FINISHED already" in output
    assert owner_of(config, pb_id) is None


def test_a_second_signal_does_not_keep_a_script_from_cleaning_up(config, scripts):
    pb_id = create_block(config, "test_realtime")
    script = scripts.start(pb_id)
    wait_for(config, pb_id, Status.WAITING)
    os.kill(script.pid, signal.SIGTERM)
    os.kill(script.pid, signal.SIGINT)
    script.communicate(timeout=DEADLINE_S)
    assert wait_for(config, pb_id, Status.CANCELLED).reason
