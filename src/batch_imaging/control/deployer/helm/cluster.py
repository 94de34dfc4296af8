"""The namespace that deployments live in, through the API of Kubernetes.

Answers are read as plain JSON, and releases without what they hold: this is asked all the time.
Needs no more rights than a Role in this namespace.
"""

import base64
import gzip
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from batch_imaging.control.deployer.helm.api import Api
from batch_imaging.control.deployer.helm.objects import INSTANCE, Object, Objects, phase
from batch_imaging.errors import ControlError, PassingFailure

LOG = logging.getLogger(__name__)

GONE_S = 90.0
"""More than the time that a script has to clean up."""
POLL_S = 0.5

MARK = "batch-imaging/deployer"
"""Label of the releases that a deployer of ours has made, with its owner."""
CHART = "batch-imaging/chart"
FINGERPRINT = "batch-imaging/fingerprint"
PB_ID = "batch-imaging/pb-id"

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


@dataclass(frozen=True, slots=True)
class Release:
    """The latest revision of a Helm release.

    Attributes
    ----------
    status: as Helm has it: deployed, failed, pending-install, uninstalling …
    secret: that holds it.
    """

    name: str
    revision: int
    status: str
    secret: str
    labels: dict[str, str]


class Cluster:
    """A namespace of the cluster."""

    def __init__(self, namespace: str, api: Api) -> None:
        self.namespace = namespace
        self._api = api

    def releases(self) -> dict[str, Release]:
        """Return all Helm releases of the namespace by name, whoever has made them."""
        items, _ = self._list("api/v1", "secrets", METADATA_ONLY, labelSelector="owner=helm")
        found: dict[str, Release] = {}
        for metadata in (each["metadata"] for each in items):
            labels = metadata.get("labels", {})
            release = Release(
                name=labels.get("name", ""),
                revision=int(labels.get("version", 0)),
                status=labels.get("status", ""),
                secret=metadata["name"],
                labels=labels,
            )
            if release.name not in found or release.revision > found[release.name].revision:
                found[release.name] = release
        return found

    def values(self, release: Release) -> dict[str, Any]:
        """Return the values that a release was given."""
        secret = json.loads(self._api.get(f"api/v1/{self._path('secrets')}/{release.secret}").data)
        text = base64.b64decode(base64.b64decode(secret["data"]["release"]))
        return dict(json.loads(gzip.decompress(text)).get("config") or {})

    def forget(self, release: Release) -> None:
        """Delete the record of a revision, not what it has made."""
        self._api.call("DELETE", f"api/v1/{self._path('secrets')}/{release.secret}")

    def objects(self, release: str | None = None) -> Objects:
        """Return what exists of all releases, or of one."""
        selector = f"{INSTANCE}={release}" if release else INSTANCE
        pods, now = self._list("api/v1", "pods", labelSelector=selector)
        claims, _ = self._list("api/v1", "persistentvolumeclaims")
        deployments, _ = self._list("apis/apps/v1", "deployments", labelSelector=selector)
        jobs, _ = self._list("apis/batch/v1", "jobs", labelSelector=selector)
        events: list[Object] = []
        if _may_need_explanation(pods, claims, jobs):
            events, _ = self._list("api/v1", "events")
        found = Objects(now, pods, claims, deployments, jobs, events)
        return found.of(release) if release else found

    def claim(self, name: str) -> Object | None:
        """Return a persistent volume claim, or None."""
        items, _ = self._list(
            "api/v1", "persistentvolumeclaims", fieldSelector=f"metadata.name={name}"
        )
        return items[0] if items else None

    def log(self, pod: str, container: str, previous: bool, n_lines: int) -> list[str]:
        """Return the last lines of a container; nothing if there are none any more."""
        query = {"container": container, "previous": str(previous).lower(), "tailLines": n_lines}
        try:
            answer = self._api.get(f"api/v1/{self._path('pods')}/{pod}/log", query)
        except ControlError as error:
            LOG.debug("%s: %s", pod, error)
            return []
        return str(answer.data.decode(errors="replace")).splitlines()

    def wait_until_gone(self, release: str) -> None:
        """Wait until nothing of a release exists.

        Raises
        ------
        PassingFailure: something still does.
        """
        deadline = time.monotonic() + GONE_S
        while left := self._left(release):
            if time.monotonic() > deadline:
                names = ", ".join(left)
                raise PassingFailure(f"{release}: {names} still there {GONE_S:g} s after removal")
            time.sleep(POLL_S)

    def _left(self, release: str) -> list[str]:
        left = []
        for api, kind in (
            ("api/v1", "pods"),
            ("api/v1", "persistentvolumeclaims"),
            ("apis/apps/v1", "deployments"),
            ("apis/batch/v1", "jobs"),
        ):
            items, _ = self._list(api, kind, labelSelector=f"{INSTANCE}={release}")
            left += [f"{kind}/{each['metadata']['name']}" for each in items]
        return left

    def _path(self, kind: str) -> str:
        return f"namespaces/{self.namespace}/{kind}"

    def _list(
        self, api: str, kind: str, accept: str = "application/json", **query: str
    ) -> tuple[list[Object], datetime]:
        """Return objects, and the time of the server."""
        answer = self._api.get(f"{api}/{self._path(kind)}", query, accept)
        date = answer.headers.get("Date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return json.loads(answer.data).get("items") or [], now


def _may_need_explanation(pods: list[Object], claims: list[Object], jobs: list[Object]) -> bool:
    """Whether events may say why something is not as it should be."""
    return (
        any(phase(each) == "Pending" for each in [*pods, *claims])
        # A job that cannot make its pod, or has none yet.
        or any(
            not {"active", "succeeded", "failed"} & (each.get("status") or {}).keys()
            for each in jobs
        )
    )
