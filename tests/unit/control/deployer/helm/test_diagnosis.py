"""What is said of objects as a real cluster has shown them, in the folder `objects`."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from batch_imaging.control.config.entities import DeploymentState
from batch_imaging.control.deployer.helm.diagnosis import diagnose
from batch_imaging.control.deployer.helm.objects import Objects, name_of
from batch_imaging.control.deployer.helm.postmortem import (
    last_lines,
    logs_buffer,
    with_postmortem,
)

FOLDER = Path(__file__).with_name("objects")


def seen(name: str, **changes) -> Objects:
    entry = json.loads((FOLDER / f"{name}.json").read_text())
    return replace(Objects(**entry | {"now": datetime.fromisoformat(entry["now"])}), **changes)


def last_words(pod, container, previous):
    return f"{'previous' if previous else 'last'} words"


def said_of(objects, written=None):
    return diagnose(objects, written, last_words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crash-loop", "CrashLoopBackOff after exit code 1: previous words"),
        ("image-name", 'InvalidImageName: Failed to apply default image tag "No:Image:"'),
        ("image-pull", 'ImagePullBackOff: Failed to pull image "no-such:image": rpc error'),
        ("job-failed", "exit code 7: last words"),
        ("out-of-memory", "exit code 137, OOMKilled: its memory limit is 64Mi: previous words"),
        ("no-class", 'ProvisioningFailed: storageclass.storage.k8s.io "no-such" not found'),
        ("no-secret", 'CreateContainerConfigError: secret "none" not found'),
        ("quota-engine", "is forbidden: exceeded quota: small, requested: pods=1"),
        ("quota-job", "is forbidden: exceeded quota: small, requested: pods=1"),
        ("restarted-scheduler", "restarted after exit code 3: previous words"),
        ("unschedulable", "Unschedulable: 0/1 nodes are available: 1 Insufficient memory."),
    ],
)
def test_faults_that_stay_are_failures(name, words):
    state = said_of(seen(name))
    assert (state.status, words in state.reason) == ("FAILED", True), state
    assert "\n" not in state.reason


@pytest.mark.parametrize(
    "name", ["image-name", "no-secret", "no-class", "quota-engine", "quota-job", "unschedulable"]
)
def test_a_fault_that_may_pass_is_given_time(name):
    objects = seen(name)
    begin = min(
        each["metadata"]["creationTimestamp"]
        for each in [*objects.pods, *objects.claims, *objects.deployments, *objects.jobs]
    )
    state = said_of(replace(objects, now=datetime.fromisoformat(begin) + timedelta(seconds=2)))
    assert state.status == ("FAILED" if name == "image-name" else "PENDING")
    assert state.reason


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("bound", "RUNNING", None),
        ("first-consumer", "RUNNING", None),
        ("no-provisioner", "PENDING", "waiting for a volume to be created"),
        ("evicted", "RUNNING", "Evicted: Usage of EmptyDir volume"),
        ("engine", "RUNNING", None),
    ],
)
def test_what_runs_or_may_run_yet(name, status, words):
    state = said_of(seen(name))
    assert state.status == status, state
    assert (state.reason is None) if words is None else (words in state.reason)


def test_an_engine_whose_scheduler_was_replaced_has_failed_for_good():
    objects = seen("engine")
    written = said_of(objects)
    (former,) = (name for name in written.pods if "scheduler" in name)
    successor = json.loads(json.dumps(objects.pods).replace(former, "x-dask-scheduler-another"))
    for _ in range(2):
        written = said_of(replace(objects, pods=successor), written)
        assert written.status == "FAILED"
        assert f"its scheduler, pod {former}, is gone" in written.reason
        assert written.pods[former] == "FAILED"


def test_a_worker_may_be_replaced():
    objects = seen("engine")
    written = said_of(objects)
    rest = [each for each in objects.pods if "worker" not in name_of(each)]
    assert said_of(replace(objects, pods=rest), written).status == "RUNNING"


def without_a_place(objects, name):
    """The engine with one more worker, which the scheduler of the cluster finds no place for."""
    begin = "2026-11-21T16:00:00Z"
    said = {"type": "PodScheduled", "status": "False", "lastTransitionTime": begin}
    (worker,) = (each for each in objects.pods if "worker" in name_of(each))
    stuck = {
        "metadata": worker["metadata"] | {"name": name},
        "status": {
            "phase": "Pending",
            "conditions": [said | {"reason": "SchedulerError", "message": "no place"}],
        },
    }
    return replace(objects, pods=[*objects.pods, stuck])


def test_a_worker_without_a_place_is_no_failure_once_all_were_there():
    objects = without_a_place(seen("engine"), "x-dask-worker-more")
    state = said_of(objects)
    assert state.status == "RUNNING"
    assert state.reason == "pod x-dask-worker-more: SchedulerError: no place"
    for deployment in objects.deployments:
        for condition in deployment["status"]["conditions"]:
            if condition["type"] == "Progressing":
                condition["reason"] = "ReplicaSetUpdated"
    assert said_of(objects).status == "FAILED"


def test_without_any_worker_one_without_a_place_is_a_failure():
    objects = without_a_place(seen("engine"), "x-dask-worker-more")
    pods = [each for each in objects.pods if "txncc" not in name_of(each)]
    assert said_of(replace(objects, pods=pods)).status == "FAILED"


def test_a_scheduler_with_a_long_name_is_missed():
    objects = seen("engine")
    name = f"{'x' * 53}-scheduler"
    for each in objects.deployments:
        if "scheduler" in name_of(each):
            each["metadata"]["name"] = name
    written = DeploymentState(status="RUNNING", pods={f"{name[:58]}abcde": "RUNNING"})
    assert f"pod {name[:58]}abcde, is gone" in said_of(objects, written).reason


def test_events_of_a_former_object_of_the_name_do_not_count():
    objects = seen("no-class")
    for event in objects.events:
        event["involvedObject"]["uid"] = "former"
    assert said_of(objects).reason == "it is starting"


def test_a_worker_that_dies_now_and_then_is_no_failure():
    objects = seen("out-of-memory")
    for pod in objects.pods:
        for container in pod["status"]["containerStatuses"]:
            for state in (container["state"], container["lastState"]):
                if "terminated" in state:
                    state["terminated"]["startedAt"] = "2026-11-20T00:00:00Z"
    state = said_of(objects)
    assert state.status != "FAILED"
    assert "OOMKilled" in state.reason


def test_a_scheduler_in_a_rollout_does_not_count_yet():
    objects = seen("engine")
    for each in objects.deployments:
        each["metadata"]["generation"] = 2
    state = said_of(objects)
    assert state.status == "PENDING"
    assert not any("scheduler" in name for name in state.pods)


def test_a_busy_scheduler_is_still_up():
    objects = seen("engine")
    for pod in objects.pods:
        for condition in pod["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition["status"] = "False"
    assert said_of(objects).status == "PENDING"
    assert said_of(objects, DeploymentState(status="RUNNING")).status == "RUNNING"


def test_the_reason_of_a_failed_job_outlives_its_log():
    objects = seen("job-failed")
    written = said_of(objects)
    assert diagnose(replace(objects, pods=[]), written, lambda *_: "").reason == written.reason


def test_what_is_gone_was_removed_by_somebody():
    empty = seen("bound", claims=[])
    assert "somebody has removed it" in said_of(empty).reason


def test_last_lines_are_of_those_that_died():
    def log(pod, container, previous, n_lines):
        return [f"previous {previous}", "end"]

    assert last_lines(seen("engine"), log, also_living=False) == {}
    assert len(last_lines(seen("engine"), log, also_living=True)) == 2
    files = last_lines(seen("restarted-scheduler"), log, also_living=False)
    assert [name.split(".", 1)[1] for name in files] == ["log", "previous.log"]
    assert sorted(files.values()) == ["previous False\nend\n", "previous True\nend\n"]


def test_logs_go_to_the_buffer_that_is_named_or_the_last():
    assert logs_buffer({}) is None
    assert logs_buffer({"buffers": ["vis", "img"]}) == "img"
    assert logs_buffer({"buffers": ["vis", "img"], "logs_buffer": "vis"}) == "vis"
    values = with_postmortem({"worker": {"replicas": 2, "a": 1}, "b": 2}, {"f": "t"}, "img")
    assert values == {
        "worker": {"replicas": 0, "a": 1},
        "b": 2,
        "postmortem": {"logs": {"f": "t"}, "buffer": "img"},
    }
