"""What the commands of a subarray write into the configuration database."""

import logging
from typing import Any

from batch_imaging.control.config.entities import SchedulingBlock, SchedulingStatus, Subarray
from batch_imaging.control.config.reader import pb_path, sb_path
from batch_imaging.control.config.transaction import Transaction
from batch_imaging.control.devices.observation import observe
from batch_imaging.control.devices.states import (
    SUBARRAY_RULES,
    ObsState,
    check_subarray_command,
)
from batch_imaging.control.devices.validation import (
    AssignResources,
    Configure,
    InvalidArgument,
    Scan,
    read_request,
)
from batch_imaging.errors import ControlError, MalformedRecord

Log = logging.LoggerAdapter[logging.Logger]


class Refused(ControlError):
    """A command contradicts what is in the database; nothing was written."""


def record_command(
    txn: Transaction, subarray_id: str, name: str, argument: str, transaction_id: str, log: Log
) -> None:
    """Check a command of a subarray and write what it changes, all in one transaction.

    Raises
    ------
    NotAllowed: the subarray is not in a state for it.
    InvalidArgument: the argument is wrong.
    Refused: it contradicts what is in the database.
    """
    subarray = txn.get_subarray(subarray_id) or Subarray()
    observation = observe(txn, subarray_id)
    check_subarray_command(
        name,
        subarray.state,
        observation.obs_state if observation else ObsState.EMPTY,
    )
    changes: dict[str, Any] = {}
    match name:
        case "On":
            changes = {"state": "ON"}
        case "Off":
            _cancel(txn, subarray, log)
            changes = {"state": "OFF", "sbi_id": None}
        case "Restart":
            _cancel(txn, subarray, log)
            changes = {"sbi_id": None}
        case "ReleaseResources":
            _release(txn, subarray, SchedulingStatus.FINISHED)
            changes = {"sbi_id": None}
        case "AssignResources":
            changes = {"sbi_id": _assign(txn, subarray_id, argument, log)}
        case "Configure":
            block, request = _scheduling_block(txn, subarray), read_request(Configure, argument)
            _change(
                txn,
                block,
                scan_types=request.extend(block.scan_types),
                current_scan_type=request.scan_type,
            )
        case "Scan":
            _change(txn, _scheduling_block(txn, subarray), scan_id=read_request(Scan, argument).id)
        case "EndScan":
            _change(txn, _scheduling_block(txn, subarray), scan_id=None)
        case "End" | "ObsReset":
            _change(txn, _scheduling_block(txn, subarray), current_scan_type=None, scan_id=None)
        case "Abort":
            pass
    target = SUBARRAY_RULES[name].target.name
    changes |= {"last_command": name, "obs_state_target": target, "transaction_id": transaction_id}
    txn.update_subarray(subarray_id, subarray.model_copy(update=changes))


def _assign(txn: Transaction, subarray_id: str, argument: str, log: Log) -> str:
    request = read_request(AssignResources, argument)
    blocks = request.entries()
    paths = [sb_path(request.id), *(pb_path(block.id) for block in blocks)]
    if taken := [path for path in paths if txn.raw.value(path) is not None]:
        ids = ", ".join(path.rpartition("/")[2] for path in taken)
        raise Refused(
            f"Duplicate SBI ID or PB ID in configuration: {ids} in the database already; "
            "ids are never used again, choose new ones"
        )
    missing = [
        f'{path} = "{pb_id}": there is no such block, in the request or in the database'
        for pb_id, places in request.targets_elsewhere().items()
        if txn.raw.value(pb_path(pb_id)) is None
        for path in places
    ]
    if missing:
        raise InvalidArgument(missing)
    for pb_id in request.dropped_dependencies():
        log.warning("%s: is realtime, so its dependencies are left out", pb_id)
    txn.create_scheduling_block(request.scheduling_block(subarray_id))
    for block in blocks:
        txn.create_processing_block(block)
    return request.id


def _cancel(txn: Transaction, subarray: Subarray, log: Log) -> None:
    """End the subarray's scheduling block; one that cannot be read is left behind."""
    try:
        _release(txn, subarray, SchedulingStatus.CANCELLED)
    except MalformedRecord as error:
        log.warning(
            "%s; it is left as it is, and its processing blocks go on "
            "(`batch-imaging config cancel pb` ends them)",
            error,
        )


def _release(txn: Transaction, subarray: Subarray, status: SchedulingStatus) -> None:
    """End the subarray's scheduling block, if it has one that is still there."""
    block = txn.get_scheduling_block(subarray.sbi_id) if subarray.sbi_id else None
    if block is None:
        return
    released: dict[str, Any] = {"subarray_id": None}
    if block.status is SchedulingStatus.ACTIVE:
        released["status"] = status
    if status is SchedulingStatus.CANCELLED:
        released |= {"current_scan_type": None, "scan_id": None}
    _change(txn, block, **released)


def _scheduling_block(txn: Transaction, subarray: Subarray) -> SchedulingBlock:
    block = txn.get_scheduling_block(subarray.sbi_id) if subarray.sbi_id else None
    if block is None:
        raise Refused(
            f"scheduling block {subarray.sbi_id or 'of this subarray'}: is not in the database any "
            "more; Off, then On, makes the subarray usable again"
        )
    return block


def _change(txn: Transaction, block: SchedulingBlock, **changes: Any) -> None:
    txn.update_scheduling_block(block.model_copy(update=changes))
