"""How entries of the configuration database look to people: columns, rows, JSON."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batch_imaging.control.config import View
from batch_imaging.control.config.entities import Entity


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entries.

    Attributes
    ----------
    folder: path under which the entries are.
    row: the cells of an entry, besides its id.
    """

    title: str
    folder: str
    columns: tuple[str, ...]
    ids: Callable[[View], list[str]]
    get: Callable[[View, str], Entity | None]
    state: Callable[[View, str], Entity | None]
    row: Callable[[View, str], Sequence[str]]

    def cells(self, view: View, entry_id: str) -> list[str]:
        """Return the row of an entry."""
        if self.get(view, entry_id) is None:
            return [entry_id, "malformed", *[""] * (len(self.columns) - 2)]
        return [entry_id, *self.row(view, entry_id)]

    def as_object(self, view: View, entry_id: str) -> dict[str, Any]:
        """Return an entry, with its state as a member of that name."""
        entry, state = self.get(view, entry_id), self.state(view, entry_id)
        return (entry.to_object() if entry else {"id": entry_id}) | (
            {"state": state.to_object()} if state else {}
        )

    def ids_in(self, paths: Iterable[str]) -> list[str]:
        """Return the ids of this kind's entries that the paths belong to, sorted."""
        ours = (path.removeprefix(self.folder) for path in paths if path.startswith(self.folder))
        return sorted({path.partition("/")[0] for path in ours})


def _block_row(view: View, pb_id: str) -> list[str]:
    block, state = view.get_processing_block(pb_id), view.get_processing_block_state(pb_id)
    workflow = str(block.workflow) if block else ""
    if state is None:
        return [workflow, "", "", ""]
    stage = state.stage or ""
    if stage and state.fraction is not None:
        stage += f" {state.fraction:.0%}"
    return [workflow, state.status, stage, state.reason or ""]


def _scheduling_row(view: View, sbi_id: str) -> list[str]:
    block = view.get_scheduling_block(sbi_id)
    if block is None:
        return [""] * 4
    blocks = ", ".join([*block.pb_realtime, *block.pb_batch])
    return [block.status, block.subarray_id or "", block.current_scan_type or "", blocks]


def _deployment_row(view: View, deploy_id: str) -> list[str]:
    deployment, state = view.get_deployment(deploy_id), view.get_deployment_state(deploy_id)
    chart = deployment.chart if deployment else ""
    return [chart, state.status if state else "", (state.reason if state else "") or ""]


def _subarray_row(view: View, subarray_id: str) -> list[str]:
    subarray = view.get_subarray(subarray_id)
    if subarray is None:
        return [""] * 4
    return [
        subarray.state,
        subarray.obs_state_target,
        subarray.sbi_id or "",
        subarray.last_command or "",
    ]


def _stateless(view: View, entry_id: str) -> None:
    return None


KINDS: dict[str, Kind] = {
    "subarray": Kind(
        "subarray",
        "/subarray/",
        ("SUBARRAY", "STATE", "OBSSTATE", "SCHEDULING BLOCK", "LAST COMMAND"),
        View.list_subarrays,
        View.get_subarray,
        _stateless,
        _subarray_row,
    ),
    "sb": Kind(
        "scheduling block",
        "/sb/",
        ("SCHEDULING BLOCK", "STATUS", "SUBARRAY", "SCAN TYPE", "PROCESSING BLOCKS"),
        View.list_scheduling_blocks,
        View.get_scheduling_block,
        _stateless,
        _scheduling_row,
    ),
    "pb": Kind(
        "processing block",
        "/pb/",
        ("PROCESSING BLOCK", "WORKFLOW", "STATUS", "STAGE", "REASON"),
        View.list_processing_blocks,
        View.get_processing_block,
        View.get_processing_block_state,
        _block_row,
    ),
    "deploy": Kind(
        "deployment",
        "/deploy/",
        ("DEPLOYMENT", "CHART", "STATUS", "REASON"),
        View.list_deployments,
        View.get_deployment,
        View.get_deployment_state,
        _deployment_row,
    ),
}
