"""What Helm makes of the charts of a processing block, without a cluster.

The golden renderings are written again by `GOLDEN=write python -m pytest tests/charts -k golden`;
their difference is then for somebody to read.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import (
    CHARTS,
    CONTAINER_SECURITY,
    DNS_LABEL,
    LABELS,
    POD_SECURITY,
    ValuePath,
    Values,
    chart_values,
    golden,
    helm,
    leaf_paths,
    needs_helm,
    objects,
    pod_templates,
    refusal,
    render,
    with_value,
)

from batch_imaging import __version__
from batch_imaging.kubernetes_names import engine_name, kubernetes_name, release_name

pytestmark = needs_helm

WORKFLOW, BUFFER, ENGINE = (CHARTS / name for name in ("workflow", "buffer", "dask-ee"))
ALL = pytest.mark.parametrize("chart", [WORKFLOW, BUFFER, ENGINE], ids=lambda chart: chart.name)
LONG = "Proc-pb-" + "X1" * 44  # the longest id that a deployment may have

BLOCK = {"pb_id": "pb-mvp01-20200425-00000", "sbi_id": "sbi-mvp01-20200425-00000"}
LOGS = {"logs": {"scheduler.log": "out of memory\n"}}
# What every value that a chart can render takes part in.
FULL: dict[Path, dict[str, Any]] = {
    WORKFLOW: {
        **BLOCK,
        "wf_image": "registry/batch-imaging:1.0.0",
        "env": {"SDP_CONFIG_HOST": "etcd.control", "SDP_CONFIG_PORT": 2379, "LARGE": 10**7},
        "credentialsSecret": "etcd-user",
        "activeDeadlineSeconds": 86400,
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    },
    BUFFER: {**BLOCK, "size": "500Gi", "class": "nfs", "accessModes": ["ReadWriteOnce"]},
    ENGINE: {
        **BLOCK,
        "image": "registry/batch-imaging:1.0.0",
        "imagePullSecrets": [{"name": "registry"}],
        "buffers": ["buff-pb-vis", "Buff-pb-img", "buff-pb-vis"],
        "read_only": ["buff-pb-vis"],
        "secrets": ["cloud"],
        "worker": {"replicas": 4, "resources": {"limits": {"memory": 3 * 2**30, "cpu": "2"}}},
        "networkPolicy": {"enabled": True},
        "metrics": {"enabled": True},
        "postmortem": LOGS,
    },
}
RELEASES = {
    WORKFLOW: "proc-pb-mvp01-20200425-00000-workflow",
    BUFFER: "buff-pb-mvp01-20200425-00000-vis",
    ENGINE: "proc-pb-mvp01-20200425-00000-dask",
}

RESOURCES = {
    "limits.memory": "3Gi",
    "requests.cpu": "2",
    "requests.memory": "3Gi",
    "requests.ephemeral-storage": "3Gi",
}
COMMON: dict[str, Any] = {
    "imagePullPolicy": "Never",
    "imagePullSecrets": [{"name": "registry"}],
    "pb_id": "pb-other",
    "sbi_id": "sbi-other",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "urgent",
}
# Another value for each path.
OTHER: dict[Path, dict[str, Any]] = {
    WORKFLOW: {
        **COMMON,
        "wf_image": "other:1",
        "env": {"SDP_CONFIG_HOST": "other"},
        "credentialsSecret": "other",
        "workerMemory": "512Gi",
        **{f"resources.{path}": value for path, value in RESOURCES.items()},
        "activeDeadlineSeconds": 3600,
        "terminationGracePeriodSeconds": 61,
        "affinity": {"nodeAffinity": {}},
    },
    BUFFER: {
        **COMMON,
        "size": "2Gi",
        "class": "",
        "accessModes": ["ReadWriteOnce"],
        "image": "other:1",
    },
    ENGINE: {
        **COMMON,
        "image": "other:1",
        "buffers": ["other"],
        "read_only": ["one"],
        "secrets": ["other"],
        "logs_buffer": "other",
        "scheduler.servicePort": 8000,
        **{f"scheduler.resources.{path}": value for path, value in RESOURCES.items()},
        "webUI.servicePort": 8000,
        "worker.replicas": 0,
        "worker.nativeThreads": 2,
        "worker.resources.limits.memory": 2**30 - 1,
        "worker.resources.limits.cpu": 0.5,
        "worker.resources.requests.cpu": "2",
        "worker.resources.requests.ephemeral-storage": "3Gi",
        "worker.terminationGracePeriodSeconds": 21,
        "worker.affinity": {"podAntiAffinity": {}},
        "worker.topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}],
        "networkPolicy.enabled": True,
        "metrics.enabled": True,
        "postmortem.logs": {"worker.log": "other"},
        "postmortem.buffer": "other",
    },
}
# What must be there besides for a value to matter.
BESIDES: dict[str, dict[str, Any]] = {
    "logs_buffer": {"buffers": ["one"], "postmortem": LOGS},
    "read_only": {"buffers": ["one"]},
    "postmortem.logs": {"buffers": ["one"]},
    "postmortem.buffer": {"buffers": ["one"], "postmortem": LOGS},
}
VALUE_PATHS = [(chart, path) for chart in OTHER for path in leaf_paths(chart_values(chart))]


def required(chart: Path) -> dict[str, Any]:
    return {"pb_id": "pb-one"} if chart == WORKFLOW else {}


def every_rendering(chart: Path) -> list[dict[str, Any]]:
    return objects(render(chart, RELEASES[chart], FULL[chart]))


@ALL
def test_chart_is_linted_without_a_warning(chart: Path) -> None:
    done = helm("lint", "--strict", str(chart), values=FULL[chart])
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_empty_workflow_names_what_is_missing() -> None:
    assert "pb_id" in refusal(WORKFLOW, {})


@ALL
def test_chart_renders_for_the_oldest_kubernetes(chart: Path) -> None:
    done = helm("template", "x", str(chart), "--kube-version", "1.20.0", values=FULL[chart])
    assert done.returncode == 0, done.stderr
    kinds = {(document["apiVersion"], document["kind"]) for document in objects(done.stdout)}
    assert kinds <= {
        *(("v1", kind) for kind in ("ConfigMap", "PersistentVolumeClaim", "Pod", "Service")),
        *(("apps/v1", "Deployment"), ("batch/v1", "Job")),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    }


@ALL
def test_charts_share_their_templates_and_the_version_of_the_program(chart: Path) -> None:
    for name in ("_names.tpl", "_pods.tpl"):
        shared = (WORKFLOW / "templates" / name).read_text()
        assert (chart / "templates" / name).read_text() == shared, name
    assert yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"] == __version__


@ALL
def test_golden_rendering(chart: Path) -> None:
    rendered = render(chart, RELEASES[chart], FULL[chart])
    assert rendered == golden(chart.name, rendered)


@ALL
def test_every_value_has_a_comment(chart: Path) -> None:
    text = (chart / "values.yaml").read_text()
    lines = text.splitlines()

    def bare(node: yaml.MappingNode) -> list[str]:
        found = []
        for key, value in node.value:
            if isinstance(value, yaml.MappingNode) and value.value:
                found += bare(value)
            elif not lines[key.start_mark.line - 1].strip().startswith("#"):
                found.append(key.value)
        return found

    assert bare(yaml.compose(text)) == []


@ALL
def test_every_value_has_another_in_the_table_above(chart: Path) -> None:
    assert {".".join(path) for path in leaf_paths(chart_values(chart))} == set(OTHER[chart])


@pytest.mark.parametrize(
    ("chart", "path"), VALUE_PATHS, ids=[f"{c.name}-{'.'.join(p)}" for c, p in VALUE_PATHS]
)
def test_every_value_changes_the_rendering(chart: Path, path: ValuePath) -> None:
    name = ".".join(path)
    values = {**required(chart), **BESIDES.get(name, {})}
    changed = with_value(values, path, OTHER[chart][name])
    assert render(chart, "one", changed) != render(chart, "one", values)


@ALL
def test_the_schema_takes_no_member_that_it_does_not_name(chart: Path) -> None:
    schema = yaml.safe_load((chart / "values.schema.json").read_text())

    def open_ones(node: Any, at: str = "") -> list[str]:
        if isinstance(node, list):
            return [place for item in node for place in open_ones(item, at)]
        if not isinstance(node, dict):
            return []
        is_open = node.get("type") == "object" and node.get("additionalProperties", True) is True
        # What the cluster itself checks is not described a second time.
        found = (
            [at] if is_open and "Kubernetes checks it" not in node.get("description", "") else []
        )
        return found + [p for name, item in node.items() for p in open_ones(item, f"{at}/{name}")]

    assert open_ones(schema) == []


@pytest.mark.parametrize(
    ("chart", "values", "words"),
    [
        (WORKFLOW, {"wf-image": "x"}, ["wf-image"]),
        (WORKFLOW, {"pb_id": 7}, ["pb_id", "string"]),
        (WORKFLOW, {"env": {"A": ["b"]}}, ["env", "A"]),
        (WORKFLOW, {"env": {"not a name": "b"}}, ["env", "not a name"]),
        (WORKFLOW, {"workerMemory": "4 GB"}, ["workerMemory", "4 GB"]),
        (WORKFLOW, {"imagePullPolicy": "Sometimes"}, ["imagePullPolicy", "IfNotPresent"]),
        (WORKFLOW, {"resources": {"limits": {"disk": "1Gi"}}}, ["disk"]),
        (WORKFLOW, {"activeDeadlineSeconds": -1}, ["activeDeadlineSeconds", "-1"]),
        (BUFFER, {"size": "1GiB"}, ["size", "1GiB"]),
        (BUFFER, {"size": 0}, ["size", "0"]),
        (BUFFER, {"accessModes": ["ReadWriteAll"]}, ["accessModes", "ReadWriteMany"]),
        (BUFFER, {"accessModes": []}, ["accessModes"]),
        (BUFFER, {"class": "Fast disk"}, ["class", "Fast disk"]),
        (BUFFER, {"tolerations": [{"keys": "x"}]}, ["tolerations", "keys"]),
        (ENGINE, {"workers": 2}, ["workers"]),
        (ENGINE, {"worker": {"replicas": -1}}, ["replicas", "-1"]),
        (ENGINE, {"worker": {"replicas": "2"}}, ["replicas", "string"]),
        (ENGINE, {"worker": {"resources": {"limits": {"memory": "lots"}}}}, ["memory", "lots"]),
        (ENGINE, {"worker": {"resources": {"requests": {"memory": "1Gi"}}}}, ["memory"]),
        (ENGINE, {"scheduler": {"servicePort": 0}}, ["servicePort", "0"]),
        (ENGINE, {"webUI": {"servicePort": 70000}}, ["servicePort", "70"]),
        (ENGINE, {"buffers": ["../etc"]}, ["buffers", "../etc"]),
        (ENGINE, {"metrics": {"enabled": "yes"}}, ["enabled", "boolean"]),
        (ENGINE, {"postmortem": {"logs": {"a/b": "x"}}}, ["logs", "a/b"]),
    ],
    ids=lambda item: str(item) if isinstance(item, dict) else "",
)
def test_the_schema_refuses_with_a_reason(chart: Path, values: Values, words: list[str]) -> None:
    said = refusal(chart, {**required(chart), **values})
    assert all(word in said for word in words), said


def test_what_the_prototype_writes_is_taken() -> None:
    render(
        WORKFLOW,
        "proc-pb-workflow",
        {
            "env": {"SDP_CONFIG_HOST": "etcd", "SDP_HELM_NAMESPACE": "sdp"},
            "wf_image": "workflow-batch-imaging:0.1.0",
            "pb_id": "pb-one",
        },
    )
    render(BUFFER, "buff-pb-vis", {})
    render(
        ENGINE,
        "proc-pb-dask",
        {
            "image": "workflow-batch-imaging:0.1.0",
            "worker": {"replicas": 2},
            "buffers": ["buff-pb-vis", "buff-pb-img"],
        },
    )


def test_environment_is_text_and_given_once() -> None:
    values = {
        "pb_id": "pb-one",
        "env": {"NUMBER": 10**7, "YES": True, "SDP_HELM_NAMESPACE": "elsewhere"},
    }
    job, *_ = objects(render(WORKFLOW, "one", values))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "BATCH_IMAGING_WORKER_MEMORY", "value": "4Gi"},
        {"name": "NUMBER", "value": "10000000"},
        {"name": "SDP_HELM_NAMESPACE", "value": "elsewhere"},
        {"name": "YES", "value": "true"},
    ]


def test_nothing_is_left_to_do_for_an_engine_that_did_not_fail() -> None:
    kinds = {document["kind"] for document in objects(render(ENGINE, "x-dask", {}))}
    assert kinds == {"Deployment", "Pod", "Service"}


@pytest.mark.parametrize(
    ("values", "buffer"),
    [
        ({}, "two"),
        ({"logs_buffer": "three"}, "three"),
        ({"logs_buffer": "three", "postmortem": {"buffer": "four"}}, "four"),
    ],
)
def test_logs_go_to_the_buffer_that_was_chosen(values: Values, buffer: str) -> None:
    postmortem = {**LOGS, **values.get("postmortem", {})}
    given = {"buffers": ["one", "two"], **values, "postmortem": postmortem}
    job = next(item for item in objects(render(ENGINE, "x-dask", given)) if item["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    assert job["metadata"]["name"] == "x-dask-logs"
    assert pod["volumes"][1]["persistentVolumeClaim"]["claimName"] == buffer
    assert pod["containers"][0]["command"][-1] == f"/buffer/{buffer}/logs"


@ALL
def test_every_object_and_pod_is_labelled_and_in_no_namespace(chart: Path) -> None:
    documents = every_rendering(chart)
    labels = LABELS | {"batch-imaging/pb-id", "batch-imaging/sbi-id"}
    for item in [*documents, *pod_templates(documents)]:
        assert set(item["metadata"]["labels"]) == labels, item["metadata"]
        assert "namespace" not in item["metadata"]


@ALL
def test_selectors_stay_the_same_when_versions_and_ids_change(chart: Path) -> None:
    for document in every_rendering(chart):
        selector = document["spec"].get("selector") if "spec" in document else None
        if selector:
            labels = selector.get("matchLabels", selector)
            assert set(labels) == {
                f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")
            }


@ALL
def test_ids_that_are_not_known_make_no_labels(chart: Path) -> None:
    values = required(chart)
    for document in objects(render(chart, "one", values)):
        named = {label for label in document["metadata"]["labels"] if "batch-imaging/" in label}
        assert named == ({"batch-imaging/pb-id"} if values else set())


@ALL
def test_pods_are_restricted(chart: Path) -> None:
    for pod in pod_templates(every_rendering(chart)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in spec
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["securityContext"] == POD_SECURITY
        assert all({"emptyDir", "persistentVolumeClaim", "secret", "configMap"} & set(volume)
                   for volume in spec["volumes"])  # fmt: skip
        for container in spec["containers"]:
            assert container["securityContext"] == CONTAINER_SECURITY
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["ephemeral-storage"]


def test_a_worker_gets_all_the_memory_that_it_may_take() -> None:
    workers = next(
        document
        for document in every_rendering(ENGINE)
        if document["metadata"]["name"].endswith("-worker")
    )
    resources = workers["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == str(3 * 2**30)


def test_a_worker_without_requests_of_its_own_still_requests_its_memory() -> None:
    documents = objects(render(ENGINE, "x-dask", {"worker": {"resources": {"requests": None}}}))
    workers = next(item for item in documents if item["metadata"]["name"] == "x-dask-worker")
    (container,) = workers["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == {"memory": "1Gi"}


@pytest.mark.parametrize("deploy_id", [LONG, LONG.lower(), "0" * 96, "7", "true", "1e3", "A"])
@ALL
def test_names_are_valid_whatever_the_ids_are(chart: Path, deploy_id: str) -> None:
    values = with_value(FULL[chart], ("pb_id",), deploy_id)
    if chart == ENGINE:
        values |= {"buffers": [deploy_id], "secrets": []}
    release = release_name(deploy_id)
    start = engine_name(release) if chart == ENGINE else release
    for document in objects(render(chart, release, values)):
        name = document["metadata"]["name"]
        assert isinstance(name, str)
        assert DNS_LABEL.fullmatch(name)
        assert name == start or name.startswith(f"{start}-")
        labels = document["metadata"]["labels"]
        assert labels["batch-imaging/pb-id"] == expected_name(deploy_id, 63)
        assert all(len(value) <= 63 for value in labels.values())


def expected_name(text: str, limit: int) -> str:
    """Return the name that texts get, in the programs and in the charts."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if name == text and len(name) <= limit:
        return name
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-')}-{mark}".lstrip("-")


TEXTS = [
    *("pb-one", "pb-mvp01-20200425-00000", "PB One", "pb_one", "a" * 63, "a" * 64, "a" * 53 + "-b"),
    *("a" * 43 + "----" + "b" * 20, "a" * 53 + "----" + "b" * 20, "-a-", "---", "_", "été", "7"),
    *(LONG, LONG.lower(), "a/b", 'quote" and \\', "{{ template }}", "line\nline"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_programs_and_charts_shorten_names_in_the_same_way(text: str) -> None:
    (claim, *_) = objects(render(BUFFER, "one", {"pb_id": "pb", "sbi_id": text}))
    assert claim["metadata"]["labels"]["batch-imaging/sbi-id"] == expected_name(text, 63)
    assert kubernetes_name(text, 63) == expected_name(text, 63)
    assert kubernetes_name(text, 53) == expected_name(text, 53)


@pytest.mark.parametrize(
    ("release", "fullname"),
    [
        ("proc-pb-dask", "proc-pb-dask"),
        ("engine", "engine-dask"),
        (release_name(LONG), expected_name(f"{expected_name(LONG, 53)}-dask", 53)),
    ],
)
def test_scheduler_is_found_at_the_name_of_the_engine(release: str, fullname: str) -> None:
    assert engine_name(release) == fullname
    documents = objects(render(ENGINE, release, {}))
    (service,) = (item for item in documents if item["kind"] == "Service")
    assert service["metadata"]["name"] == f"{fullname}-scheduler"
    assert [port["port"] for port in service["spec"]["ports"]] == [8786, 80]


def test_buffers_are_mounted_by_the_names_that_the_block_gives_them() -> None:
    documents = objects(render(ENGINE, "x-dask", {"buffers": [LONG]}))
    workers = next(item for item in documents if item["metadata"]["name"] == "x-dask-worker")
    pod = workers["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"][1]["mountPath"] == f"/buffer/{LONG}"
    assert pod["volumes"][1]["persistentVolumeClaim"]["claimName"] == expected_name(LONG, 53)


@ALL
def test_notes_say_what_to_type_next(chart: Path) -> None:
    done = helm(
        "install", RELEASES[chart], str(chart), "--dry-run=client", "--namespace", "sdp",
        values=FULL[chart],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for program in ("kubectl get", "helm test", "helm uninstall"):
        assert f"  {program} " in notes
    programs = ("  kubectl", "  helm", "  batch-imaging")
    commands = [line for line in notes.splitlines() if line.startswith(programs)]
    assert all("--namespace sdp" in line and RELEASES[chart] in line for line in commands)
