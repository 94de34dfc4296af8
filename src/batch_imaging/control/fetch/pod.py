"""The pod that a claim is read through. It ends by itself when its time is over."""

import json
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from batch_imaging.control.fetch import remote
from batch_imaging.control.fetch.kubectl import Kubectl
from batch_imaging.control.fetch.transfer import SourceLost
from batch_imaging.errors import ControlError, DataError, ParameterError
from batch_imaging.kubernetes_names import release_name

LOG = logging.getLogger(__name__)

START_DEADLINE_S = 120.0
UNSCHEDULABLE_S = 30.0
"""How long a pod may find no node; a volume that is being made takes a moment."""
POLL_S = 1.0
MOUNT = "/buffer"
NAME_LABEL = "app.kubernetes.io/name"
PART_OF = "app.kubernetes.io/part-of=batch-imaging"
FATAL = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)


class FetchPod:
    """A pod with a claim mounted, as a context; a source for `fetch`.

    Parameters
    ----------
    claim: its name, which is a buffer's unless that is too long or has capitals.
    image: with Python in it; None for that of our workloads there.
    lifetime_s: after which the cluster ends the pod, whatever became of us.

    Raises
    ------
    DataError: there is no such claim.
    ParameterError: no image is given, and none found.
    ControlError: the pod does not start.
    """

    def __init__(self, kubectl: Kubectl, claim: str, image: str | None, lifetime_s: int) -> None:
        self._kubectl = kubectl
        self._claim = claim
        self._image = image
        self._lifetime_s = lifetime_s
        self.name = f"fetch-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        self._check_claim()
        image = self._image or find_image(self._kubectl)
        pod = _pod(self.name, self._claim, image, self._lifetime_s)
        try:
            self._kubectl.run("create", "-f", "-", standard_input=json.dumps(pod))
            self._wait()
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._delete()

    @contextmanager
    def ask(self, command: str, argument: Any) -> Iterator[IO[bytes]]:
        """Yield what `remote` writes in the pod."""
        program = Path(remote.__file__).read_text()
        try:
            with self._kubectl.stream(
                *("exec", "-i", self.name, "--", "python", "-c", program, command, MOUNT),
                standard_input=json.dumps(argument),
            ) as stream:
                yield stream
        except SourceLost as error:
            self._check_alive(error)
            raise

    def _check_claim(self) -> None:
        claims = [each["metadata"]["name"] for each in self._kubectl.get("pvc")["items"]]
        if self._claim not in claims:
            self._claim = release_name(self._claim)
        if self._claim not in claims:
            there = f"there are {', '.join(sorted(claims))}" if claims else "there is none"
            raise DataError(
                f"{self._claim}: no such claim in namespace {self._kubectl.namespace}; {there} "
                "(-n chooses another namespace)"
            )

    def _wait(self) -> None:
        begin_s = time.monotonic()
        while True:
            pod = self._kubectl.get("pod", self.name)
            if pod["status"].get("phase") == "Running":
                return
            waited_s = time.monotonic() - begin_s
            reason, words = trouble(pod)
            if (
                reason in FATAL
                or pod["status"].get("phase") == "Failed"
                or (reason == "Unschedulable" and waited_s > UNSCHEDULABLE_S)
                or waited_s > START_DEADLINE_S
            ):
                said = filter(None, (words, *map(self._last_warning, (self.name, self._claim))))
                raise ControlError(
                    f"pod {self.name} did not start within {waited_s:.0f} s: "
                    f"{': '.join((reason, *dict.fromkeys(said)))}"
                )
            time.sleep(POLL_S)

    def _last_warning(self, name: str) -> str:
        """Return what was last complained of about the pod or its claim."""
        selector = f"--field-selector=involvedObject.name={name},type=Warning"
        events = self._kubectl.get("events", selector)["items"]
        return str(events[-1]["message"]) if events else ""

    def _check_alive(self, cause: Exception) -> None:
        """Tell the end of the pod from a broken stream.

        Raises
        ------
        ControlError: the pod has ended.
        """
        pod = self._kubectl.get("pod", self.name)
        if pod["status"].get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
            reason, words = trouble(pod)
            raise ControlError(f"pod {self.name} has ended: {reason}: {words}") from cause

    def _delete(self) -> None:
        try:
            self._kubectl.run("delete", "pod", self.name, "--ignore-not-found", "--wait=false")
        except ControlError as error:
            LOG.warning(
                "pod %s was not deleted: %s; it ends by itself within %d s",
                *(self.name, error, self._lifetime_s),
            )


def find_image(kubectl: Kubectl) -> str:
    """Return the image of our newest workload in the namespace, else of those we may see.

    Raises
    ------
    ParameterError: there is none.
    """
    for where in ((), ("--all-namespaces",)):
        try:
            found = kubectl.get("pods,jobs", *where, "-l", f"{PART_OF},{NAME_LABEL}!=fetch")
        except ControlError:  # not allowed
            continue
        workloads = sorted(found["items"], key=lambda each: each["metadata"]["creationTimestamp"])
        if workloads:
            spec = workloads[-1]["spec"]
            return str(spec.get("template", workloads[-1])["spec"]["containers"][0]["image"])
    raise ParameterError(
        f"no pod or job of batch-imaging is left in namespace {kubectl.namespace} whose image "
        "could be used; name one with --image, as in --image batch-imaging:0.1.0"
    )


def trouble(pod: dict[str, Any]) -> tuple[str, str]:
    """Return why a pod does not run, in a word and in words."""
    status = pod["status"]
    for container in status.get("containerStatuses", []):
        if waiting := container["state"].get("waiting"):
            return waiting.get("reason", "Waiting"), waiting.get("message", "")
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    return status.get("reason", status.get("phase", "Unknown")), status.get("message", "")


def _pod(name: str, claim: str, image: str, lifetime_s: int) -> dict[str, Any]:
    labels = {
        NAME_LABEL: "fetch",
        "app.kubernetes.io/component": "fetch",
        "app.kubernetes.io/part-of": "batch-imaging",
        "app.kubernetes.io/managed-by": "batch-imaging",
    }
    # Only the mount is read-only: a volume that is must not be mounted elsewhere to be written to.
    mount = {"name": "buffer", "mountPath": MOUNT, "readOnly": True}
    container = {
        "name": "fetch",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", str(lifetime_s)],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [mount],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "activeDeadlineSeconds": lifetime_s,
            "automountServiceAccountToken": False,
            "containers": [container],
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsGroup": 1000,
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "buffer", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
