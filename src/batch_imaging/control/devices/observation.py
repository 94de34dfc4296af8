"""What a subarray shows, derived from the configuration database."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batch_imaging.control.config.entities import AnyEntity, SchedulingBlock, Subarray
from batch_imaging.control.config.reader import Reader
from batch_imaging.control.devices.states import ObsState
from batch_imaging.errors import MalformedRecord


@dataclass(frozen=True, slots=True)
class Observation:
    """A subarray as of one revision of the database."""

    state: str = "OFF"
    obs_state: ObsState = ObsState.EMPTY
    receive_addresses: dict[str, Any] | None = None
    scan_type: str | None = None
    scan_id: int | None = None


def observe(reader: Reader, subarray_id: str) -> Observation | None:
    """Return what a subarray shows, None if it has no entry that can be read."""
    subarray = reader.get_subarray(subarray_id)
    if subarray is None:
        return None
    block = readable(reader.get_scheduling_block, subarray.sbi_id) if subarray.sbi_id else None
    return Observation(
        state=subarray.state,
        obs_state=_obs_state(reader, subarray, block),
        receive_addresses=_receive_addresses(reader, block),
        scan_type=block.current_scan_type if block else None,
        scan_id=block.scan_id if block else None,
    )


def readable(get: Callable[[str], AnyEntity | None], entry_id: str) -> AnyEntity | None:
    """Return an entry; None for a malformed one, as in a view: it must not stop a command."""
    try:
        return get(entry_id)
    except MalformedRecord:
        return None


def _obs_state(reader: Reader, subarray: Subarray, block: SchedulingBlock | None) -> ObsState:
    """Return the state aimed at; after AssignResources, how far the receive workflow is.

    One that ended before it gave its addresses leaves a FAULT, from which there is a way out.
    """
    target = ObsState.__members__.get(subarray.obs_state_target, ObsState.FAULT)
    assigned = subarray.last_command == "AssignResources" and target == ObsState.IDLE
    if not assigned or block is None or _receive_addresses(reader, block) is not None:
        return target
    receivers = [pb_id for pb_id in block.pb_realtime if _receives(reader, pb_id)]
    states = [readable(reader.get_processing_block_state, pb_id) for pb_id in receivers]
    if any(state and state.status.ended for state in states):
        return ObsState.FAULT
    return ObsState.RESOURCING if receivers else target


def _receives(reader: Reader, pb_id: str) -> bool:
    block = readable(reader.get_processing_block, pb_id)
    return block is not None and "receive" in block.workflow.id


def _receive_addresses(reader: Reader, block: SchedulingBlock | None) -> dict[str, Any] | None:
    if block is None or block.pb_receive_addresses is None:
        return None
    state = readable(reader.get_processing_block_state, block.pb_receive_addresses)
    return state.receive_addresses if state else None
