"""From what exists of a release to what is said of it; nothing is asked or waited for here.

Whatever keeps a part from running is a trouble. Most pass; one that does not, or has not for a
while, is the reason of a failure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from batch_imaging.control.config.entities import DeploymentState, DeploymentStatus
from batch_imaging.control.deployer.helm.objects import (
    Object,
    Objects,
    component,
    condition,
    containers,
    has_condition,
    is_going,
    name_of,
    phase,
)

LastWords = Callable[[str, str, bool], str]
"""Gives the last line of a pod's container, of its previous life if True."""

UNSCHEDULABLE_S = 30.0
REFUSED_S = 15.0
UNBOUND_S = 20.0
WAITING_S = {
    "CreateContainerConfigError": 20.0,
    "CreateContainerError": 20.0,
    "ErrImageNeverPull": 0.0,
    "ErrImagePull": 20.0,
    "ImagePullBackOff": 0.0,
    "InvalidImageName": 0.0,
    "RunContainerError": 20.0,
}
"""For how long after the creation of its pod a container may wait for such a reason."""
MAX_CRASHES = 3
SHORT_LIFE_S = 120.0
"""A container that has died so often, and now after so short a time, will not come to work."""
MAX_REASONS = 3
REASON_LENGTH = 500

POD_NAME_LENGTH = 58
"""Of the name of a pod that a controller makes, before the 5 characters that make it unique."""

SCHEDULER, WORKER = "scheduler", "worker"
STATUS_OF_PHASE = {
    "Pending": DeploymentStatus.PENDING,
    "Running": DeploymentStatus.RUNNING,
    "Succeeded": DeploymentStatus.FINISHED,
    "Failed": DeploymentStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not as it should be."""

    text: str
    is_fatal: bool = False


def diagnose(
    objects: Objects, written: DeploymentState | None, last_words: LastWords
) -> DeploymentState:
    """Return what became of a release.

    Parameters
    ----------
    objects: what exists of it.
    written: what was said of it last: which pods it had.
    """
    if not objects.count:
        return DeploymentState(
            status=DeploymentStatus.FAILED,
            reason="nothing of it is in the cluster any more: somebody has removed it",
        )
    lost = _lost_schedulers(objects, written)
    troubles = [Trouble(_loss(name), is_fatal=True) for name in lost]
    troubles += _troubles(objects, last_words)
    fatal = [each for each in troubles if each.is_fatal]
    status = DeploymentStatus.FAILED if fatal else _status(objects, written)
    reason = _join(fatal or troubles)
    if status == DeploymentStatus.FAILED and _job_has_ended(objects) and written:
        # The log that it quotes may be gone by now.
        reason = written.reason if written.status == status and written.reason else reason
    if status == DeploymentStatus.PENDING and not reason:
        reason = "it is starting"
    pods = dict.fromkeys(lost, DeploymentStatus.FAILED) | _pods(objects)
    said = {"reason": reason} if reason else {}
    return DeploymentState(status=status, **said, **({"pods": pods} if pods else {}))


def _status(objects: Objects, written: DeploymentState | None) -> DeploymentStatus:
    """Return the status of a release that nothing fatal has happened to."""
    pods = [each for each in objects.pods if not is_going(each)]
    phases = {phase(each) for each in pods}
    if any(has_condition(job, "Complete") for job in objects.jobs) or phases == {"Succeeded"}:
        return DeploymentStatus.FINISHED
    if objects.jobs and "Running" not in phases:
        return DeploymentStatus.PENDING
    if objects.deployments:
        entry = [each for each in pods if component(each) == SCHEDULER] or pods
        was_up = written is not None and written.status == DeploymentStatus.RUNNING
        # One that has been ready may be too busy to answer.
        is_up = any(
            has_condition(each, "Ready") or (was_up and phase(each) == "Running") for each in entry
        )
        if not is_up or not all(map(_is_rolled_out, _of_component(objects, SCHEDULER))):
            return DeploymentStatus.PENDING
    if any(_is_awaited(objects, claim) for claim in objects.claims):
        return DeploymentStatus.PENDING
    return DeploymentStatus.RUNNING


def _troubles(objects: Objects, last_words: LastWords) -> Iterator[Trouble]:
    for claim in objects.claims:
        yield from _claim_troubles(objects, claim)
    for job in objects.jobs:
        yield from _job_troubles(objects, job)
    may_lack = {WORKER} if _has_workers(objects) else set()
    for deployment in objects.deployments:
        failure = condition(deployment, "ReplicaFailure")
        if failure.get("status") == "True":
            lasts = objects.age_s(failure.get("lastTransitionTime")) >= REFUSED_S
            is_fatal = lasts and component(deployment) not in may_lack
            yield Trouble(f"{name_of(deployment)}: {failure.get('message')}", is_fatal)
    for pod in objects.pods:
        if not is_going(pod):
            for each in _pod_troubles(objects, pod, last_words):
                is_fatal = each.is_fatal and component(pod) not in may_lack
                yield Trouble(f"pod {name_of(pod)}: {each.text}", is_fatal)


def _has_workers(objects: Objects) -> bool:
    """Whether an engine has had all its workers and still has one: it can go on."""
    progress = [condition(each, "Progressing") for each in _of_component(objects, WORKER)]
    return all(each.get("reason") == "NewReplicaSetAvailable" for each in progress) and any(
        component(pod) == WORKER and has_condition(pod, "Ready") and not is_going(pod)
        for pod in objects.pods
    )


def _claim_troubles(objects: Objects, claim: Object) -> Iterator[Trouble]:
    if phase(claim) == "Lost":
        yield Trouble(f"claim {name_of(claim)}: its volume is gone", is_fatal=True)
    elif _is_awaited(objects, claim):
        age_s = objects.age_s(claim["metadata"].get("creationTimestamp"))
        events = objects.events_of("PersistentVolumeClaim", claim)
        warnings = _last_warning(objects, "PersistentVolumeClaim", claim)
        for event in warnings or events[-1:]:
            has_failed = "Failed" in str(event.get("reason")) and age_s >= UNBOUND_S
            yield Trouble(f"claim {name_of(claim)}: {_said(event)}", has_failed)


def _is_awaited(objects: Objects, claim: Object) -> bool:
    """Whether a volume is still to come; one that waits for its first user is as good as here."""
    if phase(claim) != "Pending":
        return False
    reasons = {each.get("reason") for each in objects.events_of("PersistentVolumeClaim", claim)}
    warnings = _last_warning(objects, "PersistentVolumeClaim", claim)
    return bool(warnings) or not reasons & {"WaitForFirstConsumer", "WaitForPodScheduled"}


def _job_troubles(objects: Objects, job: Object) -> Iterator[Trouble]:
    end = condition(job, "Failed")
    has_pods = any(not is_going(each) for each in objects.pods)
    if end.get("status") == "True" and (not has_pods or end.get("reason") == "DeadlineExceeded"):
        yield Trouble(f"its job has failed: {end.get('reason')}: {end.get('message')}", True)
    elif not has_pods:
        age_s = objects.age_s(job["metadata"].get("creationTimestamp"))
        for event in _last_warning(objects, "Job", job):
            yield Trouble(_said(event), age_s >= REFUSED_S)


def _pod_troubles(objects: Objects, pod: Object, last_words: LastWords) -> Iterator[Trouble]:
    if phase(pod) == "Failed" and (reason := pod["status"].get("reason")):
        yield Trouble(f"{reason}: {pod['status'].get('message')}", is_fatal=bool(objects.jobs))
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        lasts = objects.age_s(scheduled.get("lastTransitionTime")) >= UNSCHEDULABLE_S
        yield Trouble(f"{scheduled.get('reason')}: {scheduled.get('message')}", lasts)
    for container in containers(pod):
        yield from _container_troubles(objects, pod, container, last_words)


def _container_troubles(
    objects: Objects, pod: Object, container: Object, last_words: LastWords
) -> Iterator[Trouble]:
    state, crashes = container.get("state") or {}, int(container.get("restartCount", 0))
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason")
    before = (container.get("lastState") or {}).get("terminated")
    if reason in WAITING_S:
        lasts = objects.age_s(pod["metadata"].get("creationTimestamp")) >= WAITING_S[reason]
        yield Trouble(f"{reason}: {_why_not_pulled(objects, pod) or waiting.get('message')}", lasts)
    elif reason == "ContainerCreating":
        for event in _last_warning(objects, "Pod", pod):
            if str(event.get("reason")).startswith("Failed"):  # FailedMount, FailedAttachVolume …
                yield Trouble(_said(event))
    elif (ended := state.get("terminated")) and ended.get("exitCode"):
        words = last_words(name_of(pod), container["name"], False)
        yield Trouble(_end(pod, container, ended, words), bool(objects.jobs))
    if before and crashes and (before.get("exitCode") or component(pod) == SCHEDULER):
        words = last_words(name_of(pod), container["name"], True)
        is_looping = (
            crashes + 1 >= MAX_CRASHES
            and not state.get("running")
            and _life_s(state.get("terminated") or before) < SHORT_LIFE_S
        )
        yield Trouble(
            f"{'CrashLoopBackOff' if is_looping else 'restarted'} after "
            f"{_end(pod, container, before, words)}",
            is_looping or component(pod) == SCHEDULER,
        )


def _life_s(ended: Object) -> float:
    begin, end = (datetime.fromisoformat(ended[each]) for each in ("startedAt", "finishedAt"))
    return (end - begin).total_seconds()


def _end(pod: Object, container: Object, ended: Object, words: str) -> str:
    """Return how a container has ended."""
    text = f"exit code {ended.get('exitCode')}"
    if ended.get("reason") == "OOMKilled":
        specs = pod.get("spec", {}).get("containers", [])
        limits = [
            each.get("resources", {}).get("limits", {}).get("memory")
            for each in specs
            if each["name"] == container["name"]
        ]
        text += f", OOMKilled: its memory limit is {limits[0] if limits else None}"
    elif ended.get("reason") not in {None, "Error", "Completed"}:
        text += f", {ended['reason']}: {ended.get('message', '')}".rstrip(": ")
    return f"{text}: {words}" if words else text


def _why_not_pulled(objects: Objects, pod: Object) -> str:
    """Return what the runtime said of the image: a pod that is backing off says only that."""
    told = [
        str(each.get("message"))
        for each in objects.events_of("Pod", pod)
        if each.get("reason") == "Failed" and "pull" in str(each.get("message"))
    ]
    return told[-1] if told else ""


def _lost_schedulers(objects: Objects, written: DeploymentState | None) -> list[str]:
    """Return the pods of the scheduler that were there and are not, or are going."""
    current = {name_of(each) for each in objects.pods if not is_going(each)}
    beginnings = tuple(
        f"{name_of(each)}-"[:POD_NAME_LENGTH] for each in _of_component(objects, SCHEDULER)
    )
    former = (written and written.pods) or {}
    return sorted(
        name
        for name in former
        if beginnings and name.startswith(beginnings) and name not in current
    )


def _loss(name: str) -> str:
    return f"its scheduler, pod {name}, is gone, and with it all that was computed"


def _of_component(objects: Objects, name: str) -> list[Object]:
    return [each for each in objects.deployments if component(each) == name]


def _is_rolled_out(deployment: Object) -> bool:
    """Whether all its pods are of its newest form."""
    status, wanted = deployment.get("status") or {}, deployment.get("spec", {}).get("replicas", 1)
    is_seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    updated, all_pods = status.get("updatedReplicas", 0), status.get("replicas", 0)
    return bool(is_seen and updated == wanted == all_pods)


def _pods(objects: Objects) -> dict[str, DeploymentStatus]:
    """Return the status of each pod; one of a scheduler that is being replaced does not count."""
    is_rolled_out = all(map(_is_rolled_out, _of_component(objects, SCHEDULER)))
    return {
        name_of(each): STATUS_OF_PHASE.get(phase(each), DeploymentStatus.PENDING)
        for each in sorted(objects.pods, key=name_of)
        if not is_going(each) and (is_rolled_out or component(each) != SCHEDULER)
    }


def _job_has_ended(objects: Objects) -> bool:
    return any(has_condition(job, "Failed") for job in objects.jobs)


def _last_warning(objects: Objects, kind: str, about: Object) -> list[Object]:
    events = [each for each in objects.events_of(kind, about) if each.get("type") == "Warning"]
    return events[-1:]


def _said(event: Object) -> str:
    return f"{event.get('reason')}: {event.get('message')}"


def _join(troubles: list[Trouble]) -> str:
    """Return the first different ones in one line."""
    texts = list(dict.fromkeys(" ".join(each.text.split()) for each in troubles))
    more = f"; and {len(texts) - MAX_REASONS} more" if len(texts) > MAX_REASONS else ""
    return "; ".join(text[:REASON_LENGTH] for text in texts[:MAX_REASONS]) + more
