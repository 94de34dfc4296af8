"""`batch-imaging fetch` from a claim of the cluster that KUBECONFIG names."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from installation import DEADLINE_S, IMAGE, run

pytestmark = pytest.mark.cluster

CLAIM = "buff-fetch-img"
BIG_BYTES = 200 * 2**20
FILL = f"""
import os
os.chdir("/buffer")
os.makedirs("set.ms/ANTENNA")
for path in ("set.ms/table.dat", "set.ms/ANTENNA/table.f0", "image.fits"):
    open(path, "wb").write(os.urandom(3_000_000))
with open("big.fits", "wb") as file:
    file.truncate({BIG_BYTES})
os.symlink("/proc/version", "link")
"""


@dataclass(frozen=True)
class Claims:
    """A namespace in which pods must be restricted, with a claim that has products."""

    namespace: str

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        return run("kubectl", "-n", self.namespace, *arguments, given=given)

    def pods(self) -> list[str]:
        """Return the pods of fetches that are not on their way out."""
        found = json.loads(
            self.kubectl("get", "pod", "-l", "app.kubernetes.io/name=fetch", "-o", "json")
        )
        return [
            each["metadata"]["name"]
            for each in found["items"]
            if "deletionTimestamp" not in each["metadata"]
        ]

    def popen(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "batch_imaging", "fetch", *map(str, arguments)],
            env=os.environ | {"SDP_HELM_NAMESPACE": self.namespace},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fetch(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Run the command to its end; return exit code, stdout and stderr."""
        with self.popen(*arguments) as process:
            out, err = process.communicate(timeout=DEADLINE_S)
        assert self.pods() == []
        return process.returncode, out, err


@pytest.fixture(scope="module")
def claims() -> Iterator[Claims]:
    claims = Claims(f"fetch-{uuid.uuid4().hex[:6]}")
    run("kubectl", "create", "namespace", claims.namespace)
    try:
        enforce = "pod-security.kubernetes.io/enforce=restricted"
        run("kubectl", "label", "namespace", claims.namespace, enforce)
        claims.kubectl("create", "-f", "-", given=json.dumps(claim()))
        claims.kubectl("create", "-f", "-", given=json.dumps(filler()))
        done = "--for=jsonpath={.status.phase}=Succeeded"
        claims.kubectl("wait", done, "pod/fill", "--timeout=90s")
        yield claims
    finally:
        run("kubectl", "delete", "namespace", claims.namespace, "--wait=false")


def claim() -> dict:
    resources = {"requests": {"storage": "1Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": resources},
    }


def filler() -> dict:
    """Return a pod that makes products as a worker would, and has the labels of ours."""
    container = {
        "name": "fill",
        "image": IMAGE,
        "command": ["/venv/bin/python", "-c", FILL],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "buffer", "mountPath": "/buffer"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "fill", "labels": {"app.kubernetes.io/part-of": "batch-imaging"}},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "securityContext": {
                "fsGroup": 1000,
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "buffer", "persistentVolumeClaim": {"claimName": CLAIM}}],
        },
    }


def test_products_come_whole_and_only_once(claims, tmp_path):
    products = [tmp_path / name for name in ("big.fits", "image.fits", "set.ms")]
    code, out, err = claims.fetch(CLAIM, tmp_path)
    assert (code, out.split()) == (0, [str(each) for each in products]), err
    assert "link: is a link or a special file; it was not copied" in err
    assert (tmp_path / "big.fits").stat().st_size == BIG_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == [each.name for each in products]
    assert (tmp_path / "set.ms" / "ANTENNA" / "table.f0").stat().st_size == 3_000_000
    code, out, err = claims.fetch(CLAIM, tmp_path, "--include", "*.ms")
    assert (code, out) == (0, f"{tmp_path / 'set.ms'}\n")
    assert err == "Copied 0 of 1 products (0B); what was there already is the same.\n"


def test_the_pod_is_restricted_and_ends_by_itself(claims, tmp_path):
    with claims.popen(CLAIM, tmp_path, "--timeout", "45") as process:
        (name,) = pod_of(claims, process)
        spec = json.loads(claims.kubectl("get", "pod", name, "-o", "json"))["spec"]
        process.communicate(timeout=DEADLINE_S)
    assert spec["activeDeadlineSeconds"] == 45
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    (container,) = spec["containers"]
    assert [each["readOnly"] for each in container["volumeMounts"]] == [True]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["image"] == IMAGE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_pod_and_no_half_product(claims, tmp_path, number):
    with claims.popen(CLAIM, tmp_path) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not (tmp_path / "big.fits.partial").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode in {128 + number, -number}
    assert claims.pods() == []
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_a_pod_that_is_deleted_in_the_middle(claims, tmp_path):
    with claims.popen(CLAIM, tmp_path) as process:
        (name,) = pod_of(claims, process)
        claims.kubectl("delete", "pod", name, "--wait=false")
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode in {5, 7}
    assert err.startswith("error: ")


def test_a_claim_that_nobody_can_provide(claims, tmp_path):
    nowhere = claim()
    nowhere["metadata"] = {"name": "buff-nowhere"}
    nowhere["spec"] |= {"storageClassName": "no-such-class"}
    claims.kubectl("create", "-f", "-", given=json.dumps(nowhere))
    code, _, err = claims.fetch("buff-nowhere", tmp_path)
    claims.kubectl("delete", "pvc", "buff-nowhere")
    assert code == 7
    assert "Unschedulable" in err
    assert "no-such-class" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["buff-x"], 3, f"no such claim in namespace fetch-.*; there are {CLAIM}"),
        (
            [CLAIM, "--image", "batch-imaging:no-such-tag"],
            7,
            "did not start within .*Image.*no-such-tag",
        ),
        ([CLAIM, "-n", "default"], 3, "no such claim in namespace default; there is none"),
        (
            [CLAIM, "--include", "*.txt"],
            3,
            r"nothing to copy matches \*\.txt; on top there are big",
        ),
    ],
)
def test_mistakes_in_words(claims, tmp_path, arguments, code, words):
    name, *options = arguments
    found, out, err = claims.fetch(name, tmp_path, *options)
    assert (found, out) == (code, "")
    assert re.search(words, err), err


def test_without_a_cluster(tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "batch_imaging", "fetch", CLAIM, str(tmp_path)],
        env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 7
    assert done.stderr.startswith("error: kubectl get: ")


def pod_of(claims: Claims, process: subprocess.Popen[str]) -> list[str]:
    """Return the pod of a fetch that runs, as soon as there is one."""
    deadline = time.monotonic() + DEADLINE_S
    while not (pods := claims.pods()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    return pods
