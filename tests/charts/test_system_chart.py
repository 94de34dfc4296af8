"""What Helm makes of the chart of the control system, without a cluster.

The golden renderings are written again by `GOLDEN=write python -m pytest tests/charts -k golden`;
their difference is then for somebody to read.
"""

import json
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
from batch_imaging.control.controller.definitions import read_definitions

pytestmark = needs_helm

CHART = CHARTS.parent / "helm"
WORKFLOWS = {
    "version": {"date": "2026-11-01"},
    "repositories": [{"name": "site", "path": "registry.site/workflows"}],
    "workflows": [
        {
            "type": "batch",
            "id": "delivery",
            "repository": "site",
            "image": "workflow-delivery",
            "versions": ["1.0.0", "1.1.0"],
        }
    ],
}
FULL: dict[str, Any] = {
    "image": {"repository": "registry.site/batch-imaging", "tag": "1.0.0"},
    "imagePullSecrets": [{"name": "registry"}],
    "devices": {"subarrays": 2},
    "controller": {"maxWorkers": 10**7, "maxBuffers": "2Ti", "workflows": WORKFLOWS},
    "deployer": {"defaults": {"workflow": {"workerMemory": "16Gi"}}},
    "networkPolicy": {"enabled": True, "from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
}
EXTERNAL = {"etcd": {"external": {"host": "etcd.site"}}}
RESOURCES = {"requests.cpu": "2", "requests.memory": "3Gi", "limits.memory": "3Gi"}
# Another value for each path.
OTHER: dict[str, Any] = {
    "image.repository": "registry.site/batch-imaging",
    "image.tag": "1.0.0",
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "processing.namespace": "elsewhere",
    "processing.createNamespace": False,
    "etcd.external.host": "etcd.site",
    "etcd.external.port": 2380,
    "etcd.external.protocol": "https",
    "etcd.external.credentialsSecret": "etcd-user",
    "etcd.prefix": "/site",
    "etcd.compactionRetention": "2h",
    "controller.maxWorkers": 16,
    "controller.maxBuffers": "2Ti",
    "controller.retentionSeconds": 10**7,
    "controller.workflows": WORKFLOWS,
    "controller.workflowsUrl": "file:///workflows.json",
    "deployer.timeoutSeconds": 10**7,
    "deployer.defaults": {"buffer": {"class": "nfs"}},
    "devices.subarrays": 3,
    "drain.deadlineSeconds": 60,
    "networkPolicy.enabled": True,
    "networkPolicy.from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    **{
        f"{component}.persistence.{name}": value
        for component in ("etcd", "tango")
        for name, value in (("enabled", False), ("size", "2Gi"), ("storageClass", "nfs"))
    },
    **{
        f"{component}.resources.{path}": value
        for component in ("etcd", "tango", "devices", "controller", "deployer", "itango")
        for path, value in RESOURCES.items()
    },
}
# What must be there besides for a value to matter.
BESIDES: dict[str, Values] = {
    "etcd.external.port": EXTERNAL,
    "etcd.external.protocol": EXTERNAL,
    "networkPolicy.from": {"networkPolicy": {"enabled": True}},
}
VALUE_PATHS = list(leaf_paths(chart_values(CHART)))


def system(values: Values, release: str = "test") -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects by kind and name."""
    rendered = objects(render(CHART, release, values))
    return {(each["kind"], each["metadata"]["name"]): each for each in rendered}


def pod_specs(values: Values) -> dict[str, dict[str, Any]]:
    """Return what pods are made of by component."""
    return {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["spec"]
        for pod in pod_templates(list(system(values).values()))
    }


@pytest.mark.parametrize("values", [{}, FULL, EXTERNAL], ids=["default", "full", "external"])
def test_chart_is_linted_without_a_warning_for_the_oldest_kubernetes(values: Values) -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.20.0", values=values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_chart_has_the_version_of_the_program_and_the_names_of_the_other_charts() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
    names = (CHARTS / "workflow" / "templates" / "_names.tpl").read_text()
    assert (CHART / "templates" / "_names.tpl").read_text() == names


def test_golden_rendering_of_the_system() -> None:
    rendered = render(CHART, "test", FULL)
    assert rendered == golden("system", rendered)


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r" *[A-Za-z]+:", line)
        and not before.strip().startswith("#")
        and not re.match(r" *(requests|limits):", line)  # as in every container
    ]
    assert bare == []


def test_every_value_has_another_in_the_table_above() -> None:
    assert {".".join(path) for path in VALUE_PATHS} == set(OTHER)


@pytest.mark.parametrize("path", VALUE_PATHS, ids=".".join)
def test_every_value_changes_the_rendering(path: ValuePath) -> None:
    name = ".".join(path)
    values = BESIDES.get(name, {})
    assert render(CHART, "x", with_value(values, path, OTHER[name])) != render(CHART, "x", values)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("images", {}, ["images"]),
        ("image.tag", 1, ["tag", "string"]),
        ("processing.namespace", "SDP", ["namespace", "SDP"]),
        ("etcd.external.port", 0, ["port", "0"]),
        ("etcd.external.user", "me", ["user"]),
        ("etcd.persistence.size", "1GiB", ["size", "1GiB"]),
        ("etcd.prefix", "site", ["prefix", "site"]),
        ("devices.subarrays", 0, ["subarrays", "0"]),
        ("controller.maxWorkers", "many", ["maxWorkers", "string"]),
        ("controller.workflows", {"workflows": []}, ["workflows"]),
        ("deployer.defaults.dask", {}, ["dask"]),
        ("deployer.defaults.buffer.klass", "nfs", ["buffer", "klass"]),
        ("itango.resources.limits.speed", "1Gi", ["speed"]),
    ],
)
def test_the_schema_refuses_with_a_reason(path: str, value: Any, words: list[str]) -> None:
    said = refusal(CHART, with_value({}, tuple(path.split(".")), value))
    assert all(word in said for word in words), said


@pytest.mark.parametrize("chart", ["workflow", "buffer", "dask-ee"])
def test_the_schema_knows_the_values_of_the_charts_below_the_defaults(chart: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = schema["properties"]["deployer"]["properties"]["defaults"]["properties"][chart]
    of_chart = json.loads((CHARTS / chart / "values.schema.json").read_text())
    assert set(defaults["properties"]) == set(of_chart["properties"])
    assert defaults["additionalProperties"] is False


def test_a_release_that_begins_with_a_digit_is_refused() -> None:
    done = helm("template", "1e3", str(CHART), values={})
    assert done.returncode != 0
    assert "release 1e3" in done.stderr
    assert "begins with a letter" in done.stderr


def test_names_that_look_like_numbers_stay_text() -> None:
    values = with_value({}, ("processing", "namespace"), "1e3")
    documents = system(with_value(values, ("etcd", "persistence", "storageClass"), "007"))
    assert documents["Role", "test-deployer"]["metadata"]["namespace"] == "1e3"
    assert documents["ConfigMap", "test-connection"]["data"]["SDP_HELM_NAMESPACE"] == "1e3"
    assert documents["PersistentVolumeClaim", "test-etcd"]["spec"]["storageClassName"] == "007"


def test_every_object_and_pod_is_labelled() -> None:
    documents = list(system(FULL).values())
    for item in [*documents, *pod_templates(documents)]:
        assert set(item["metadata"]["labels"]) >= LABELS


def test_only_what_the_deployer_may_do_is_in_another_namespace() -> None:
    elsewhere = {
        kind: document["metadata"]["namespace"]
        for (kind, _), document in system(FULL).items()
        if "namespace" in document["metadata"]
    }
    assert elsewhere == {"Role": "sdp", "RoleBinding": "sdp"}


def test_the_role_names_all_that_it_allows() -> None:
    documents = system(FULL)
    assert not {"ClusterRole", "ClusterRoleBinding"} & {kind for kind, _ in documents}
    rules = documents["Role", "test-deployer"]["rules"]
    assert "*" not in json.dumps(rules)
    changeable = {
        resource for rule in rules if "create" in rule["verbs"] for resource in rule["resources"]
    }
    assert changeable == {
        *("configmaps", "deployments", "jobs", "networkpolicies"),
        *("persistentvolumeclaims", "secrets", "services"),
    }


def test_pods_are_restricted_and_only_the_deployer_has_a_token() -> None:
    for component, spec in pod_specs(FULL).items():
        assert spec["automountServiceAccountToken"] is (component == "deployer")
        assert ("serviceAccountName" in spec) is (component == "deployer")
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"] == POD_SECURITY
        (container,) = spec["containers"]
        assert container["securityContext"] == CONTAINER_SECURITY
        assert container["resources"]["limits"]["memory"]


def test_probes_start_nothing_large() -> None:
    for spec in pod_specs(FULL).values():
        for name, probe in spec["containers"][0].items():
            if name.endswith("Probe") and "exec" in probe:
                assert probe["exec"]["command"][0] == "test"


def test_the_processing_namespace_is_restricted_and_stays() -> None:
    namespace = system({})["Namespace", "sdp"]["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_an_external_etcd_takes_the_place_of_ours() -> None:
    external = {"host": "etcd.site", "credentialsSecret": "etcd-user"}
    documents = system({"etcd": {"external": external}})
    assert not {name for _, name in documents if name.endswith("etcd")}
    assert documents["ConfigMap", "test-connection"]["data"]["SDP_CONFIG_HOST"] == "etcd.site"
    secrets = [
        source["secretRef"]["name"]
        for spec in pod_specs({"etcd": {"external": external}}).values()
        for source in spec["containers"][0].get("envFrom", [])
        if "secretRef" in source
    ]
    assert set(secrets) == {"etcd-user"}


def test_workflows_are_a_definitions_file(tmp_path: Path) -> None:
    file = tmp_path / "workflows.json"
    file.write_text(system(FULL)["ConfigMap", "test-workflows"]["data"]["workflows.json"])
    image = "registry.site/workflows/workflow-delivery"
    assert read_definitions(str(file)) == {
        f"batch:delivery:{version}": f"{image}:{version}" for version in ("1.0.0", "1.1.0")
    }


def test_the_controller_starts_our_workflows_from_the_image_of_the_chart() -> None:
    (container,) = pod_specs(FULL)["controller"]["containers"]
    assert {"name": "BATCH_IMAGING_IMAGE", "value": container["image"]} in container["env"]


@pytest.mark.parametrize("release", ["x", "control.site-1", "r" * 53])
def test_names_are_valid_whatever_the_release_is_called(release: str) -> None:
    documents = system(FULL, release)
    assert all(DNS_LABEL.fullmatch(name) for _, name in documents)
    (data,) = (each["data"] for each in documents.values() if "TANGO_HOST" in each.get("data", {}))
    assert ("Service", data["TANGO_HOST"].removesuffix(":10000")) in documents
    assert ("Service", data["SDP_CONFIG_HOST"].removesuffix(".default")) in documents


def test_operators_find_the_pod_that_they_know() -> None:
    pod = system({})["Pod", "itango-tango-base-test"]["spec"]["containers"][0]
    assert pod["workingDir"] == "/opt/batch-imaging/tango_scripts"


def test_notes_say_what_to_type_next() -> None:
    done = helm("install", "--dry-run=client", "test", str(CHART), "-n", "control", values={})
    assert done.returncode == 0, done.stderr
    for command in (
        "kubectl exec -n control -it itango-tango-base-test -- /venv/bin/itango3",
        "kubectl get pod,pvc -n sdp",
        "helm uninstall -n control test",
    ):
        assert command in done.stdout
