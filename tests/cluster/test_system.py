"""The control system that the chart installs: what its pods do, survive, use, and leave."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from installation import SMALL, Installation, run

from batch_imaging.control.config.entities import Status

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DEVICES = ("master", "subarray_1", "subarray_2")
ANSWER = f"""
import json, tango
found = {{}}
for name in {DEVICES}:
    try:
        device = tango.DeviceProxy(f"mid_sdp/elt/{{name}}")
        found[name] = [str(device.state()), device.healthState.name]
    except tango.DevFailed as error:
        found[name] = [error.args[0].reason, "UNKNOWN"]
print(json.dumps(found))
"""
IDLE_S = 30.0
MEMORY_LIMIT_BYTES = 400 * 2**20
CPU_LIMIT = 0.1  # of a core; the goal is a fifth of it, on a machine that does nothing else


def answers(system: Installation) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(system.in_itango_pod("python", "-c", ANSWER))
    return found


def wait_until_healthy(system: Installation, deadline_s: float = 180.0) -> dict[str, list[str]]:
    deadline = time.monotonic() + deadline_s
    found = answers(system)
    while any(health != "OK" for _, health in found.values()):
        assert time.monotonic() < deadline, found
        time.sleep(1.0)
        found = answers(system)
    return found


def wait_until_ready(system: Installation) -> None:
    """Wait for the pods, with those that take the places of deleted ones."""
    for name in system.kubectl("get", "deployments", "-o", "name", control=True).split():
        system.kubectl("rollout", "status", name, "--timeout=110s", control=True)


def test_itango_of_the_pod_knows_the_devices(system: Installation) -> None:
    wait_until_healthy(system)
    said = system.itango(*(f"Device('mid_sdp/elt/{name}').info().dev_class" for name in DEVICES))
    assert (said.count("'SDPMaster'"), said.count("'SDPSubarray'")) == (1, 2)
    assert "assign_resources.py" in system.in_itango_pod("ls")
    system.in_itango_pod("batch-imaging", "config", "list")


def test_helm_test_succeeds(system: Installation) -> None:
    said = run("helm", "test", system.release, "-n", system.control, "--logs")
    assert all(f"{name}: " in said for name in ("controller", "deployer", *DEVICES))


@pytest.mark.parametrize("component", ["tango", "etcd", "master", "subarray-1"])
def test_devices_answer_again_after_a_pod_was_replaced(
    system: Installation, component: str
) -> None:
    before = wait_until_healthy(system)
    label = f"app.kubernetes.io/component={component}"
    system.kubectl("delete", "pod", "-l", label, "--grace-period=0", "--force", control=True)
    wait_until_ready(system)
    assert wait_until_healthy(system) == before


@pytest.mark.parametrize(
    ("account", "verb", "resource", "namespace", "answer"),
    [
        ("deployer", "create", "deployments", "processing", "yes"),
        ("deployer", "delete", "persistentvolumeclaims", "processing", "yes"),
        ("deployer", "get", "pods/log", "processing", "yes"),
        ("deployer", "create", "pods", "processing", "no"),
        ("deployer", "create", "pods/exec", "processing", "no"),
        ("deployer", "get", "secrets", "control", "no"),
        ("deployer", "list", "pods", "control", "no"),
        ("deployer", "list", "secrets", "kube-system", "no"),
        ("deployer", "list", "namespaces", "default", "no"),
        ("default", "list", "pods", "processing", "no"),
    ],
)
def test_least_privilege(
    system: Installation, account: str, verb: str, resource: str, namespace: str, answer: str
) -> None:
    name = f"{system.release}-deployer" if account == "deployer" else account
    user = f"system:serviceaccount:{system.control}:{name}"
    where = {"control": system.control, "processing": system.processing}.get(namespace, namespace)
    command = f"kubectl auth can-i {verb} {resource} --as {user} -n {where}"
    said = run("sh", "-c", f"{command} 2>/dev/null || true")  # a no is an exit code too
    assert said.strip() == answer


def test_only_the_deployer_has_a_token(system: Installation) -> None:
    with_token = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in system.objects("pods", control=True)
        if "serviceaccount" in json.dumps(pod["spec"]["containers"])
    }
    assert with_token == {"deployer"}


def test_idle_it_takes_little(system: Installation) -> None:
    wait_until_ready(system)
    wait_until_healthy(system)
    processes = list(processes_of_pods(system))
    if not processes:
        pytest.skip("the pods' processes are on another machine")
    cpu_before_s = cpu_s(processes)
    time.sleep(IDLE_S)
    cpu_used = (cpu_s(processes) - cpu_before_s) / IDLE_S
    memory_bytes = sum(process.memory_full_info().pss for process in processes)
    print(f"{memory_bytes / 2**20:.0f} MiB, {100 * cpu_used:.1f} % of a core")
    assert memory_bytes <= MEMORY_LIMIT_BYTES
    assert cpu_used <= CPU_LIMIT


def processes_of_pods(system: Installation) -> Iterator[psutil.Process]:
    """Yield the processes of the system with one subarray, if its node is this machine."""
    label = "app.kubernetes.io/component notin (subarray-2, test)"
    found = system.objects("pods", "-l", label, control=True)
    uids = [pod["metadata"]["uid"] for pod in found]
    pods = re.compile("|".join(uid.replace("-", "[-_]") for uid in uids))
    for process in psutil.process_iter():
        try:
            is_ours = pods.search(Path(f"/proc/{process.pid}/cgroup").read_text())
        except OSError:  # it has ended
            continue
        if is_ours and process.name() != "pause":
            yield process


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def test_a_block_images_the_sets_of_an_earlier_one(system: Installation) -> None:
    made = system.create_block(SMALL | {"n_workers": 1, "spectral": {"enabled": False}})
    assert system.wait_for_end(made) == (Status.FINISHED, "")
    wanted = {"n_workers": 1, "buffer_img_size": "100Mi", "imaging": {"npixel": 128}}
    wanted["image"] = {"clean": False, "cellsize": 0.002, "fit_image": 0}
    block = system.create_block(wanted | {"input": {"buffer": f"buff-{made}-vis"}})
    assert system.wait_for_end(block) == (Status.FINISHED, "")
    log = system.kubectl("logs", f"job/proc-{block}-workflow")
    assert "Running imaging of 4 Measurement Sets" in log
    missing = system.create_block(wanted | {"input": {"buffer": "buff-no"}})
    status, reason = system.wait_for_end(missing)
    assert status == Status.FAILED
    assert "buff-no" in reason
    for pb_id in (block, missing, made):
        system.assert_nothing_left(pb_id)
        system.forget(pb_id)


def test_uninstalled_it_leaves_its_processing_namespace_and_can_come_back() -> None:
    system = Installation.new()
    try:
        for _ in range(2):
            system.install()
            system.uninstall()
            system.assert_only([])
    finally:
        system.delete_namespaces()
