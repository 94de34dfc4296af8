"""The control system installed on the cluster by its chart, and what tests do with it."""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_imaging import __version__
from batch_imaging.control.config import Config, View
from batch_imaging.control.config.entities import (
    ProcessingBlock,
    ProcessingBlockState,
    Status,
    WorkflowDefinition,
    WorkflowName,
)
from batch_imaging.errors import ConfigUnavailable

ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("BATCH_IMAGING_IMAGE", "batch-imaging:dev")
DEADLINE_S = 300.0
REASON_S = 180.0
"""For what takes long, and for the reason of a failure: far more than on an idle machine."""
KINDS = "all,pvc,cm,secret,sa,role,rolebinding,networkpolicy"
ALWAYS_THERE = ("configmap/kube-root-ca.crt", "secret/default-token-", "serviceaccount/default")
PB_LABEL = "batch-imaging/pb-id"
SMALL: dict[str, Any] = {
    "n_workers": 2,
    "nfreqwin": 4,
    "ntimes": 3,
    "rmax": 300.0,
    "imaging": {"npixel": 256, "cellsize": 0.002},
}
LONG = SMALL | {"ntimes": 12, "nfreqwin": 8, "imaging": {"npixel": 512, "cellsize": 0.001}}


def run(*command: str, deadline_s: float = DEADLINE_S, given: str | None = None) -> str:
    """Run a program and return what it prints; fail with all that it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=deadline_s, check=False, input=given or ""
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def scheduling_block(
    name: str, parameters: Mapping[str, Any], dependencies: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return an AssignResources request: a real-time block, and a batch block after it."""
    realtime, batch = f"pb-{name}-20200523-00000", f"pb-{name}-20200523-00001"
    after = [{"pb_id": realtime, "type": ["none"]}]
    return {
        "id": f"sbi-{name}-20200523-00000",
        "max_length": 21600.0,
        "scan_types": [{"id": "science"}],
        "processing_blocks": [
            {
                "id": realtime,
                "workflow": {"type": "realtime", "id": "test_realtime", "version": "0.2.0"},
                "parameters": {},
            },
            {
                "id": batch,
                "workflow": {"type": "batch", "id": "batch_imaging", "version": __version__},
                "parameters": dict(parameters),
                "dependencies": after if dependencies is None else dependencies,
            },
        ],
    }


@dataclass(frozen=True)
class Installation:
    """A release of the system chart with a control and a processing namespace of its own."""

    release: str
    control: str
    processing: str

    @classmethod
    def new(cls) -> "Installation":
        name = f"t{uuid.uuid4().hex[:6]}"
        return cls(name, f"{name}-control", f"{name}-sdp")

    def install(self, *options: str) -> None:
        repository, _, tag = IMAGE.rpartition(":")
        run(
            *("helm", "install", self.release, str(ROOT / "helm"), "-n", self.control),
            *("--create-namespace", "--wait", "--timeout", "300s"),
            *("--set", f"processing.namespace={self.processing}"),
            *("--set", f"image.repository={repository},image.tag={tag}"),
            *options,
            deadline_s=330,
        )

    def uninstall(self) -> None:
        run(
            *("helm", "uninstall", self.release, "-n", self.control, "--wait", "--timeout", "400s"),
            deadline_s=430,
        )

    def delete_namespaces(self) -> None:
        for namespace in (self.control, self.processing):
            run(
                *("kubectl", "delete", "namespace", namespace, "--ignore-not-found"),
                deadline_s=DEADLINE_S,
            )

    def kubectl(self, *arguments: str, control: bool = False) -> str:
        return run("kubectl", "-n", self.control if control else self.processing, *arguments)

    def objects(self, *arguments: str, control: bool = False) -> list[dict[str, Any]]:
        found = self.kubectl("get", *arguments, "-o", "json", control=control)
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def in_itango_pod(self, *command: str, given: str | None = None) -> str:
        pod = f"itango-tango-base-{self.release}"
        return run("kubectl", "-n", self.control, "exec", "-i", pod, "--", *command, given=given)

    def itango(self, *lines: str) -> str:
        """Type lines into iTango, and return what it says."""
        said = self.in_itango_pod("/venv/bin/itango3", given="\n".join(lines) + "\n")
        assert "Traceback" not in said, said
        return said

    def config(self) -> Config:
        service = next(
            each["metadata"]["name"]
            for each in self.objects("service", control=True)
            if each["metadata"]["name"].endswith("etcd")
        )
        return Config("etcd3", "", host=f"{service}.{self.control}", port=2379, deadline_s=60)

    def create_block(
        self, parameters: Mapping[str, Any], version: str = __version__, image: str | None = None
    ) -> str:
        """Create a batch block with no scheduling block, and return its id."""
        pb_id = f"pb-{uuid.uuid4().hex[:8]}-20200523-00000"
        name = WorkflowName(type="batch", id="batch_imaging", version=version)
        block = ProcessingBlock(id=pb_id, sbi_id=None, workflow=name, parameters=dict(parameters))
        with self.config() as config:
            for txn in config.txn():
                if image:
                    txn.set_workflow(name, WorkflowDefinition(image=image))
                txn.create_processing_block(block)
        return pb_id

    def wait(
        self, pb_id: str, condition: Callable[[ProcessingBlockState], bool], deadline_s: float
    ) -> ProcessingBlockState:
        """Return the block's state as soon as a condition holds for it."""

        def holds(view: View) -> bool:
            state = view.get_processing_block_state(pb_id)
            return state is not None and (condition(state) or state.status.ended)

        deadline = time.monotonic() + deadline_s
        while True:
            with suppress(ConfigUnavailable), self.config() as config, config.follow() as follower:
                while not holds(follower.view):
                    state = follower.view.get_processing_block_state(pb_id)
                    assert time.monotonic() < deadline, f"{pb_id}: {state}\n{self.describe()}"
                    follower.wait(1.0)
                state = follower.view.get_processing_block_state(pb_id)
                assert state is not None
                return state
            assert time.monotonic() < deadline, f"{pb_id}: etcd does not answer"
            time.sleep(1.0)

    def wait_for_stage(self, pb_id: str, prefix: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until a block has come to a stage; fail if it ends before."""
        state = self.wait(pb_id, lambda at: (at.stage or "").startswith(prefix), deadline_s)
        assert not state.status.ended, state

    def wait_for_end(self, pb_id: str, deadline_s: float = DEADLINE_S) -> tuple[Status, str]:
        """Wait until a block has ended and return its status and reason."""
        state = self.wait(pb_id, lambda _: False, deadline_s)
        return state.status, state.reason or ""

    def describe(self) -> str:
        """Return what a person would look at first."""
        return self.kubectl("get", "pods,pvc,jobs", "-o", "wide") + self.kubectl(
            "get", "events", "--sort-by=.lastTimestamp"
        )

    def left_over(self, pb_id: str) -> list[str]:
        """Return what is there for a block, but for its buffers and its finished script."""
        names = self.kubectl("get", KINDS, "-l", f"{PB_LABEL}={pb_id}", "-o", "name").split()
        kept = ("buff-", f"proc-{pb_id}-workflow")
        return [name for name in names if not any(each in name for each in kept)]

    def assert_nothing_left(self, pb_id: str, deadline_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + deadline_s
        while left := self.left_over(pb_id):
            assert time.monotonic() < deadline, f"{pb_id}: {left}\n{self.describe()}"
            time.sleep(1.0)

    def assert_only(self, names: list[str]) -> None:
        """Wait until nothing else is in the namespaces; helm does not wait for pods."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self._found()) != names:
            assert time.monotonic() < deadline, found
            time.sleep(1.0)

    def _found(self) -> list[str]:
        listed = [self.kubectl("get", KINDS, "-o", "name", control=each) for each in (False, True)]
        names = " ".join(listed).split()
        return [name for name in names if not name.startswith(ALWAYS_THERE)]

    def forget(self, pb_id: str) -> None:
        """Delete a block's buffers and the deployment of its script."""
        with self.config() as config:
            for txn in config.txn():
                for deploy_id in txn.list_deployments():
                    if pb_id in deploy_id:
                        txn.delete_deployment(deploy_id)
