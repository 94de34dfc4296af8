"""The charts of a processing block on the cluster that KUBECONFIG names, each by itself.

The test speaks to the Dask engine too, so it runs where the cluster's services have addresses.
"""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from operator import neg
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from rendering import CHARTS, chart_values

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    # The Python of the tests need not be the image's.
    pytest.mark.filterwarnings("ignore:Mismatched versions"),
    pytest.mark.skipif(
        "KUBECONFIG" not in os.environ or not shutil.which("helm") or not shutil.which("kubectl"),
        reason="no cluster: KUBECONFIG, helm and kubectl are needed",
    ),
]

IMAGE = os.environ.get("BATCH_IMAGING_IMAGE", "batch-imaging:dev")
DEADLINE_S = 240.0
GRACE_S: int = chart_values(CHARTS / "dask-ee")["worker"]["terminationGracePeriodSeconds"]
SMALL: dict[str, Any] = {
    "image": IMAGE,
    "pb_id": "pb-charts",
    "scheduler": {"resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}},
    "worker": {
        "replicas": 2,
        "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "20m"}},
    },
}


class Namespace:
    """A namespace of its own, where pods that are not restricted are refused."""

    def __init__(self) -> None:
        self.name = f"charts-{uuid.uuid4().hex[:8]}"

    def run(self, program: str, *arguments: str, given: str = "", check: bool = True) -> str:
        done = subprocess.run(
            [program, "--namespace", self.name, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S + 60,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0 or not check, f"{program} {' '.join(arguments)}: {said}"
        return done.stdout if done.returncode == 0 else said

    def helm(self, *arguments: str, check: bool = True) -> str:
        return self.run("helm", *arguments, check=check)

    def kubectl(self, *arguments: str, given: str = "") -> str:
        return self.run("kubectl", *arguments, given=given)

    def install(self, release: str, chart: str, values: dict[str, Any], *options: str) -> None:
        """Install a chart, or upgrade what is there."""
        self.run(
            "helm",
            *("upgrade", "--install", release, str(CHARTS / chart), "--values", "-"),
            *(f"--timeout={DEADLINE_S:g}s", *options),
            given=json.dumps(values),
        )

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        listed = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return list(listed["items"])

    @contextmanager
    def client(self, engine: str) -> Iterator[Client]:
        """Yield a client of an engine whose workers are there."""
        address = f"tcp://{engine}-scheduler.{self.name}:8786"
        with Client(address, timeout=DEADLINE_S) as client:
            client.wait_for_workers(SMALL["worker"]["replicas"], timeout=DEADLINE_S)
            yield client

    def wait(self, reason: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < deadline, f"{reason}: {self.kubectl('get', 'all,pvc')}"
            time.sleep(0.5)

    def uninstall(self, release: str) -> None:
        """Remove a release, and assert that nothing of it stays."""
        self.helm("uninstall", release)
        kinds = "pod,job,deployment,replicaset,service,configmap,secret,pvc,networkpolicy"
        selector = f"--selector=app.kubernetes.io/instance={release}"
        self.wait(f"{release} is still there", lambda: not self.objects(kinds, selector))
        assert not self.objects("secret", f"--selector=owner=helm,name={release}")


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    namespace = Namespace()
    namespace.kubectl("create", "namespace", namespace.name)
    try:
        restricted = "pod-security.kubernetes.io/enforce=restricted"
        namespace.kubectl("label", "namespace", namespace.name, restricted)
        yield namespace
    finally:
        namespace.kubectl("delete", "namespace", namespace.name, f"--timeout={DEADLINE_S:g}s")


@pytest.fixture(scope="module")
def buffer(namespace: Namespace) -> Iterator[str]:
    name = "buff-charts"
    namespace.install(name, "buffer", {"size": "10Mi", "image": IMAGE})
    yield name
    namespace.uninstall(name)


@pytest.fixture(scope="module")
def engine(namespace: Namespace, buffer: str) -> Iterator[str]:
    name = "proc-charts-dask"
    namespace.install(name, "dask-ee", SMALL | {"buffers": [buffer]}, "--wait")
    yield name
    namespace.uninstall(name)


def test_a_buffer_is_bound_and_can_be_written_to(namespace: Namespace, buffer: str) -> None:
    assert "Succeeded" in namespace.helm("test", buffer)
    (claim,) = namespace.objects("pvc")
    assert claim["metadata"]["name"] == buffer
    assert claim["status"]["phase"] == "Bound"


def test_an_engine_computes_on_its_workers_and_writes_to_its_buffer(
    namespace: Namespace, buffer: str, engine: str
) -> None:
    assert "Succeeded" in namespace.helm("test", engine)
    file = Path("/buffer", buffer, "from-workers")
    with namespace.client(engine) as client:
        assert client.gather(client.map(neg, range(100))) == [-i for i in range(100)]
        assert set(client.run(os.getuid).values()) == {1000}
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {"1"}
        workers = client.scheduler_info(n_workers=-1)["workers"]
        first, second = workers
        client.run(file.write_text, "written", workers=[first])
        assert client.run(file.read_text, workers=[second]) == {second: "written"}
        limits = {worker["memory_limit"] for worker in workers.values()}
        assert limits == {int(0.95 * 512 * 2**20)}


def test_a_worker_that_is_told_to_end_does_so_by_itself(namespace: Namespace, engine: str) -> None:
    selector = f"app.kubernetes.io/instance={engine},app.kubernetes.io/component=worker"

    def worker() -> dict[str, Any]:
        pods = namespace.objects("pod", "--selector", selector)
        first = min(pods, key=lambda pod: pod["metadata"]["name"])
        return {"pod": first["metadata"]["name"], **first["status"]["containerStatuses"][0]}

    before = worker()
    assert before["restartCount"] == 0
    # Nothing else would end it.
    told = namespace.kubectl(
        "exec", before["pod"], "--", "sh", "-c", "date -u +%Y-%m-%dT%H:%M:%SZ; kill -TERM 1"
    )
    namespace.wait("the worker has not ended", lambda: worker()["restartCount"] == 1)
    after = worker()
    assert after["pod"] == before["pod"]
    ended = after["lastState"]["terminated"]
    assert ended["exitCode"] == 0
    took = datetime.fromisoformat(ended["finishedAt"]) - datetime.fromisoformat(told.strip())
    assert took.total_seconds() <= GRACE_S
    deadline = f"--timeout={DEADLINE_S:g}s"
    namespace.kubectl("rollout", "status", f"deployment/{engine}-worker", deadline)


def test_the_logs_of_an_engine_that_failed_are_copied_into_its_buffer(
    namespace: Namespace, buffer: str, engine: str
) -> None:
    logs = {"scheduler.log": "first line\nout of memory\n", "worker-1.log": 'é "quoted" {{ x }}\n'}
    failed = SMALL["worker"] | {"replicas": 0}
    values = SMALL | {"buffers": [buffer]}
    namespace.install(engine, "dask-ee", values | {"worker": failed, "postmortem": {"logs": logs}})
    namespace.kubectl(
        *("wait", "--for=condition=complete", f"job/{engine}-logs", f"--timeout={DEADLINE_S:g}s")
    )
    namespace.install(engine, "dask-ee", values, "--wait")
    folder = Path("/buffer", buffer, "logs")
    with namespace.client(engine) as client:
        for name, text in logs.items():
            assert client.submit((folder / name).read_text).result(timeout=DEADLINE_S) == text


@pytest.fixture
def database(namespace: Namespace) -> Iterator[dict[str, Any]]:
    manifest = Path(__file__).with_name("database.yaml").read_text().replace("IMAGE", IMAGE)
    namespace.kubectl("apply", "--filename", "-", given=manifest)
    namespace.kubectl("wait", "--for=condition=ready", "pod/etcd", f"--timeout={DEADLINE_S:g}s")
    yield {"SDP_CONFIG_HOST": f"etcd.{namespace.name}", "SDP_CONFIG_PORT": 2379}
    namespace.kubectl("delete", "pod/etcd", "service/etcd")


@pytest.fixture
def script(namespace: Namespace) -> Iterator[str]:
    name = "proc-charts-workflow"
    yield name
    namespace.uninstall(name)


def test_a_script_runs_once_and_reaches_the_database(
    namespace: Namespace, database: dict[str, Any], script: str
) -> None:
    namespace.install(script, "workflow", {"wf_image": IMAGE, "pb_id": "pb-no", "env": database})
    assert "Succeeded" in namespace.helm("test", script)
    namespace.kubectl(
        *("wait", "--for=condition=failed", f"job/{script}", f"--timeout={DEADLINE_S:g}s")
    )
    assert "pb-no" in namespace.kubectl("logs", f"job/{script}")
    pods = namespace.objects("pod", f"--selector=job-name={script}")
    assert [pod["status"]["phase"] for pod in pods] == ["Failed"]


def test_a_script_without_a_database_says_so_in_its_test(namespace: Namespace, script: str) -> None:
    values = {"wf_image": IMAGE, "pb_id": "pb-no", "env": {"SDP_CONFIG_HOST": "nowhere"}}
    namespace.install(script, "workflow", values)
    assert "fail" in namespace.helm("test", script, "--logs", check=False).lower()
    assert "nowhere" in namespace.kubectl("logs", f"pod/{script}-test")
    namespace.kubectl("delete", "pod", f"{script}-test")
