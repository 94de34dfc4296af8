"""Emptying a control system before it is taken down."""

import time

from batch_imaging.control.config import Config, Transaction
from batch_imaging.control.config.entities import ProcessingBlockState, Status
from batch_imaging.control.config.reader import deploy_path
from batch_imaging.errors import ControlError

REASON = "the control system is being taken down"
POLL_S = 1.0


def drain(config: Config, deadline_s: float) -> list[str]:
    """Cancel what has not ended, and have all deployments removed but buffers to be kept.

    What was being removed before is waited for, too.

    Returns
    -------
    ids of the deployments that it has deleted.

    Raises
    ------
    ControlError: something is not gone at the deadline.
    """
    deadline = time.monotonic() + deadline_s
    deleted: set[str] = set()
    for txn in config.txn():
        for pb_id in txn.list_processing_blocks():
            _cancel(txn, pb_id)
        for deploy_id in txn.list_deployments():
            if not _is_kept(txn, deploy_id):
                # The state stays: the deployer deletes it when all is gone.
                txn.raw.delete(deploy_path(deploy_id))
                deleted.add(deploy_id)
        if left := _going(txn):
            if time.monotonic() > deadline:
                raise ControlError(
                    f"{', '.join(left)}: not gone after {deadline_s:g} s; does a deployer run?"
                )
            txn.loop(wait=True, timeout=POLL_S)
    return sorted(deleted)


def _is_kept(txn: Transaction, deploy_id: str) -> bool:
    """Whether it is a buffer to be retained, or one that was there before."""
    deployment, state = txn.get_deployment(deploy_id), txn.get_deployment_state(deploy_id)
    is_adopted = state is not None and state.adopted
    return deployment is None or (
        deployment.chart == "buffer" and (deployment.retain or is_adopted)
    )


def _cancel(txn: Transaction, pb_id: str) -> None:
    cancelled = {"status": Status.CANCELLED, "reason": REASON}
    state = txn.get_processing_block_state(pb_id)
    if state is None:
        txn.create_processing_block_state(pb_id, ProcessingBlockState.model_validate(cancelled))
    elif not state.status.ended:
        new = state.without("stage", "fraction").model_copy(update=cancelled)
        txn.update_processing_block_state(pb_id, new)


def _going(txn: Transaction) -> list[str]:
    """Return the deployments of which only a state is left."""
    paths = set(txn.raw.list_keys("/deploy/", 1))
    entries = {path.removesuffix("/state") for path in paths if path.endswith("/state")}
    return sorted(entry.removeprefix("/deploy/") for entry in entries - paths)
