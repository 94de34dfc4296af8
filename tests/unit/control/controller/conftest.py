"""A database in memory, with a controller that is stepped by hand."""

from collections.abc import Callable

import pytest

from batch_imaging.control.config import Config, Follower, MemoryBackend
from batch_imaging.control.config.entities import (
    Dependency,
    Deployment,
    DeploymentState,
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    WorkflowName,
)
from batch_imaging.control.config.reader import deploy_path, pb_path
from batch_imaging.control.controller import Capacity
from batch_imaging.control.controller.definitions import Definitions
from batch_imaging.control.controller.service import Controller
from batch_imaging.control.leader import Leader

IMAGING = WorkflowName(type="batch", id="batch_imaging", version="1.0")


class ControlRoom:
    """Plays script, deployer and operator, and lets the controller do its part."""

    def __init__(self, capacity: Capacity, retention_s: float) -> None:
        self.backend = MemoryBackend()
        self.config = Config(self.backend, "")
        self.follower: Follower = self.config.follow()
        self.leader = Leader(self.config, "processing-controller")
        self.controller = Controller(self.config, self.leader, capacity, retention_s)
        self.definitions = Definitions()

    def settle(self) -> None:
        """Step until the controller has nothing more to do."""
        for _ in range(50):
            self.controller.step(self.follower.view, self.definitions)
            if not self.follower.wait(0):
                return
        raise AssertionError("the controller does not come to rest")

    def arrive(self, pb_id, *needs, sbi_id=None, workflow=IMAGING) -> None:
        dependencies = [Dependency(pb_id=each) for each in needs]
        block = ProcessingBlock(
            id=pb_id, sbi_id=sbi_id, workflow=workflow, dependencies=dependencies
        )
        for txn in self.config.txn():
            txn.create_processing_block(block)

    def claim(self, pb_id) -> None:
        for txn in self.config.txn():
            txn.take_processing_block(pb_id, self.config.client_lease)

    def disown(self, pb_id) -> None:
        for txn in self.config.txn():
            txn.raw.delete(f"/pb/{pb_id}/owner")

    def set(self, pb_id, status, **members) -> None:
        """Write a state as a script would: what is not given stays."""
        for txn in self.config.txn():
            before = txn.get_processing_block_state(pb_id)
            entry = before.to_object() if before else {}
            state = ProcessingBlockState.model_validate(entry | {"status": status} | members)
            write = (
                txn.update_processing_block_state if before else txn.create_processing_block_state
            )
            write(pb_id, state)

    def wait_with(self, pb_id, workers=0, needs=(), **buffers) -> None:
        """Bring a block so far that its script waits for resources."""
        self.arrive(pb_id, *needs)
        self.settle()
        self.claim(pb_id)
        buffers = {name.replace("_", "-"): size for name, size in buffers.items()}
        self.set(pb_id, "WAITING", resources={"workers": workers, "buffers": buffers})

    def finish(self, pb_id, status="FINISHED") -> None:
        self.set(pb_id, status)
        self.disown(pb_id)

    def schedule(self, sbi_id, status="ACTIVE") -> None:
        for txn in self.config.txn():
            block = SchedulingBlock(id=sbi_id, status=status)
            write = txn.update_scheduling_block
            if txn.get_scheduling_block(sbi_id) is None:
                write = txn.create_scheduling_block
            write(block)

    def deploy(self, deploy_id, chart="dask-ee", **values) -> None:
        for txn in self.config.txn():
            args = {"chart": chart, "values": values}
            txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))

    def deployed(self, deploy_id, status, **members) -> None:
        for txn in self.config.txn():
            txn.set_deployment_state(deploy_id, DeploymentState(status=status, **members))

    def delete(self, path) -> None:
        for txn in self.config.txn():
            txn.raw.delete(path, recurse=True)

    def state(self, pb_id) -> dict | None:
        for txn in self.config.txn():
            entry = txn.raw.get(f"{pb_path(pb_id)}/state")
        return entry

    def reason(self, pb_id) -> str | None:
        return self.state(pb_id).get("reason")

    def deployment(self, deploy_id) -> dict | None:
        for txn in self.config.txn():
            entry = txn.raw.get(deploy_path(deploy_id))
        return entry

    def is_released(self, pb_id) -> bool:
        return self.state(pb_id).get("resources_available", False)


@pytest.fixture(scope="session")
def make_room() -> Callable[..., ControlRoom]:
    """A maker of control rooms of a capacity."""

    def make(workers=None, buffers=None, retention_s=3600.0) -> ControlRoom:
        return ControlRoom(Capacity.of(workers, buffers), retention_s)

    return make


@pytest.fixture
def room(make_room) -> ControlRoom:
    """A control room without limits."""
    return make_room()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch) -> None:
    """Leave out what the environment of the tests may say of a real database."""
    for name in ("HOST", "PORT", "PROTOCOL", "PREFIX"):
        monkeypatch.delenv(f"SDP_CONFIG_{name}", raising=False)
    monkeypatch.delenv("SDP_HELM_NAMESPACE", raising=False)
