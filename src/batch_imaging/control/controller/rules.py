"""The controller's decisions: from a view of the database to what is to be done."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from batch_imaging.control.config import View
from batch_imaging.control.config.entities import (
    DeploymentStatus,
    ProcessingBlock,
    ProcessingBlockState,
    Resources,
    SchedulingStatus,
    Status,
    workflow_deployment_id,
)
from batch_imaging.control.config.reader import (
    deploy_path,
    deploy_state_path,
    pb_owner_path,
    pb_path,
    pb_state_path,
)
from batch_imaging.control.controller.actions import Action, Change, Remove, Start
from batch_imaging.control.controller.definitions import Definitions
from batch_imaging.control.controller.resources import Capacity, Usage

SILENT_DEPLOYER_S = 10.0
NO_DEPLOYER_S = 300.0
"""After so long a block FAILs whose script no deployer takes up; one that works needs seconds."""


@dataclass(frozen=True, slots=True)
class Unended:
    """A processing block that has not ended; the state is None if nobody has seen it yet."""

    block: ProcessingBlock
    state: ProcessingBlockState | None

    @property
    def id(self) -> str:
        return self.block.id

    @property
    def is_released(self) -> bool:
        return self.state is not None and self.state.resources_available

    @property
    def is_waiting(self) -> bool:
        return (
            self.state is not None
            and self.state.status == Status.WAITING
            and not self.state.resources_available
        )

    @property
    def need(self) -> Resources:
        return (self.state and self.state.resources) or Resources()

    @property
    def buffers(self) -> set[str]:
        """The buffers it uses or will use, as far as they are known yet."""
        parameters = self.block.parameters
        source = parameters.get("input")
        named = [parameters.get(name) for name in ("buffer_vis", "buffer_img")]
        named += [source.get("buffer")] if isinstance(source, dict) else []
        return set(self.need.buffers) | {name for name in named if isinstance(name, str)}

    def end(self, status: Status, reason: str, if_unowned: bool = False) -> Change:
        """End it. A block that nobody has seen gets no `resources_available`, as on the wire."""
        update = {"status": status, "reason": reason}
        new = self.state.model_copy(update=update) if self.state else None
        return Change(self.id, self.state, new or ProcessingBlockState(**update), if_unowned)

    def explain(self, reason: str | None) -> Iterator[Change]:
        """Say why it waits, or that it does not any more, unless its state says so."""
        if self.state and self.state.reason != reason:
            new = self.state.without("reason")
            yield Change(
                self.id, self.state, new.model_copy(update={"reason": reason}) if reason else new
            )

    def release(self) -> Change:
        assert self.state
        new = self.state.without("reason").model_copy(update={"resources_available": True})
        return Change(self.id, self.state, new)


def decide(
    view: View,
    definitions: Definitions,
    capacity: Capacity,
    is_expired: Callable[[str], bool],
    starts_for_s: Callable[[str], float],
) -> list[Action]:
    """Return what is to be done.

    Parameters
    ----------
    is_expired: whether the script's deployment of a block that has ended need not be kept.
    starts_for_s: how long no deployer has taken up the script of a block.
    """
    unended = sorted(_unended(view), key=lambda each: view.arrival(each.id))
    cycle = _cycle(unended)
    actions: list[Action] = []
    queue = []
    for each in unended:
        if end := _end(view, each, cycle):
            actions.append(end)
        elif each.state is None:
            actions.extend(_start(view, each, definitions))
        elif each.state.status == Status.STARTING and pb_owner_path(each.id) not in view:
            actions.extend(_follow_start(view, each, starts_for_s))
        elif each.is_waiting:
            queue.append(each)
    usage = Usage.of(view, ((each.id, each.need) for each in unended if each.is_released))
    actions.extend(_release(view, queue, capacity, usage))
    actions.extend(_clean_up(view, is_expired))
    actions.extend(_free_buffers(view, unended))
    return actions


def _unended(view: View) -> Iterator[Unended]:
    """Yield the blocks that have not ended; one with an unreadable entry is left alone."""
    for pb_id in view.list_processing_blocks():
        state = view.get_processing_block_state(pb_id)
        if state is None and pb_state_path(pb_id) in view:
            continue
        if state is None or not state.status.ended:
            block = view.get_processing_block(pb_id)
            if block and block.id == pb_id:
                yield Unended(block, state)


def _cycle(unended: Iterable[Unended]) -> list[str]:
    """Return blocks of which each depends on the next; the first is again the last."""
    dependencies = {each.id: {of.pb_id for of in each.block.dependencies} for each in unended}
    try:
        TopologicalSorter(dependencies).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _end(view: View, each: Unended, cycle: list[str]) -> Change | None:
    """Return the end of a block that cannot go on, or None."""
    sbi_id = each.block.sbi_id
    scheduling_block = view.get_scheduling_block(sbi_id) if sbi_id else None
    if scheduling_block and scheduling_block.status == SchedulingStatus.CANCELLED:
        return each.end(Status.CANCELLED, f"scheduling block {sbi_id} was cancelled")
    if not each.is_released and (each.state is None or each.state.status != Status.RUNNING):
        if each.id in cycle:
            return each.end(Status.FAILED, f"dependencies are circular: {' → '.join(cycle)}")
        for dependency in each.block.dependencies:
            if end := _end_with(view, each, dependency.pb_id):
                return end
    if each.state and pb_owner_path(each.id) not in view:
        return _end_without_script(view, each, each.state.status)
    return None


def _end_with(view: View, each: Unended, needed_id: str) -> Change | None:
    """Return the end of a block after that of one it depends on."""
    if pb_path(needed_id) not in view:
        return each.end(Status.FAILED, f"depends on {needed_id}, which does not exist")
    needed = view.get_processing_block_state(needed_id)
    if needed and needed.status in {Status.FAILED, Status.CANCELLED}:
        return each.end(needed.status, f"depends on {needed_id}, which is {needed.status}")
    return None


def _end_without_script(view: View, each: Unended, status: Status) -> Change | None:
    """Return the end of a block whose script has gone, or did not come."""
    deploy_id = workflow_deployment_id(each.id)
    deployment = view.get_deployment_state(deploy_id)
    has_ended = deployment and deployment.status in {
        DeploymentStatus.FAILED,
        DeploymentStatus.FINISHED,
    }
    why = f": {deployment.reason}" if has_ended and deployment and deployment.reason else ""
    if status != Status.STARTING:
        reason = f"its script is gone, it was {status}{why}"
    elif has_ended:
        reason = f"its script has ended before it owned the block{why}"
    elif deploy_path(deploy_id) not in view:
        reason = f"its script did not start: deployment {deploy_id} was removed"
    else:
        return None
    return each.end(Status.FAILED, reason, if_unowned=True)


def _start(view: View, each: Unended, definitions: Definitions) -> Iterator[Action]:
    """Start a new block, or say that it cannot be; wait for definitions that were never read."""
    workflow = each.block.workflow
    if image := definitions.image(workflow, view):
        yield Start(each.id, image)
    elif definitions.are_read:
        known = definitions.known(view)
        yield each.end(Status.FAILED, f"there is no workflow {workflow}; there are {known}")


def _follow_start(
    view: View, each: Unended, starts_for_s: Callable[[str], float]
) -> Iterator[Change]:
    """Say what keeps a script from owning its block; without a deployer, not for ever."""
    deploy_id = workflow_deployment_id(each.id)
    if deploy_state_path(deploy_id) in view:
        deployment = view.get_deployment_state(deploy_id)
        yield from each.explain(deployment.reason if deployment else None)
    elif (waited_s := starts_for_s(each.id)) >= NO_DEPLOYER_S:
        reason = f"no deployer has taken up {deploy_id} within {NO_DEPLOYER_S:g} s"
        yield each.end(Status.FAILED, f"{reason}; start one", if_unowned=True)
    elif waited_s >= SILENT_DEPLOYER_S:
        yield from each.explain(f"waits for a deployer to take up {deploy_id}; does one run?")


def _release(
    view: View, queue: Iterable[Unended], capacity: Capacity, usage: Usage
) -> Iterator[Change]:
    """Release blocks in order of arrival; who does not fit holds up all behind that need anything.

    Only who still waits for dependencies is passed.
    """
    first = None
    for each in queue:
        if unfinished := _unfinished(view, each.block):
            yield from each.explain(f"waits for {unfinished}")
        elif excess := capacity.excess(each.need):
            yield each.end(Status.FAILED, excess)
        elif first and usage.adds(each.need):
            yield from each.explain(f"waits behind {first}")
        elif shortage := usage.shortage(each.need, capacity):
            first = each.id
            yield from each.explain(shortage)
        else:
            usage.take(each.id, each.need)
            yield each.release()


def _unfinished(view: View, block: ProcessingBlock) -> str:
    """Return what a block depends on and has not finished, with the states."""
    states = {
        each.pb_id: view.get_processing_block_state(each.pb_id) for each in block.dependencies
    }
    return ", ".join(
        f"{pb_id} ({state.status if state else 'no state'})"
        for pb_id, state in states.items()
        if state is None or state.status != Status.FINISHED
    )


def _clean_up(view: View, is_expired: Callable[[str], bool]) -> Iterator[Remove]:
    """Remove what blocks have left behind, and deployments of blocks that do not exist.

    The script's own deployment is kept for a while: it has the log.
    """
    for deploy_id in view.list_deployments():
        pb_id = _block_of(view, deploy_id)
        if pb_id is None:
            continue
        if pb_path(pb_id) not in view:
            yield Remove(deploy_id, pb_id)
            continue
        if _has_ended(view, pb_id) and (
            deploy_id != workflow_deployment_id(pb_id) or is_expired(pb_id)
        ):
            yield Remove(deploy_id, pb_id)


def _free_buffers(view: View, unended: Iterable[Unended]) -> Iterator[Remove]:
    """Remove buffers that were made not to be retained, when all blocks that use them have ended.

    The block that made one is named in its values. One that was there before stays.
    """
    in_use = {name for each in unended for name in each.buffers}
    for deploy_id in view.list_deployments():
        deployment = view.get_deployment(deploy_id)
        state = view.get_deployment_state(deploy_id)
        if deployment is None or deployment.chart != "buffer" or deployment.retain:
            continue
        if state and state.adopted:
            continue
        pb_id = str(deployment.values.get("pb_id"))
        if deploy_id not in in_use and (pb_path(pb_id) not in view or _has_ended(view, pb_id)):
            yield Remove(deploy_id, pb_id)


def _has_ended(view: View, pb_id: str) -> bool:
    """Whether a block has ended and its script is done with cleaning up."""
    state = view.get_processing_block_state(pb_id)
    return bool(state and state.status.ended and pb_owner_path(pb_id) not in view)


def _block_of(view: View, deploy_id: str) -> str | None:
    """Return the block in `proc-<block>-<name>`, of those that exist the one with the longest id.

    If there is none, the name is the last word. None if the deployment belongs to no block.
    """
    stem = rest = deploy_id.removeprefix("proc-").rpartition("-")[0]
    if not deploy_id.startswith("proc-") or not stem:
        return None
    while rest and pb_path(rest) not in view:
        rest = rest.rpartition("-")[0]
    return rest or stem
