"""The controller as a process on a real etcd."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import (
    Dependency,
    ProcessingBlock,
    ProcessingBlockState,
    Status,
    WorkflowName,
)

pytestmark = pytest.mark.integration

IMAGING = WorkflowName(type="batch", id="batch_imaging", version="1.0")


@contextmanager
def controllers(folder, environment, *options, n=1):
    """Run controllers; yield their processes and logs."""
    command = [sys.executable, "-m", "batch_imaging", "controller", *options]
    logs = [folder / f"controller-{number}.log" for number in range(n)]
    processes = []
    try:
        for path in logs:
            with path.open("wb") as log:
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
                )
        yield processes, logs
    finally:
        for each in processes:
            each.terminate()
        for each in processes:
            each.wait(30)


def wait_until(is_so, what, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


def add_block(config: Config, pb_id: str, *needs: str, status: Status | None = None) -> None:
    dependencies = [Dependency(pb_id=each) for each in needs]
    for txn in config.txn():
        txn.create_processing_block(
            ProcessingBlock(id=pb_id, sbi_id=None, workflow=IMAGING, dependencies=dependencies)
        )
        if status:
            txn.create_processing_block_state(pb_id, ProcessingBlockState(status=status))


def set_status(config: Config, pb_id: str, status: Status) -> None:
    for txn in config.txn():
        state = txn.get_processing_block_state(pb_id)
        txn.update_processing_block_state(pb_id, state.model_copy(update={"status": status}))


def state_of(config: Config, pb_id: str) -> ProcessingBlockState | None:
    for txn in config.txn():
        state = txn.get_processing_block_state(pb_id)
    return state


def has_status(config: Config, pb_id: str, status: Status):
    def is_so() -> bool:
        state = state_of(config, pb_id)
        return state is not None and state.status == status

    return is_so


def test_500_finished_blocks_and_50_new_ones(etcd, config, config_prefix, tmp_path):
    """The prototype's controller ended at the 42nd block, finished or not."""
    for number in range(500):
        add_block(config, f"pb-old-{number}", status=Status.FINISHED)
    with controllers(tmp_path, etcd.environment(config_prefix)) as (_, (log,)):
        for number in range(50):
            add_block(config, f"pb-new-{number}", f"pb-old-{number}")
        wait_until(has_status(config, "pb-new-49", Status.STARTING), "STARTING")
        for txn in config.txn():
            assert len(txn.list_deployments()) == 50
        for txn in config.txn():
            txn.take_processing_block("pb-new-7", config.client_lease)
        set_status(config, "pb-new-7", Status.WAITING)
        wait_until(lambda: state_of(config, "pb-new-7").resources_available, "the release")
    assert "WARNING" not in log.read_text()


def test_another_takes_over_when_one_is_killed(etcd, config, config_prefix, tmp_path):
    def log_with(text: str) -> list[int]:
        return [number for number, log in enumerate(logs) if text in log.read_text()]

    with controllers(tmp_path, etcd.environment(config_prefix), n=2) as (processes, logs):
        wait_until(lambda: log_with("leads") and log_with("stands by"), "a leader")
        (leader,) = log_with("leads")
        add_block(config, "pb-1")
        wait_until(has_status(config, "pb-1", Status.STARTING), "STARTING")
        processes[leader].kill()
        processes[leader].wait(30)
        add_block(config, "pb-2")
        wait_until(has_status(config, "pb-2", Status.STARTING), "STARTING from the other")
        assert log_with("pb-2: starts") == [1 - leader]


def test_it_outlives_an_etcd_that_is_away(etcd_server, tmp_path):
    """While etcd is away, the retention of a deployment ends: there is something to be done."""
    with (
        controllers(tmp_path, etcd_server.environment(), "--retention", "1") as (
            (controller,),
            (log,),
        ),
        etcd_server.config() as config,
    ):
        add_block(config, "pb-1")
        wait_until(has_status(config, "pb-1", Status.STARTING), "STARTING")
        set_status(config, "pb-1", Status.FINISHED)
        etcd_server.kill()
        wait_until(lambda: "trying again" in log.read_text(), "the warning")
        etcd_server.start()
        add_block(config, "pb-2")
        wait_until(has_status(config, "pb-2", Status.STARTING), "STARTING after the restart")
        wait_until(lambda: "proc-pb-1-workflow: is removed" in log.read_text(), "the removal")
        controller.terminate()
        controller.wait(30)
    words = log.read_text()
    assert "Traceback" not in words
    assert words.count("trying again") == words.count("answers again") == 1
