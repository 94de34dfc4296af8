"""Buffers and the Dask engine of a processing block, as deployments that a deployer makes real."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    engine_deployment_id,
    workflow_deployment_id,
)
from batch_imaging.control.config.quantity import parse_quantity
from batch_imaging.errors import (
    ClusterStartTimeout,
    ConfigVanished,
    ControlError,
    EngineError,
    ResourceError,
)
from batch_imaging.execution.engines.address import address_executor
from batch_imaging.execution.executor import Executor
from batch_imaging.workflow.claimed_block import ClaimedBlock

LOG = logging.getLogger("batch_imaging")

BUFFER_DEADLINE_S = 120.0
ENGINE_DEADLINE_S = 300.0
SILENT_DEPLOYER_S = 10.0
"""A deployer that writes no states is one of the SDP prototype, whose names are known."""
SPARE = 1.25
GIB = 2**30


def buffer_size_bytes(needed_bytes: int) -> int:
    """Return the size of a buffer for so much data: whole GiB, with some to spare."""
    return max(1, math.ceil(SPARE * needed_bytes / GIB)) * GIB


def reserve_buffers(claimed: ClaimedBlock, sizes_bytes: Mapping[str, int]) -> dict[str, Path]:
    """Create buffers, or take those that exist, and return their folders by name.

    Raises
    ------
    ControlError: a deployment of that name is no buffer.
    ResourceError: a buffer that exists is too small.
    EngineError: a buffer could not be made.
    """
    for name, size_bytes in sizes_bytes.items():
        _reserve_buffer(claimed.config, name, size_bytes)
    folders = {}
    for name in sizes_bytes:
        state = _wait_until_running(claimed.config, name, BUFFER_DEADLINE_S)
        folders[name] = Path(state.path if state and state.path else f"/buffer/{name}")
    return folders


def _reserve_buffer(config: Config, name: str, size_bytes: int) -> None:
    for txn in config.txn():
        existing = txn.get_deployment(name)
        if existing is None:
            args = {"chart": "buffer", "values": {"size": f"{size_bytes // GIB}Gi"}}
            txn.create_deployment(Deployment(id=name, type="helm", args=args))
        elif existing.chart != "buffer":
            raise ControlError(
                f"{name}: is a deployment of the chart {existing.chart}, not a buffer; choose "
                "other names in buffer_vis and buffer_img"
            )
        elif parse_quantity(held := str(existing.values.get("size", "1Gi"))) < size_bytes:
            raise ResourceError(
                f"{name}: this buffer exists with {held}, and {size_bytes // GIB}Gi are needed; "
                "delete it, or choose other names in buffer_vis and buffer_img"
            )


@contextmanager
def dask_engine(
    claimed: ClaimedBlock, n_workers: int, memory_limit_bytes: int, buffers: list[str]
) -> Iterator[Executor]:
    """Deploy a Dask engine and yield an executor on it. `remove_engine` removes it.

    Parameters
    ----------
    memory_limit_bytes: of one worker.

    Raises
    ------
    EngineError: it did not come up within its deadline; with the deployer's reason.
    """
    config, deploy_id = claimed.config, engine_deployment_id(claimed.id)
    deadline = time.monotonic() + ENGINE_DEADLINE_S
    for txn in config.txn():
        script = txn.get_deployment(workflow_deployment_id(claimed.id))
        image = (
            {"image": script.values["wf_image"]} if script and "wf_image" in script.values else {}
        )
        values = image | {
            "worker.replicas": n_workers,
            "worker.resources.limits.memory": str(memory_limit_bytes),
            **{f"buffers[{index}]": name for index, name in enumerate(buffers)},
        }
        args = {"chart": "dask-ee", "values": values}
        txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))
    state = _wait_until_running(config, deploy_id, ENGINE_DEADLINE_S)
    namespace = os.environ.get("SDP_HELM_NAMESPACE")
    address = (state and state.scheduler) or f"tcp://{deploy_id}-scheduler.{namespace}:8786"
    left_s = deadline - time.monotonic()
    with address_executor(
        address, n_workers, left_s, lambda: _trouble(config, deploy_id)
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
        if state is None and waited_s > SILENT_DEPLOYER_S and "SDP_HELM_NAMESPACE" in os.environ:
            return None
        if waited_s > deadline_s:
            said = (state and state.reason) or "no deployer has taken it up; does one run?"
            raise ClusterStartTimeout(f"{deploy_id}: was not there within {deadline_s:g} s: {said}")
        txn.loop(wait=True, timeout=min(deadline_s - waited_s, SILENT_DEPLOYER_S) + 0.1)
    return None


def _trouble(config: Config, deploy_id: str) -> str:
    """Return what the deployer says of a deployment; raise if it has failed."""
    state = None
    for txn in config.txn():
        state = txn.get_deployment_state(deploy_id)
    if state and state.status == DeploymentStatus.FAILED:
        raise EngineError(f"{deploy_id}: {state.reason}")
    return (state and state.reason) or ""
