"""Stand-ins for real-time workflows: they run as long as the observation does."""

import logging
from typing import Any

from batch_imaging.control.config.entities import Resources, SchedulingBlock
from batch_imaging.errors import ParameterError
from batch_imaging.workflow.claimed_block import ClaimedBlock

LOG = logging.getLogger("batch_imaging")

RECEIVE_HOST = "127.0.0.1"
RECEIVE_PORT = 9000


def process_realtime(claimed: ClaimedBlock) -> None:
    """Process a block of `test_realtime`: run until the scheduling block ends."""
    sbi_id = _scheduling_block_id(claimed)
    claimed.wait_for_resources(Resources())
    claimed.wait_for_scheduling_block(sbi_id)


def process_receive_addresses(claimed: ClaimedBlock) -> None:
    """Process a block of `test_receive_addresses`: the same, and say where to send data."""
    sbi_id = _scheduling_block_id(claimed)
    claimed.wait_for_resources(Resources())
    for txn in claimed.config.txn():
        txn.check_processing_block_owner(claimed.id)
        state = txn.get_processing_block_state(claimed.id)
        scheduling = txn.get_scheduling_block(sbi_id)
        if state and scheduling:
            addresses = receive_addresses(scheduling)
            txn.update_processing_block_state(
                claimed.id, state.model_copy(update={"receive_addresses": addresses})
            )
            txn.update_scheduling_block(
                scheduling.model_copy(update={"pb_receive_addresses": claimed.id})
            )
    claimed.wait_for_scheduling_block(sbi_id)


def receive_addresses(scheduling: SchedulingBlock) -> dict[str, Any]:
    """Return for each scan type the host and port of each of its blocks of channels.

    A host is `[first channel, address]`, a port `[first channel, port, step per channel]`.
    """
    addresses = {}
    for scan_type in scheduling.scan_types:
        starts = [int(channels.get("start", 0)) for channels in scan_type.get("channels", [])]
        addresses[str(scan_type["id"])] = {
            "host": [[start, RECEIVE_HOST] for start in starts],
            "port": [[start, RECEIVE_PORT, 1] for start in starts],
        }
    return addresses


def _scheduling_block_id(claimed: ClaimedBlock) -> str:
    if claimed.block.sbi_id is None:
        raise ParameterError(
            f"{claimed.id}: a {claimed.block.workflow.id} block ends with its scheduling block, "
            "and has none"
        )
    return claimed.block.sbi_id
