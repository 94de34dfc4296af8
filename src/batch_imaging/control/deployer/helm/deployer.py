"""A deployment is a Helm release in one namespace; its chart is one of a folder.

Which releases are this deployer's is written on them, as labels: so it knows them after a restart,
and leaves alone what others have installed beside them.
"""

import logging
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    Status,
    is_pb_id,
)
from batch_imaging.control.deployer.helm.cluster import (
    CHART,
    FINGERPRINT,
    MARK,
    PB_ID,
    Cluster,
    Release,
)
from batch_imaging.control.deployer.helm.diagnosis import diagnose
from batch_imaging.control.deployer.helm.objects import Objects, has_condition, is_going, name_of
from batch_imaging.control.deployer.helm.postmortem import last_lines, logs_buffer, with_postmortem
from batch_imaging.control.deployer.helm.program import Helm
from batch_imaging.control.deployer.helm.values import fingerprint, nest, overlay
from batch_imaging.control.deployer.loop import pending
from batch_imaging.errors import ControlError, MalformedRecord, PassingFailure
from batch_imaging.kubernetes_names import engine_name, kubernetes_name, release_name

LOG = logging.getLogger(__name__)

ALIASES = {"dask": "dask-ee"}
BUFFER, ENGINE, WORKFLOW = "buffer", "dask-ee", "workflow"

LOOK_S = 1.0
LOOK_IDLE_S = 30.0
LOOK_AGAIN_S = 5.0
"""How often the cluster is looked at: while something may change, else, and after a failure."""
LOGS_S = 60.0
POLL_S = 1.0


class HelmDeployer:
    """Makes deployments real as Helm releases.

    Parameters
    ----------
    charts: folder of the charts.
    defaults: values of this installation by chart; an entry's values go before them.
    config: tells which processing blocks have failed, and what was said of deployments.
    owner: of the releases; another deployer in this namespace needs another.
    """

    def __init__(
        self,
        cluster: Cluster,
        helm: Helm,
        charts: Path,
        defaults: Mapping[str, Mapping[str, Any]],
        config: Config,
        owner: str,
    ) -> None:
        self._cluster = cluster
        self._helm = helm
        self._charts = {path.parent.name: path.parent for path in charts.glob("*/Chart.yaml")}
        self._defaults = defaults
        self._config = config
        self._owner = kubernetes_name(owner)
        self._installed: dict[str, str] = {}
        self._adopted: set[str] = set()
        self._going: set[str] = set()
        self._seen: Objects | None = None
        self._look_at_s = 0.0
        self._refusal = ""
        self._states: dict[str, tuple[Objects, DeploymentState]] = {}
        if not self._charts:
            raise ControlError(f"{charts}: has no charts; set BATCH_IMAGING_CHARTS to their folder")

    def recover(self, deploy_ids: Collection[str]) -> set[str]:
        """Return the deployments of earlier; one whose entry is gone has its release's name.

        Buffers do not count: data that nobody asks for any more are not ours to delete.
        """
        ids = {release_name(each): each for each in deploy_ids}
        ours = {
            ids.get(name, name): release
            for name, release in self._cluster.releases().items()
            if self._is_ours(release) and (name in ids or release.labels.get(CHART) != BUFFER)
        }
        self._installed = {
            deploy_id: release.labels.get(FINGERPRINT, "")
            for deploy_id, release in ours.items()
            if release.status == "deployed"
            and (release.labels.get(CHART) != BUFFER or self._has_made(deploy_id))
        }
        self._look_at_s = 0.0
        return set(ours)

    def install(self, deployment: Deployment) -> None:
        """Install the release of a deployment, or change it; one that is as it should be stays.

        What is left of an attempt that was cut off is taken over, with all that it has made. A
        buffer whose volume was there before is used as it is, whoever has made it.

        Raises
        ------
        PassingFailure: it may well work in a while.
        ControlError: chart or values are wrong, the name is taken, or the cluster refuses.
        """
        chart, values = self._wanted(deployment)
        name, wanted = release_name(deployment.id), fingerprint(chart, values)
        found = self._cluster.releases().get(name)
        if chart == BUFFER and self._was_there(deployment.id, wanted, found):
            LOG.info("%s: the volume is there and is used as it is", deployment.id)
            self._adopted.add(deployment.id)
        elif found and not self._is_ours(found):
            raise ControlError(
                f"{name}: somebody else has a Helm release of this name in namespace "
                f"{self._cluster.namespace}; uninstall it, or choose another id"
            )
        elif not found or (found.status, found.labels.get(FINGERPRINT)) != ("deployed", wanted):
            self._upgrade(name, chart, values, wanted, found)
        self._installed[deployment.id] = wanted
        self._states.pop(deployment.id, None)
        self._look_at_s = 0.0

    def is_current(self, deployment: Deployment) -> bool:
        """Whether it is installed as its entry says; later defaults are for later installations."""
        installed = self._installed.get(deployment.id)
        return installed is not None and installed == fingerprint(*self._wanted(deployment))

    def remove(self, deploy_id: str) -> None:
        """Uninstall a release of this deployer; of an engine that died, save the logs first."""
        name = release_name(deploy_id)
        release = self._cluster.releases().get(name)
        if release and self._is_ours(release):
            if release.labels.get(CHART) == ENGINE and release.status == "deployed":
                self._save_logs(deploy_id, release)
            self._going.add(name)
            self._helm.uninstall(name)
        if name in self._going:
            self._cluster.wait_until_gone(name)
            self._going.discard(name)
        self._installed.pop(deploy_id, None)
        self._adopted.discard(deploy_id)
        self._states.pop(deploy_id, None)

    def state(self, deployment: Deployment, written: DeploymentState | None) -> DeploymentState:
        objects = self._look()
        if objects is None:
            return written or pending(f"its state is not known: {self._refusal}")
        seen, state = self._states.get(deployment.id, (None, None))
        if state is None or seen is not objects:
            state = self._diagnose(deployment, objects, written)
            self._states[deployment.id] = objects, state
        return state

    def _diagnose(
        self, deployment: Deployment, objects: Objects, written: DeploymentState | None
    ) -> DeploymentState:
        name, namespace = release_name(deployment.id), self._cluster.namespace
        state = diagnose(objects.of(name), written, self._last_words)
        chart, values = self._wanted(deployment)
        where: dict[str, Any] = {}
        if chart == BUFFER:
            where = {"path": f"/buffer/{deployment.id}"}
            if deployment.id in self._adopted:
                where["adopted"] = True
        elif chart == WORKFLOW:
            where = {"log": f"kubectl logs -n {namespace} job/{name}"}
        elif chart == ENGINE:
            label = f"app.kubernetes.io/instance={name}"
            where = {"log": f"kubectl logs -n {namespace} --prefix -l {label}"}
            if state.status == DeploymentStatus.RUNNING:
                tree = overlay(self._defaults.get(chart, {}), values)
                port = tree.get("scheduler", {}).get("servicePort", 8786)
                where["scheduler"] = f"tcp://{engine_name(name)}-scheduler.{namespace}:{port}"
        return state.model_copy(update=where)

    def _look(self) -> Objects | None:
        """Return what exists in the namespace, as of not long ago."""
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + (LOOK_S if self._is_busy() else LOOK_IDLE_S)
            try:
                self._seen = self._cluster.objects()
                self._refusal = ""
            except ControlError as error:
                if not self._refusal:
                    LOG.warning("%s; states are those of before", error)
                self._refusal = str(error)
                self._look_at_s = now_s + LOOK_AGAIN_S
        return self._seen

    def _is_busy(self) -> bool:
        """Whether the state of something may change soon: it has not ended, and is no volume."""
        states = [self._states.get(each, (None, None))[1] for each in tuple(self._installed)]
        return any(
            state is None
            or state.status == DeploymentStatus.PENDING
            or (state.status == DeploymentStatus.RUNNING and state.path is None)
            for state in states
        )

    def _last_words(self, pod: str, container: str, previous: bool) -> str:
        lines = self._cluster.log(pod, container, previous, n_lines=20)
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _wanted(self, deployment: Deployment) -> tuple[str, dict[str, Any]]:
        """Return the chart and the values of an entry.

        Raises
        ------
        ControlError: there is no such chart, or the values' paths are none.
        """
        chart = ALIASES.get(deployment.chart, deployment.chart)
        if chart not in self._charts:
            known = ", ".join(sorted(self._charts))
            raise ControlError(
                f"{deployment.id}: chart {deployment.chart!r} is unknown here; there are {known}"
            )
        return chart, nest(deployment.values)

    def _is_ours(self, release: Release) -> bool:
        return release.labels.get(MARK) == self._owner

    def _was_there(self, deploy_id: str, wanted: str, found: Release | None) -> bool:
        """Whether a buffer's volume was there before its entry.

        Raises
        ------
        PassingFailure: it is there, but going.
        """
        if deploy_id in self._installed:
            return deploy_id in self._adopted
        if found and found.labels.get(CHART) != BUFFER:
            return False
        is_ours = found is not None and self._is_ours(found)
        if found and is_ours and found.status != "deployed":
            is_cut_off = found.labels.get(FINGERPRINT) == wanted
            if is_cut_off or found.status == "uninstalling":
                return False
        claim = self._cluster.claim(release_name(deploy_id))
        if claim and is_going(claim):
            raise PassingFailure(f"claim {name_of(claim)}: is being deleted")
        return claim is not None and not (is_ours and self._has_made(deploy_id))

    def _has_made(self, deploy_id: str) -> bool:
        """Whether a buffer's volume was made for its entry, as was said of it."""
        state = None
        for txn in self._config.txn():
            with suppress(MalformedRecord):
                state = txn.get_deployment_state(deploy_id)
        return state is not None and state.path is not None and not state.adopted

    def _upgrade(
        self, name: str, chart: str, values: dict[str, Any], wanted: str, found: Release | None
    ) -> None:
        if found and found.status.startswith("pending"):
            # Nobody works on it: there is one deployer. Helm takes over what it finds of it.
            self._cluster.forget(found)
        elif found and found.status == "uninstalling":
            self._helm.uninstall(name)
            self._cluster.wait_until_gone(name)
        labels = {MARK: self._owner, CHART: chart, FINGERPRINT: wanted}
        if pb_id := values.get("pb_id"):
            labels[PB_ID] = kubernetes_name(str(pb_id))
        try:
            self._helm.upgrade(
                name, self._charts[chart], overlay(self._defaults.get(chart, {}), values), labels
            )
        except PassingFailure:
            raise
        except ControlError:
            if found is None:
                with suppress(ControlError):  # else it goes with the entry
                    self._helm.uninstall(name)
            raise

    def _save_logs(self, deploy_id: str, release: Release) -> None:
        """Copy the last lines of what died into a buffer, or if that fails into our own log."""
        _, state = self._states.get(deploy_id, (None, None))
        values = self._cluster.values(release)
        has_failed = state is not None and state.status == DeploymentStatus.FAILED
        logs = last_lines(
            self._cluster.objects(release.name),
            self._cluster.log,
            also_living=has_failed or self._has_block_failed(str(values.get("pb_id", ""))),
        )
        if not logs:
            return
        try:
            buffer = logs_buffer(values)
            if buffer is None:
                raise ControlError("it has no buffer")
            after = with_postmortem(values, logs, buffer)
            self._helm.upgrade(release.name, self._charts[ENGINE], after, {})
            self._wait_for_copy(release.name)
            LOG.info("%s: logs of %s are in /buffer/%s/logs", deploy_id, ", ".join(logs), buffer)
        except ControlError as error:
            LOG.warning("%s: its logs were not saved: %s", deploy_id, error)
            for name, text in logs.items():
                LOG.warning("%s: the last of %s:\n%s", deploy_id, name, text)

    def _has_block_failed(self, pb_id: str) -> bool:
        state = None
        if is_pb_id(pb_id):
            for txn in self._config.txn():
                state = txn.get_processing_block_state(pb_id)
        return state is not None and state.status == Status.FAILED

    def _wait_for_copy(self, release: str) -> None:
        deadline = time.monotonic() + LOGS_S
        name = f"{engine_name(release)}-logs"
        while time.monotonic() < deadline:
            for job in self._cluster.objects(release).jobs:
                if has_condition(job, "Complete"):
                    return
                if has_condition(job, "Failed"):
                    raise ControlError(f"job {name} has failed")
            time.sleep(POLL_S)
        raise PassingFailure(f"job {name} did not end within {LOGS_S:g} s")
