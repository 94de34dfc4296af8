"""What the controller does: each action is one small transaction.

An action remembers what it was decided from and looks again in its transaction. If that is not so
any more, nothing is written, and the next view leads to another decision.
"""

import os
from dataclasses import dataclass

from batch_imaging.control.config import Config, ConnectionSettings, Transaction
from batch_imaging.control.config.entities import (
    Deployment,
    ProcessingBlock,
    ProcessingBlockState,
    Status,
    workflow_deployment_id,
)
from batch_imaging.control.config.reader import (
    deploy_path,
    pb_owner_path,
    pb_path,
    pb_state_path,
)
from batch_imaging.control.leader import Leader


@dataclass(frozen=True, slots=True)
class Start:
    """Deploy the script of a new block."""

    pb_id: str
    image: str

    def __str__(self) -> str:
        return f"{self.pb_id}: starts {self.image}"

    def write(self, txn: Transaction) -> bool:
        block = txn.get_processing_block(self.pb_id)
        if block is None or txn.raw.value(pb_state_path(self.pb_id)):
            return False
        deployment = workflow_deployment(block, self.image)
        if txn.raw.value(deploy_path(deployment.id)) is None:
            txn.create_deployment(deployment)
        txn.create_processing_block_state(
            self.pb_id, ProcessingBlockState(status=Status.STARTING, resources_available=False)
        )
        return True


@dataclass(frozen=True, slots=True)
class Change:
    """Write the state of a block, if it is still the one that was seen.

    Attributes
    ----------
    if_unowned: only while no script owns the block.
    """

    pb_id: str
    seen: ProcessingBlockState | None
    new: ProcessingBlockState
    if_unowned: bool = False

    def __str__(self) -> str:
        released = " and has its resources" * self.new.resources_available
        reason = f": {self.new.reason}" * bool(self.new.reason)
        return f"{self.pb_id}: is {self.new.status}{released}{reason}"

    def write(self, txn: Transaction) -> bool:
        if (
            txn.raw.value(pb_path(self.pb_id)) is None
            or txn.get_processing_block_state(self.pb_id) != self.seen
            or (self.if_unowned and txn.raw.value(pb_owner_path(self.pb_id)) is not None)
        ):
            return False
        if self.seen is None:
            txn.create_processing_block_state(self.pb_id, self.new)
        else:
            txn.update_processing_block_state(self.pb_id, self.new)
        return True


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a deployment of a block that does not exist, or has ended and has no script."""

    deploy_id: str
    pb_id: str

    def __str__(self) -> str:
        return f"{self.deploy_id}: is removed"

    def write(self, txn: Transaction) -> bool:
        if txn.raw.value(pb_path(self.pb_id)) is not None:
            state = txn.get_processing_block_state(self.pb_id)
            is_owned = txn.raw.value(pb_owner_path(self.pb_id)) is not None
            if state is None or not state.status.ended or is_owned:
                return False
        if txn.raw.value(deploy_path(self.deploy_id)) is None:
            return False
        txn.delete_deployment(self.deploy_id)
        return True


Action = Start | Change | Remove


def apply(config: Config, action: Action, leader: Leader | None = None) -> int:
    """Do it, while ``leader`` leads; return the revision of the writes, 0 if there were none.

    Raises
    ------
    ControlError: the database does not answer, or holds something unreadable under these paths.
    """
    for txn in config.txn():
        is_written = (leader is None or leader.confirm(txn)) and action.write(txn)
    return txn.revision if is_written else 0


def workflow_deployment(block: ProcessingBlock, image: str) -> Deployment:
    """Return the deployment of a block's script, which finds the database where we do."""
    settings = ConnectionSettings.from_environment()
    values = {
        "env.SDP_CONFIG_HOST": settings.host,
        "env.SDP_HELM_NAMESPACE": os.environ.get("SDP_HELM_NAMESPACE", "sdp"),
        "wf_image": image,
        "pb_id": block.id,
    }
    if block.sbi_id:
        values["sbi_id"] = block.sbi_id
    if settings.port != 2379:
        values["env.SDP_CONFIG_PORT"] = str(settings.port)
    if settings.protocol != "http":
        values["env.SDP_CONFIG_PROTOCOL"] = settings.protocol
    if prefix := os.environ.get("SDP_CONFIG_PREFIX"):
        values["env.SDP_CONFIG_PREFIX"] = prefix
    return Deployment(
        id=workflow_deployment_id(block.id),
        type="helm",
        args={"chart": "workflow", "values": values},
    )
