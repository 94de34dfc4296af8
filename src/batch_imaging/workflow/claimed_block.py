"""A processing block that this process owns: what it writes into the configuration database.

Every write checks in its own transaction that the block is still ours and has not been ended by
somebody else.
"""

import logging
from typing import Any, Self

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import (
    ProcessingBlock,
    ProcessingBlockState,
    Resources,
    SchedulingStatus,
    Status,
)
from batch_imaging.control.config.reader import pb_path
from batch_imaging.errors import Cancelled, ConfigVanished, ControlError

LOG = logging.getLogger("batch_imaging")


class ClaimedBlock:
    """The block, from claim to end.

    Attributes
    ----------
    progress: stage and fraction that are to be written when there is time for it.
    """

    def __init__(self, config: Config, block: ProcessingBlock) -> None:
        self.config = config
        self.block = block
        self.progress: tuple[str, float] | None = None

    @property
    def id(self) -> str:
        return self.block.id

    @classmethod
    def claim(cls, config: Config, pb_id: str) -> Self:
        """Become the owner of a block.

        Raises
        ------
        ConfigVanished: there is no such block.
        ConfigCollision: another process owns it.
        ControlError: it has ended already.
        """
        claimed = None
        for txn in config.txn():
            block = txn.get_processing_block(pb_id)
            if block is None:
                raise ConfigVanished(
                    pb_path(pb_id),
                    "there is no such processing block (batch-imaging config list /pb shows all)",
                )
            state = txn.get_processing_block_state(pb_id)
            if state and state.status.ended:
                raise ControlError(f"{pb_id}: is {state.status} already; use a new block")
            txn.take_processing_block(pb_id, config.client_lease)
            claimed = cls(config, block)
        assert claimed is not None
        return claimed

    def update(self, **members: Any) -> None:
        """Set members of the block's state.

        Raises
        ------
        OwnershipLost: the block is another process's.
        Cancelled: it has been ended by somebody else.
        """
        for txn in self.config.txn():
            txn.check_processing_block_owner(self.id)
            state = txn.get_processing_block_state(self.id)
            if state is None:
                txn.create_processing_block_state(
                    self.id, ProcessingBlockState.model_validate({"status": "STARTING"} | members)
                )
                continue
            if state.status.ended:
                raise Cancelled(f"{self.id}: was set {state.status}: {state.reason or 'no reason'}")
            txn.update_processing_block_state(self.id, state.model_copy(update=members))

    def wait_for_resources(self, resources: Resources) -> None:
        """Say what is needed, wait until the processing controller grants it, and be RUNNING.

        Waits as long as it takes, for other blocks may run for days; the controller writes into
        the state what is waited for, and a cancellation ends the wait.
        """
        self.update(status=Status.WAITING, resources=resources)
        LOG.info("Waiting for resources to be available")
        for txn in self.config.txn():
            state = txn.get_processing_block_state(self.id)
            if state is None or not state.resources_available:
                txn.loop(wait=True)
        LOG.info("Resources are available")
        self.update(status=Status.RUNNING)

    def wait_for_scheduling_block(self, sbi_id: str) -> None:
        """Wait until the scheduling block is FINISHED, as long as that takes.

        Raises
        ------
        Cancelled: it is CANCELLED.
        """
        for txn in self.config.txn():
            scheduling = txn.get_scheduling_block(sbi_id)
            if scheduling is None or scheduling.status == SchedulingStatus.ACTIVE:
                txn.loop(wait=True)
            elif scheduling.status == SchedulingStatus.CANCELLED:
                raise Cancelled(f"{self.id}: scheduling block {sbi_id} was cancelled")

    def report(self, stage: str, fraction: float) -> None:
        """Have a stage and its fraction written into the state soon."""
        self.progress = stage, round(fraction, 3)

    def write_progress(self) -> None:
        """Write what was last reported, if that is not written yet."""
        progress, self.progress = self.progress, None
        if progress:
            self.update(stage=progress[0], fraction=progress[1])

    def end(self, status: Status, reason: str | None = None) -> None:
        """Write how the block ended, unless somebody else has said so before."""
        for txn in self.config.txn():
            txn.check_processing_block_owner(self.id)
            state = txn.get_processing_block_state(self.id)
            if state is None or state.status.ended:
                return
            state = state.without("stage", "fraction", "reason")
            members: dict[str, Any] = {"status": status}
            if reason:
                members["reason"] = reason
            txn.update_processing_block_state(self.id, state.model_copy(update=members))
