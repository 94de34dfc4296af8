"""Buffers and the Dask engine of a processing block, as deployments that a deployer makes real."""

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_imaging.control.config import Config, Transaction
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    engine_deployment_id,
    workflow_deployment_id,
)
from batch_imaging.control.config.quantity import parse_quantity, quantity_text
from batch_imaging.control.config.reader import deploy_state_path
from batch_imaging.control.leader import HELM_DEPLOYER, leader_path
from batch_imaging.errors import (
    ClusterStartTimeout,
    ConfigVanished,
    ControlError,
    DataError,
    EngineError,
    ResourceError,
)
from batch_imaging.execution.engines.address import address_executor
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.plan import Plan
from batch_imaging.kubernetes_names import engine_name, release_name
from batch_imaging.parameters import Parameters
from batch_imaging.workflow.claimed_block import ClaimedBlock

LOG = logging.getLogger("batch_imaging")

BUFFER_DEADLINE_S = 120.0
ENGINE_DEADLINE_S = 300.0
SILENT_DEPLOYER_S = 10.0
"""A deployer that writes no states is one of the SDP prototype, whose names are known."""
SPARE = 1.25
GIB = 2**30
UNKNOWN_IMAGES_BYTES = 10 * GIB


@dataclass(frozen=True, slots=True)
class BufferRequest:
    """A buffer that a block needs.

    Attributes
    ----------
    data_bytes: what the block will write into it.
    size_bytes: of the buffer, if it is made.
    storage_class: None for the installation's.
    """

    name: str
    data_bytes: int
    size_bytes: int
    storage_class: str | None = None

    def check_size(self, what: str, size_bytes: int, way_out: str) -> None:
        """Warn of a buffer with little to spare.

        Raises
        ------
        ResourceError: the data will not fit.
        """
        text = (
            f"{self.name}: {what} {quantity_text(size_bytes)}, and about "
            f"{quantity_text(self.data_bytes)} will be written; {way_out}"
        )
        if size_bytes < self.data_bytes:
            raise ResourceError(text)
        if size_bytes < SPARE * self.data_bytes:
            LOG.warning("%s", text)


def request_buffers(parameters: Parameters, plan: Plan) -> tuple[BufferRequest, ...]:
    """Return the buffers for a plan, with the sizes that were asked for or are needed.

    Raises
    ------
    ResourceError: a size that was asked for is less than the data.
    """
    vis, img = str(parameters.buffer_vis), str(parameters.buffer_img)
    vis_size, img_size = parameters.buffer_vis_size, parameters.buffer_img_size
    vis_bytes, img_bytes = plan.measurement_set_bytes, plan.disk_bytes - plan.measurement_set_bytes
    wanted = [(vis, vis_bytes, [vis_size]), (img, img_bytes, [img_size])]
    if vis == img:
        wanted = [(vis, plan.disk_bytes, [vis_size, img_size])]
    requests = []
    for name, data_bytes, sizes in wanted:
        asked_bytes = max((parse_quantity(size) for size in sizes if size), default=None)
        size_bytes = needed_size_bytes(data_bytes) if asked_bytes is None else asked_bytes
        request = BufferRequest(name, data_bytes, size_bytes, parameters.buffer_class)
        request.check_size(
            "its size is to be", size_bytes, "ask for more in buffer_vis_size and buffer_img_size"
        )
        requests.append(request)
    return tuple(requests)


def request_images(parameters: Parameters) -> tuple[BufferRequest, ...]:
    """Return the buffer of the images where nobody knows yet how large those will be."""
    asked = parameters.buffer_img_size
    size_bytes = parse_quantity(asked) if asked else UNKNOWN_IMAGES_BYTES
    return (BufferRequest(str(parameters.buffer_img), 0, size_bytes, parameters.buffer_class),)


def needed_size_bytes(data_bytes: int) -> int:
    """Return the size of a buffer for so much data: whole GiB, with some to spare."""
    return max(1, math.ceil(SPARE * data_bytes / GIB)) * GIB


def reserve_buffers(
    claimed: ClaimedBlock, requests: Sequence[BufferRequest], retain: bool
) -> dict[str, Path]:
    """Create buffers, or take those that exist, and return their folders by name.

    A buffer that exists keeps its size and class. One that is not retained goes when all blocks
    that use it have ended, unless it was there before: the controller sees to that.

    Raises
    ------
    ControlError: a deployment of that name is no buffer.
    ResourceError: a buffer that exists is too small.
    EngineError: a buffer could not be made.
    """
    for request in requests:
        _reserve_buffer(claimed, request, retain)
    folders = {}
    for request in requests:
        state = _wait_until_running(claimed.config, request.name, BUFFER_DEADLINE_S)
        default = f"/buffer/{request.name}"
        folders[request.name] = Path(state.path if state and state.path else default)
    return folders


def take_buffer(claimed: ClaimedBlock, name: str) -> Path:
    """Return the folder of a buffer that is there; it is not changed, and stays.

    In a cluster this may also be a claim that no deployment has made: the pods of the engine say
    if it is missing.

    Raises
    ------
    DataError: there is no such buffer.
    """
    deployment, is_cluster = None, False
    for txn in claimed.config.txn():
        deployment = txn.get_deployment(name)
        has_leader = txn.raw.value(leader_path(HELM_DEPLOYER)) is not None
        is_cluster = has_leader or _is_prototype(txn)
    if deployment is None and is_cluster:
        return Path("/buffer", name)
    if deployment is None or deployment.chart != "buffer":
        raise DataError(
            f"{name}: there is no such buffer, which input.buffer names; "
            "`batch-imaging buffers list` shows all"
        )
    state = _wait_until_running(claimed.config, name, BUFFER_DEADLINE_S)
    return Path(state.path if state and state.path else f"/buffer/{name}")


def _reserve_buffer(claimed: ClaimedBlock, request: BufferRequest, retain: bool) -> None:
    existing = None
    for txn in claimed.config.txn():
        existing = txn.get_deployment(request.name)
        if existing is None:
            values = {"size": _exact_quantity(request.size_bytes)} | _identity(claimed)
            if request.storage_class:
                values["class"] = request.storage_class
            args: dict[str, Any] = {"chart": "buffer", "values": values}
            if not retain:
                args["retain"] = False
            txn.create_deployment(Deployment(id=request.name, type="helm", args=args))
        elif existing.chart == "buffer" and retain and not existing.retain:
            args = {name: value for name, value in existing.args.items() if name != "retain"}
            txn.update_deployment(existing.model_copy(update={"args": args}))
    if existing is None:
        return
    if existing.chart != "buffer":
        raise ControlError(
            f"{request.name}: is a deployment of the chart {existing.chart}, not a buffer; choose "
            "other names in buffer_vis and buffer_img"
        )
    request.check_size(
        "this buffer exists with",
        parse_quantity(str(existing.values.get("size", "1Gi"))),
        "delete it, or choose other names in buffer_vis and buffer_img",
    )


def _exact_quantity(size_bytes: int) -> str:
    return str(size_bytes) if size_bytes % GIB else f"{size_bytes // GIB}Gi"


def _identity(claimed: ClaimedBlock) -> dict[str, str]:
    """Return the values by which a platform labels what belongs to a block."""
    sbi_id = claimed.block.sbi_id
    return {"pb_id": claimed.id} | ({"sbi_id": sbi_id} if sbi_id else {})


@contextmanager
def dask_engine(
    claimed: ClaimedBlock,
    n_workers: int,
    memory_limit_bytes: int,
    buffers: Sequence[str],
    source: str | None,
    logs_buffer: str,
) -> Iterator[Executor]:
    """Deploy a Dask engine and yield an executor on it. `remove_engine` removes it.

    Parameters
    ----------
    memory_limit_bytes: of one worker.
    buffers: that the workers see.
    source: a buffer that they only read, unless it is one of these.
    logs_buffer: where the last words of scheduler and workers go if they die.

    Raises
    ------
    EngineError: it did not come up within its deadline; with the deployer's reason.
    """
    config, deploy_id = claimed.config, engine_deployment_id(claimed.id)
    read_only = [source] if source and source not in buffers else []
    deadline = time.monotonic() + ENGINE_DEADLINE_S
    for txn in config.txn():
        script = txn.get_deployment(workflow_deployment_id(claimed.id))
        image = (
            {"image": script.values["wf_image"]} if script and "wf_image" in script.values else {}
        )
        values = image | {
            "worker.replicas": n_workers,
            "worker.resources.limits.memory": str(memory_limit_bytes),
            **{f"buffers[{index}]": name for index, name in enumerate([*buffers, *read_only])},
            **{f"read_only[{index}]": name for index, name in enumerate(read_only)},
            "logs_buffer": logs_buffer,
            **_identity(claimed),
        }
        args = {"chart": "dask-ee", "values": values}
        txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))
    state = _wait_until_running(config, deploy_id, ENGINE_DEADLINE_S)
    namespace = os.environ.get("SDP_HELM_NAMESPACE")
    name = engine_name(release_name(deploy_id))
    address = (state and state.scheduler) or f"tcp://{name}-scheduler.{namespace}:8786"
    left_s = deadline - time.monotonic()
    with address_executor(
        address, n_workers, left_s, lambda: _trouble(config, [deploy_id, *buffers, *read_only])
    ) as executor:
        yield executor


def remove_engine(claimed: ClaimedBlock) -> None:
    """Delete the deployment of the Dask engine, if there is one."""
    deploy_id = engine_deployment_id(claimed.id)
    for txn in claimed.config.txn():
        if txn.get_deployment(deploy_id) is None:
            return
        txn.delete_deployment(deploy_id)
    LOG.info("Removing Dask EE deployment")


def _wait_until_running(
    config: Config, deploy_id: str, deadline_s: float
) -> DeploymentState | None:
    """Wait until a deployment runs and return its state; None if its deployer writes no states."""
    begin = time.monotonic()
    for txn in config.txn():
        if txn.get_deployment(deploy_id) is None:
            raise ConfigVanished(f"/deploy/{deploy_id}", "was deleted while it was waited for")
        state = txn.get_deployment_state(deploy_id)
        if state and state.status == DeploymentStatus.FAILED:
            raise EngineError(f"{deploy_id}: {state.reason}")
        if state and state.status == DeploymentStatus.RUNNING:
            return state
        waited_s = time.monotonic() - begin
        if state is None and waited_s > SILENT_DEPLOYER_S and _is_prototype(txn):
            return None
        if waited_s > deadline_s:
            said = (state and state.reason) or "no deployer has taken it up; does one run?"
            raise ClusterStartTimeout(f"{deploy_id}: was not there within {deadline_s:g} s: {said}")
        txn.loop(wait=True, timeout=min(deadline_s - waited_s, SILENT_DEPLOYER_S) + 0.1)
    return None


def _is_prototype(txn: Transaction) -> bool:
    """Whether the deployer, if there is one, is that of the SDP prototype: it says nothing."""
    return (
        "SDP_HELM_NAMESPACE" in os.environ
        and txn.raw.value(leader_path(HELM_DEPLOYER)) is None
        and not any(txn.raw.value(deploy_state_path(each)) for each in txn.list_deployments())
    )


def _trouble(config: Config, deploy_ids: Sequence[str]) -> str:
    """Return what the deployer says of deployments; raise if one has failed."""
    states: dict[str, DeploymentState | None] = {}
    for txn in config.txn():
        states = {each: txn.get_deployment_state(each) for each in deploy_ids}
    for deploy_id, state in states.items():
        if state and state.status == DeploymentStatus.FAILED:
            raise EngineError(f"{deploy_id}: {state.reason}")
    return "; ".join(state.reason for state in states.values() if state and state.reason)
