"""How fast things happen in a cluster, and what the control system takes while it waits.

Needs a cluster (KUBECONFIG) with the image BATCH_IMAGING_IMAGE; there is no table without.
"""

import json
import os
import re
import statistics
import time
from collections.abc import Callable

from batch_imaging.control.config.entities import ProcessingBlockState
from benchmarks.table import Measurement, Table, tabulate
from tests.cluster.installation import LONG, SMALL, Installation, run

Condition = Callable[[ProcessingBlockState], bool]

IDLE_S = 60.0
MIB = 2**20


def benchmark_kubernetes(quick: bool) -> list[Table]:
    """Measure an installation of its own, and remove it."""
    if "KUBECONFIG" not in os.environ:
        return []
    repeats = 1 if quick else 3
    system = Installation.new()
    try:
        begin = time.monotonic()
        system.install()
        installed_s = time.monotonic() - begin
        rows = [
            Measurement("helm install --wait", installed_s, "s"),
            Measurement(
                "block RUNNING to all workers connected",
                statistics.median(_engine_start_s(system) for _ in range(repeats)),
                "s",
                goal=20,
            ),
            Measurement("wrong image tag: reason reported", _wrong_tag_s(system), "s", goal=60),
            Measurement("no such storage class: reason reported", _no_class_s(system), "s", 60),
            Measurement("script killed: all removed", _killed_s(system), "s", goal=60),
            *_idle(system),
        ]
        system.uninstall()
    finally:
        system.delete_namespaces()
    note = f"Medians of {repeats} starts; idle over {IDLE_S:g} s, after these blocks."
    return [tabulate("Kubernetes", rows, "–", note)]


def _engine_start_s(system: Installation) -> float:
    pb_id = system.create_block(SMALL)
    running_s = _moment(system, pb_id, lambda state: state.status == "RUNNING")
    connected_s = _moment(system, pb_id, lambda state: (state.stage or "engine") != "engine")
    system.wait_for_end(pb_id)
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)
    return connected_s - running_s


def _moment(system: Installation, pb_id: str, condition: Condition) -> float:
    state = system.wait(pb_id, condition, 120)
    assert not state.status.ended, state
    return time.monotonic()


def _wrong_tag_s(system: Installation) -> float:
    pb_id = system.create_block(SMALL, "wrong-tag", image="batch-imaging:no-such-tag")
    return _failed_s(system, pb_id)


def _no_class_s(system: Installation) -> float:
    return _failed_s(system, system.create_block(SMALL | {"buffer_class": "no-such-class"}))


def _failed_s(system: Installation, pb_id: str) -> float:
    begin = time.monotonic()
    status, _ = system.wait_for_end(pb_id)
    failed_s = time.monotonic() - begin
    assert status == "FAILED"
    system.assert_nothing_left(pb_id)
    system.forget(pb_id)
    return failed_s


def _killed_s(system: Installation) -> float:
    pb_id = system.create_block(LONG)
    system.wait_for_stage(pb_id, "ical")
    system.kubectl("delete", "pod", "-l", f"job-name=proc-{pb_id}-workflow", "--grace-period=0")
    begin = time.monotonic()
    system.wait_for_end(pb_id)
    system.assert_nothing_left(pb_id)
    removed_s = time.monotonic() - begin
    system.forget(pb_id)
    return removed_s


def _idle(system: Installation) -> list[Measurement]:
    time.sleep(IDLE_S / 2)  # what the last block has left comes to rest
    before = _usage(system)
    time.sleep(IDLE_S)
    after = _usage(system)
    cores = sum(after[pod][0] - before[pod][0] for pod in after if pod in before) / IDLE_S
    memory = sum(bytes_held for _, bytes_held in after.values()) / MIB
    parts = [
        Measurement(f"idle memory of {_component(pod, system.release)}", held / MIB, "MiB")
        for pod, (_, held) in sorted(after.items())
    ]
    return [
        Measurement("idle memory, in all", memory, "MiB", goal=400),
        Measurement("idle CPU, in all", 100 * cores, "% of a core", goal=2),
        *parts,
    ]


def _component(pod: str, release: str) -> str:
    """Return what a pod is, without the names of its release and of this one pod."""
    name = re.sub(r"-[0-9a-f]{8,10}-[0-9a-z]{5}$", "", pod)
    return name.removeprefix(f"{release}-").removesuffix(f"-{release}")


def _usage(system: Installation) -> dict[str, tuple[float, int]]:
    """Return CPU seconds so far and working set, bytes, of each pod of the control system."""
    nodes = run("kubectl", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()
    usage = {}
    for node in nodes:
        path = f"/api/v1/nodes/{node}/proxy/stats/summary"
        for pod in json.loads(run("kubectl", "get", "--raw", path))["pods"]:
            if pod["podRef"]["namespace"] == system.control and "memory" in pod:
                seconds = pod["cpu"]["usageCoreNanoSeconds"] / 1e9
                usage[pod["podRef"]["name"]] = seconds, pod["memory"]["workingSetBytes"]
    return usage
