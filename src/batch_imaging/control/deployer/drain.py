"""Emptying a control system before it is taken down."""

import time
from collections.abc import Collection

from batch_imaging.control.config import Config, Transaction
from batch_imaging.control.config.entities import ProcessingBlockState, Status
from batch_imaging.control.config.reader import deploy_path, deploy_state_path
from batch_imaging.errors import ControlError

REASON = "the control system is being taken down"
POLL_S = 1.0


def drain(config: Config, deadline_s: float) -> list[str]:
    """Cancel what has not ended, and have all deployments but buffers removed.

    Returns
    -------
    ids of the deployments that are gone.

    Raises
    ------
    ControlError: some are not gone at the deadline.
    """
    doomed: list[str] = []
    for txn in config.txn():
        for pb_id in txn.list_processing_blocks():
            _cancel(txn, pb_id)
        doomed = []
        for deploy_id in txn.list_deployments():
            deployment = txn.get_deployment(deploy_id)
            if deployment and deployment.chart != "buffer":
                # The state stays: the deployer deletes it when all is gone.
                txn.raw.delete(deploy_path(deploy_id))
                doomed.append(deploy_id)
    _wait_until_gone(config, doomed, deadline_s)
    return doomed


def _cancel(txn: Transaction, pb_id: str) -> None:
    cancelled = {"status": Status.CANCELLED, "reason": REASON}
    state = txn.get_processing_block_state(pb_id)
    if state is None:
        txn.create_processing_block_state(pb_id, ProcessingBlockState.model_validate(cancelled))
    elif not state.status.ended:
        new = state.without("stage", "fraction").model_copy(update=cancelled)
        txn.update_processing_block_state(pb_id, new)


def _wait_until_gone(config: Config, deploy_ids: Collection[str], deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    for txn in config.txn():
        left = [each for each in deploy_ids if txn.raw.value(deploy_state_path(each)) is not None]
        if not left:
            return
        if time.monotonic() > deadline:
            raise ControlError(
                f"{', '.join(left)}: not gone after {deadline_s:g} s; does a deployer run?"
            )
        txn.loop(wait=True, timeout=POLL_S)
