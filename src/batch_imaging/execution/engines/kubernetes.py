"""Workers as pods that the operator of dask-kubernetes makes, where it is installed."""

import logging
import os
import uuid
from typing import Any

from batch_imaging.errors import EngineError, ParameterError
from batch_imaging.execution.engines.batch_jobs import COMMAND_S
from batch_imaging.execution.engines.settings import inherited_settings
from batch_imaging.parameters import Engine as EngineParameters

LOG = logging.getLogger(__name__)

API_GROUP, API_VERSION = "kubernetes.dask.org", "v1"


class KubernetesEngine:
    """A DaskCluster in the namespace of KUBECONFIG; its operator replaces pods."""

    def __init__(self, wanted: EngineParameters, memory_bytes: int) -> None:
        if not wanted.image:
            raise ParameterError("engine kubernetes: of which image? Set engine.image=NAME:TAG")
        self.cores = wanted.cores
        self.wanted = wanted
        self.memory_bytes = memory_bytes
        self._cluster: Any = None

    def start(self, n_workers: int, deadline_s: float) -> str:
        require_operator()
        from dask_kubernetes.operator import KubeCluster

        resources = {"memory": str(self.memory_bytes), "cpu": str(self.cores)}
        try:
            self._cluster = KubeCluster(
                name=f"batch-imaging-{uuid.uuid4().hex[:8]}",
                image=self.wanted.image,
                n_workers=n_workers,
                resources={"requests": resources, "limits": resources},
                env={"DASK_INTERNAL_INHERIT_CONFIG": inherited_settings()},
                worker_command=["dask-worker", "--nthreads", "1"],
                resource_timeout=int(deadline_s),
                quiet=True,
            )
        except Exception as error:
            raise EngineError(f"engine kubernetes: {error}") from error
        return str(self._cluster.scheduler_address)

    def trouble(self) -> str:
        return f"kubectl describe daskcluster {self._cluster.name} may say why"

    def scale(self, n_workers: int) -> None:
        """Do nothing: the operator replaces pods."""

    def logs(self) -> dict[str, str]:
        return dict(self._cluster.get_logs()) if self._cluster is not None else {}

    def stop(self) -> None:
        if self._cluster is not None:
            try:
                self._cluster.close(timeout=COMMAND_S)
            except TimeoutError:
                LOG.warning(
                    "delete what is left: kubectl delete daskcluster %s", self._cluster.name
                )


def require_operator() -> None:
    """Ask the cluster whether it knows what the operator defines.

    Raises
    ------
    EngineError: it does not, or there is no cluster.
    """
    import urllib3
    from kubernetes import client, config

    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config()
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"))
        client.CustomObjectsApi().get_api_resources(API_GROUP, API_VERSION, _request_timeout=10)
    except client.ApiException as error:
        if error.status != 404:
            raise EngineError(f"engine kubernetes: {error.status} {error.reason}") from error
        raise EngineError(
            "engine kubernetes: this cluster has no operator of dask-kubernetes, for the CRD "
            f"daskclusters.{API_GROUP} is missing; have its administrator install the Helm chart "
            "dask-kubernetes-operator, or use --engine address with a scheduler that is there"
        ) from error
    except (config.ConfigException, urllib3.exceptions.HTTPError) as error:
        raise EngineError(f"engine kubernetes: no cluster by KUBECONFIG: {error}") from error
