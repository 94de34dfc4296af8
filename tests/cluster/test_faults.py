"""What a user sees when something breaks in a cluster, and that nothing is left behind."""

import json
import random
import time

import psutil
import pytest
from installation import LONG, REASON_S, SMALL, Installation, scheduling_block

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ENGINE = "batch-imaging/pb-id={},app.kubernetes.io/component={}"


def _kill(system: Installation, pod: str, control: bool = False) -> None:
    system.kubectl("delete", pod, "--grace-period=0", "--force", "--wait=false", control=control)


def _pod(system: Installation, pb_id: str, component: str) -> str:
    selector = ENGINE.format(pb_id, component)
    return system.kubectl("get", "pods", "-l", selector, "-o", "name").split()[0]


def _kill_script(pb_id: str) -> None:
    """Send SIGKILL, which nothing in the cluster does without a SIGTERM before."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-2:] == ["workflow", pb_id]:
            process.kill()
            return
    pytest.skip("the node is another machine")


def test_a_worker_pod_is_deleted_and_the_run_completes(system):
    pb_id = system.create_block(LONG)
    system.wait_for_stage(pb_id, "ical")
    system.kubectl("delete", _pod(system, pb_id, "worker"), "--wait=false")
    assert system.wait_for_end(pb_id) == ("FINISHED", "")
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


def test_the_scheduler_pod_is_deleted_and_the_block_fails_with_the_reason(system):
    pb_id = system.create_block(LONG)
    system.wait_for_stage(pb_id, "ical")
    _kill(system, _pod(system, pb_id, "scheduler"))
    status, reason = system.wait_for_end(pb_id)
    assert status == "FAILED"
    assert "scheduler" in reason
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


@pytest.mark.parametrize("stage", ["engine", "simulat", "ical"])
def test_the_script_is_killed_and_the_controller_removes_its_engine(system, stage):
    pb_id = system.create_block(LONG)
    system.wait_for_stage(pb_id, stage)
    _kill_script(pb_id)
    status, reason = system.wait_for_end(pb_id)
    assert status == "FAILED"
    assert "script is gone" in reason
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


@pytest.mark.parametrize("component", ["deployer", "etcd", "controller"])
def test_a_part_of_the_control_system_is_killed_at_a_random_moment(system, component):
    pb_id = system.create_block(SMALL)
    time.sleep(random.uniform(0, 15))
    selector = f"app.kubernetes.io/component={component}"
    _kill(
        system,
        system.kubectl("get", "pods", "-l", selector, "-o", "name", control=True).strip(),
        control=True,
    )
    assert system.wait_for_end(pb_id) == ("FINISHED", "")
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


def test_a_claim_that_cannot_be_bound(system):
    pb_id = system.create_block(SMALL | {"buffer_class": "no-such-class"})
    status, reason = system.wait_for_end(pb_id, REASON_S)
    assert status == "FAILED"
    assert "no-such-class" in reason
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


def test_an_image_that_is_not_there(system):
    pb_id = system.create_block(SMALL, "wrong-tag", image="batch-imaging:no-such-tag")
    status, reason = system.wait_for_end(pb_id, REASON_S)
    assert status == "FAILED"
    assert "no-such-tag" in reason
    assert "Image" in reason
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


@pytest.mark.parametrize("command", ["Off", "Abort"])
def test_a_command_in_the_middle_of_processing(system, command):
    """Off cancels the blocks of a scheduling block; Abort ends the observation's part alone."""
    name = command.lower()
    request = scheduling_block(name, LONG, dependencies=[])
    realtime, batch = (block["id"] for block in request["processing_blocks"])
    system.itango(
        "d = DeviceProxy('mid_sdp/elt/subarray_2')",
        "d.On()",
        f"d.AssignResources({json.dumps(request)!r})",
    )
    system.wait_for_stage(batch, "ical")
    system.itango(f"DeviceProxy('mid_sdp/elt/subarray_2').{command}()")
    if command == "Abort":
        assert system.wait_for_end(batch) == ("FINISHED", "")
        system.itango("DeviceProxy('mid_sdp/elt/subarray_2').Restart()")
    else:
        status, reason = system.wait_for_end(batch, REASON_S)
        assert status == "CANCELLED"
        assert "was cancelled" in reason
    assert system.wait_for_end(realtime, REASON_S)[0] == "CANCELLED"
    system.assert_nothing_left(batch)
    system.forget(batch)


def test_a_quota_that_is_exceeded(system):
    system.kubectl("create", "quota", "small", "--hard=requests.memory=100Mi")
    try:
        pb_id = system.create_block(SMALL)
        status, reason = system.wait_for_end(pb_id, REASON_S)
    finally:
        system.kubectl("delete", "quota", "small")
    assert status == "FAILED"
    assert "exceeded quota" in reason
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)


def test_buffers_that_shall_not_be_retained_are_gone(system):
    pb_id = system.create_block(SMALL | {"retain": False})
    assert system.wait_for_end(pb_id) == ("FINISHED", "")
    deadline = time.monotonic() + REASON_S
    while claims := [
        each for each in system.kubectl("get", "pvc", "-o", "name").split() if pb_id in each
    ]:
        assert time.monotonic() < deadline, claims
        time.sleep(1.0)
    system.forget(pb_id)
