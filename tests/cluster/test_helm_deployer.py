"""The Helm deployer as a process, on a real cluster and a real etcd."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from installation import DEADLINE_S, IMAGE, REASON_S, ROOT, run

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import Deployment
from batch_imaging.control.deployer.drain import drain
from batch_imaging.control.standalone.etcd_server import etcd_command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LOG_LINES = 40
NO_ROOM = {f"resources.{each}.memory": "9Ti" for each in ("requests", "limits")}
SMALL_MEMORY = {"worker.resources.limits.memory": "400Mi"}


class DeployerOnCluster:
    """A namespace, an etcd server, and a deployer that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace = f"deployer-{uuid.uuid4().hex[:8]}"
        self._processes: dict[str, subprocess.Popen] = {}
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            self.ports = [each.getsockname()[1] for each in sockets]

    def start(self, name: str) -> None:
        if name == "etcd":
            command = [*etcd_command(self.folder / "data", *self.ports), "--unsafe-no-fsync"]
        else:
            command = [sys.executable, "-m", "batch_imaging", "helm-deployer"]
            command += ["--namespace", self.namespace, "--charts", str(ROOT / "charts")]
            command += ["--defaults", str(self.folder / "defaults.yaml")]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=os.environ
                | {"SDP_CONFIG_HOST": "127.0.0.1", "SDP_CONFIG_PORT": str(self.ports[0])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def etcd_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[0])) == 0

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(90)

    def log(self, name: str = "deployer") -> str:
        return (self.folder / f"{name}.log").read_text()

    def open(self) -> None:
        defaults = {"dask-ee": {"image": IMAGE}, "workflow": {"wf_image": IMAGE}}
        (self.folder / "defaults.yaml").write_text(yaml.safe_dump(defaults))
        run("kubectl", "create", "namespace", self.namespace)
        self.start("etcd")
        self.wait(self.etcd_listens, "etcd", 30)
        self.config = Config("etcd3", host="127.0.0.1", port=self.ports[0], deadline_s=30)
        self.start("deployer")

    def close(self) -> None:
        for name in reversed(tuple(self._processes)):
            self.kill(name)
        self.config.close()
        run("kubectl", "delete", "namespace", self.namespace, "--wait=false")

    def create(self, deploy_id: str, chart: str, **values) -> None:
        args = {"chart": chart, "values": values}
        for txn in self.config.txn():
            txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))

    def change(self, deploy_id: str, **values) -> None:
        for txn in self.config.txn():
            old = txn.get_deployment(deploy_id)
            args = old.args | {"values": old.values | values}
            txn.raw.update(f"/deploy/{deploy_id}", {**old.to_object(), "args": args})

    def delete(self, deploy_id: str) -> None:
        for txn in self.config.txn():
            txn.delete_deployment(deploy_id)

    def state(self, deploy_id: str):
        state = None
        for txn in self.config.txn():
            state = txn.get_deployment_state(deploy_id)
        return state

    def until(self, deploy_id: str, status: str, deadline_s: float = DEADLINE_S, words: str = ""):
        def is_so():
            state = self.state(deploy_id)
            return state and state.status == status and words in (state.reason or "") and state

        return self.wait(is_so, f"{deploy_id} {status} {words}", deadline_s)

    def wait(self, is_so, what: str, deadline_s: float = DEADLINE_S):
        deadline = time.monotonic() + deadline_s
        while not (found := is_so()):
            if time.monotonic() > deadline:
                said = "\n".join(self.log().splitlines()[-LOG_LINES:])
                pytest.fail(f"{what} within {deadline_s:g} s\n{self.get('all,pvc')}{said}")
            time.sleep(0.25)
        return found

    def kubectl(self, *arguments: str) -> str:
        return run("kubectl", "-n", self.namespace, *arguments)

    def helm(self, *arguments: str) -> str:
        return run("helm", "-n", self.namespace, *arguments)

    def get(self, kinds: str, deploy_id: str | None = None) -> str:
        of = ("-l", f"app.kubernetes.io/instance={deploy_id}") if deploy_id else ()
        return self.kubectl("get", kinds, "-o", "name", *of)

    def until_gone(self, deploy_id: str) -> None:
        """Wait until nothing of a deployment is left, in the cluster or Helm's records."""
        self.wait(
            lambda: (
                not self.get("all,pvc,cm,networkpolicy", deploy_id)
                and not self.kubectl("get", "secret", "-o", "name", "-l", f"name={deploy_id}")
            ),
            f"{deploy_id} gone",
        )


def open_system(folder: Path):
    system = DeployerOnCluster(folder)
    system.open()
    return system


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    system = open_system(tmp_path_factory.mktemp("deployer"))
    yield system
    system.close()


@pytest.fixture
def system(shared):
    """The shared one; after the test no deployments are left in it, and nothing of them."""
    yield shared
    ids = []
    for txn in shared.config.txn():
        ids = txn.list_deployments()
        for deploy_id in ids:
            txn.delete_deployment(deploy_id)
    for deploy_id in ids:
        shared.until_gone(deploy_id)


def test_a_buffer_is_a_claim(system):
    system.create("buff-a-img", "buffer", size="1Mi", accessModes=["ReadWriteOnce"])
    assert system.until("buff-a-img", "RUNNING").path == "/buffer/buff-a-img"
    claim = json.loads(system.kubectl("get", "pvc", "buff-a-img", "-o", "json"))
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Mi"
    assert claim["status"]["phase"] == "Bound"


def test_a_script_ends_with_its_last_words(system):
    system.create("proc-pb-a-workflow", "workflow", pb_id="pb-a", **{"env.SDP_CONFIG_PORT": "x"})
    state = system.until("proc-pb-a-workflow", "FAILED")
    assert "exit code 7: error: SDP_CONFIG_PORT = x" in state.reason
    assert list(state.pods.values()) == ["FAILED"]
    assert "exit code" not in run(*state.log.split())


def test_an_engine_comes_grows_and_goes(system):
    system.create("proc-pb-b-dask", "dask", **SMALL_MEMORY, **{"worker.replicas": 1})
    state = system.until("proc-pb-b-dask", "RUNNING")
    address = f"proc-pb-b-dask-scheduler.{system.namespace}:8786"
    assert state.scheduler.removeprefix("tcp://") == address
    system.change("proc-pb-b-dask", **{"worker": {"replicas": 2}, "worker.replicas": 2})
    system.until("proc-pb-b-dask", "FAILED", words="contradicts")
    system.change("proc-pb-b-dask", **{"worker": {}, "worker.replicas": 2})
    system.wait(lambda: len(system.state("proc-pb-b-dask").pods or {}) == 3, "3 pods")
    system.until("proc-pb-b-dask", "RUNNING")
    system.delete("proc-pb-b-dask")
    system.until_gone("proc-pb-b-dask")


def test_a_lost_scheduler_is_a_failure_and_its_logs_are_kept(system):
    system.create("buff-c-img", "buffer", size="1Mi")
    values = SMALL_MEMORY | {"worker.replicas": 1, "buffers[0]": "buff-c-img"}
    system.create("proc-pb-c-dask", "dask-ee", **values)
    system.until("proc-pb-c-dask", "RUNNING")
    pod = system.get("pod", "proc-pb-c-dask").split("scheduler-")[1].split()[0]
    speak = ("sh", "-c", "echo last words > /proc/1/fd/2")
    system.kubectl("exec", "deploy/proc-pb-c-dask-worker", "--", *speak)
    system.kill("deployer")
    name = f"proc-pb-c-dask-scheduler-{pod}"
    system.kubectl("delete", "pod", name, "--wait=false", "--grace-period=1")
    system.start("deployer")
    state = system.until("proc-pb-c-dask", "FAILED", REASON_S)
    assert f"pod {name}, is gone" in state.reason
    system.delete("proc-pb-c-dask")
    system.until_gone("proc-pb-c-dask")
    assert "are in /buffer/buff-c-img/logs" in system.log()


WRONG = {
    "wrong-image": ("workflow", {"wf_image": "no-such:image"}, "no-such:image"),
    "bad-image": ("workflow", {"wf_image": "No:Image:"}, "InvalidImageName"),
    "no-room": ("workflow", NO_ROOM, "Insufficient memory"),
    "no-class": ("buffer", {"size": "1Mi", "class": "no-such"}, '"no-such" not found'),
    "no-secret": ("workflow", {"credentialsSecret": "none"}, '"none" not found'),
    "no-chart": ("a/b", {}, "chart 'a/b' is unknown here; there are buffer, dask-ee, workflow"),
    "no-value": ("buffer", {"colour": "1Gi"}, "colour"),
}


def test_the_reason_of_a_failure_is_told(system):
    for deploy_id, (chart, values, _) in WRONG.items():
        identity = {"pb_id": "pb-d"} if chart == "workflow" else {}
        system.create(deploy_id, chart, **identity, **values)
    deadline = time.monotonic() + REASON_S
    for deploy_id, (_, _, words) in WRONG.items():
        system.until(deploy_id, "FAILED", deadline - time.monotonic(), words)


def test_a_quota_is_told(system):
    system.kubectl("create", "quota", "small", "--hard=pods=0,persistentvolumeclaims=0")
    try:
        system.create("quota-script", "workflow", pb_id="pb-e")
        system.create("quota-engine", "dask-ee", **SMALL_MEMORY)
        system.create("quota-buffer", "buffer", size="1Mi")
        for deploy_id in ("quota-script", "quota-engine", "quota-buffer"):
            system.until(deploy_id, "FAILED", REASON_S, "exceeded quota: small")
    finally:
        system.kubectl("delete", "quota", "small")


def test_what_is_not_ours_is_left_alone(system):
    chart = str(ROOT / "charts/buffer")
    system.helm("install", "stranger", chart, "--set", "size=1Mi")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "hand-made"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    run("kubectl", "-n", system.namespace, "apply", "-f", "-", given=json.dumps(claim))
    try:
        system.create("stranger", "buffer", size="2Mi")
        system.create("hand-made", "buffer", size="2Mi")
        system.until("stranger", "FAILED", REASON_S, "somebody else has a Helm release")
        assert system.until("hand-made", "RUNNING").path == "/buffer/hand-made"
        system.kill("deployer", signal.SIGTERM)
        system.start("deployer")
        system.create("after", "buffer", size="1Mi")
        system.until("after", "RUNNING")
        for deploy_id in ("stranger", "hand-made", "after"):
            system.delete(deploy_id)
        system.until_gone("after")
        left = system.get("pvc").split()
        assert {f"persistentvolumeclaim/{each}" for each in ("stranger", "hand-made")} <= {*left}
    finally:
        system.helm("uninstall", "stranger")
        system.kubectl("delete", "pvc", "hand-made")


@pytest.mark.parametrize("delay_s", [0.4, 1.2])
def test_a_killed_deployer_goes_on_where_it_was(system, delay_s):
    system.create("kill-buffer", "buffer", size="1Mi")
    system.create("kill-engine", "dask-ee", **SMALL_MEMORY, **{"worker.replicas": 1})
    time.sleep(delay_s)
    system.kill("deployer")
    system.start("deployer")
    system.until("kill-buffer", "RUNNING")
    system.until("kill-engine", "RUNNING")
    system.delete("kill-engine")
    time.sleep(delay_s)
    n_before = system.log().count("holding")
    system.kill("deployer")
    system.start("deployer")
    # A buffer whose entry goes while there is no deployer stays.
    system.wait(lambda: system.log().count("holding") > n_before, "the deployer's return")
    system.until_gone("kill-engine-dask")
    system.until_gone("kill-engine")


def test_a_revision_left_pending_is_taken_over(system):
    system.create("proc-pb-f-workflow", "workflow", pb_id="pb-f", **{"env.SDP_CONFIG_PORT": "x"})
    system.until("proc-pb-f-workflow", "FAILED")
    uid = system.kubectl("get", "job", "proc-pb-f-workflow", "-o", "jsonpath={.metadata.uid}")
    system.kill("deployer")
    secret = "sh.helm.release.v1.proc-pb-f-workflow.v1"
    system.kubectl("label", "secret", secret, "--overwrite", "status=pending-install")
    system.start("deployer")
    system.wait(lambda: "proc-pb-f-workflow: installing" in system.log().rsplit("holding")[-1], "")
    system.until("proc-pb-f-workflow", "FAILED")
    again = system.kubectl("get", "job", "proc-pb-f-workflow", "-o", "jsonpath={.metadata.uid}")
    assert again == uid


def test_etcd_may_die(system):
    system.create("etcd-before", "buffer", size="1Mi")
    system.until("etcd-before", "RUNNING")
    system.kill("etcd")
    time.sleep(1)
    system.start("etcd")
    system.wait(system.etcd_listens, "etcd")
    system.create("etcd-after", "buffer", size="1Mi")
    system.until("etcd-after", "RUNNING")
    assert system.state("etcd-before").status == "RUNNING"


def test_drain_leaves_the_buffers(system):
    system.create("drain-buffer", "buffer", size="1Mi")
    system.create("drain-script", "workflow", pb_id="pb-g", **{"env.SDP_CONFIG_PORT": "x"})
    system.create("drain-engine", "dask-ee", **SMALL_MEMORY, **{"worker.replicas": 1})
    system.until("drain-engine", "RUNNING")
    system.until("drain-script", "FAILED")
    assert drain(system.config, DEADLINE_S) == ["drain-engine", "drain-script"]
    assert not system.get("all", "drain-engine")
    assert system.state("drain-buffer").status == "RUNNING"
