"""What exists of the releases of a namespace at one moment, as the API's plain JSON."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

Object = dict[str, Any]
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Objects:
    """The objects of a namespace or, by `of`, of one release.

    Attributes
    ----------
    now: the moment, by the clock that also dates the objects.
    """

    now: datetime
    pods: list[Object] = field(default_factory=list)
    claims: list[Object] = field(default_factory=list)
    deployments: list[Object] = field(default_factory=list)
    jobs: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)

    def of(self, release: str) -> "Objects":
        """Return what is of a release, also a claim of its name that somebody else has made."""

        def ours(objects: list[Object]) -> list[Object]:
            return [each for each in objects if label(each, INSTANCE) == release]

        return replace(
            self,
            pods=[each for each in ours(self.pods) if not _is_hook(each)],
            claims=[each for each in self.claims if name_of(each) == release],
            deployments=ours(self.deployments),
            jobs=ours(self.jobs),
        )

    @property
    def count(self) -> int:
        return len(self.pods) + len(self.claims) + len(self.deployments) + len(self.jobs)

    def events_of(self, kind: str, about: Object) -> list[Object]:
        """Return the events of an object, not of a former one of its name; the latest last."""
        wanted = {"kind": kind, "name": name_of(about), "uid": about["metadata"].get("uid")}
        found = [
            each
            for each in self.events
            if wanted == {key: each["involvedObject"].get(key) for key in wanted}
        ]
        return sorted(
            found, key=lambda each: each.get("lastTimestamp") or each.get("eventTime") or ""
        )

    def age_s(self, time: str | None) -> float:
        """Return how long ago a time of an object was; 0 if it is not known."""
        return (self.now - datetime.fromisoformat(time)).total_seconds() if time else 0.0


def name_of(each: Object) -> str:
    return str(each["metadata"]["name"])


def label(each: Object, key: str) -> str:
    return str(each["metadata"].get("labels", {}).get(key, ""))


def phase(each: Object) -> str:
    """Return where a pod or a claim is in its life."""
    return str(each.get("status", {}).get("phase"))


def component(each: Object) -> str:
    return label(each, COMPONENT)


def is_going(each: Object) -> bool:
    return "deletionTimestamp" in each["metadata"]


def condition(each: Object, kind: str) -> Object:
    """Return a condition that is met or, with the status False, not met; empty if not known."""
    conditions = each.get("status", {}).get("conditions") or []
    return next((found for found in conditions if found["type"] == kind), {})


def has_condition(each: Object, kind: str) -> bool:
    return condition(each, kind).get("status") == "True"


def containers(pod: Object) -> list[Object]:
    """Return the states of the containers of a pod."""
    status = pod.get("status", {})
    return [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]


def _is_hook(each: Object) -> bool:
    """Whether it is a pod of `helm test`."""
    return "helm.sh/hook" in each["metadata"].get("annotations", {})
