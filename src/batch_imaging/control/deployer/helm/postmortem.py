"""What scheduler and workers said last, to be kept when their pods go."""

from collections.abc import Callable, Iterator
from typing import Any

from batch_imaging.control.deployer.helm.objects import (
    Object,
    Objects,
    component,
    containers,
    name_of,
)

N_LINES = 200
ALL_BYTES = 400_000
"""Of all files together: they pass through objects of the cluster, which hold 1 MiB."""
COMPONENTS = {"scheduler", "worker"}

Log = Callable[[str, str, bool, int], list[str]]
"""Gives the last lines of a pod's container, of its previous life if True."""


def last_lines(objects: Objects, log: Log, also_living: bool) -> dict[str, str]:
    """Return the last lines of those that died or were restarted, by file name.

    Parameters
    ----------
    also_living: take those that live, too.
    """
    wanted = [
        (pod, container, is_previous)
        for pod in objects.pods
        if component(pod) in COMPONENTS
        for container in containers(pod)
        for is_previous in _lives(container, also_living)
    ]
    size = ALL_BYTES // max(len(wanted), 1)
    files = {
        f"{name_of(pod)}{'.previous' if is_previous else ''}.log": "\n".join(lines)[-size:] + "\n"
        for pod, container, is_previous in wanted
        if (lines := log(name_of(pod), container["name"], is_previous, N_LINES))
    }
    return dict(sorted(files.items()))


def _lives(container: Object, also_living: bool) -> Iterator[bool]:
    """Yield which lives of a container are wanted: the previous one, this one."""
    if (container.get("lastState") or {}).get("terminated"):
        yield True
        also_living = True
    ended = (container.get("state") or {}).get("terminated")
    if ended or (also_living and (container.get("state") or {}).get("running")):
        yield False


def logs_buffer(values: dict[str, Any]) -> str | None:
    """Return the buffer that an engine with these values leaves its logs in."""
    buffers = values.get("buffers") or [None]
    buffer: str | None = values.get("logs_buffer") or buffers[-1]
    return buffer


def with_postmortem(values: dict[str, Any], logs: dict[str, str], buffer: str) -> dict[str, Any]:
    """Return the values by which an engine ends its workers and copies logs into a buffer."""
    worker = {**values.get("worker", {}), "replicas": 0}
    return {**values, "worker": worker, "postmortem": {"logs": logs, "buffer": buffer}}
