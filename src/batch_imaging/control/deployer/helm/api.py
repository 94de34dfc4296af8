"""The API of the cluster that this process runs in, or that KUBECONFIG names, as plain JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

from batch_imaging.errors import ControlError, PassingFailure, SettingError

TIMEOUT = urllib3.Timeout(connect=3.0, read=5.0)
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Headers = Callable[[], dict[str, str]]


class Api:
    """Asks the API server.

    Raises
    ------
    SettingError: this is no pod with a service account, and KUBECONFIG names no cluster.
    """

    def __init__(self) -> None:
        in_pod = "KUBECONFIG" not in os.environ and SERVICE_ACCOUNT.exists()
        self._address, self._pool, self._headers = _in_pod() if in_pod else _by_kubeconfig()

    def get(
        self, path: str, query: dict[str, Any] | None = None, accept: str = "application/json"
    ) -> urllib3.BaseHTTPResponse:
        return self.call("GET", path, query, accept)

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        accept: str = "application/json",
    ) -> urllib3.BaseHTTPResponse:
        """Make a request.

        Raises
        ------
        PassingFailure: the server does not answer, or cannot at the moment.
        ControlError: it refuses.
        """
        try:
            answer: urllib3.BaseHTTPResponse = self._pool.request(
                method,
                f"{self._address}/{path}",
                fields=query,
                headers=self._headers() | {"accept": accept},
                timeout=TIMEOUT,
                retries=urllib3.Retry(0, redirect=0),
            )
        except urllib3.exceptions.HTTPError as error:
            raise PassingFailure(f"{self._address}: no answer: {error}") from error
        if answer.status < 300:
            return answer
        try:
            message = json.loads(answer.data)["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.data[:200].decode(errors="replace")
        passes = answer.status >= 500 or answer.status in {409, 429}
        kind = PassingFailure if passes else ControlError
        raise kind(f"{self._address}: {answer.status}: {message}")


def _in_pod() -> tuple[str, urllib3.PoolManager, Headers]:
    """Return the way that a pod has, without the client library: its models take 35 MiB."""
    host, port = (os.environ[f"KUBERNETES_SERVICE_{each}"] for each in ("HOST", "PORT"))
    pool = urllib3.PoolManager(ca_certs=str(SERVICE_ACCOUNT / "ca.crt"))

    def headers() -> dict[str, str]:
        token = (SERVICE_ACCOUNT / "token").read_text()  # renewed every hour
        return {"authorization": f"Bearer {token}"}

    return f"https://{f'[{host}]' if ':' in host else host}:{port}", pool, headers


def _by_kubeconfig() -> tuple[str, urllib3.PoolManager, Headers]:
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        config.load_kube_config(client_configuration=settings)
    except config.ConfigException as error:
        raise SettingError(
            f"no cluster: {error}; set KUBECONFIG, or run in a pod with a service account"
        ) from error

    def headers() -> dict[str, str]:
        return {each["key"]: each["value"] for each in settings.auth_settings().values()}  # type: ignore[index]

    return str(settings.host), client.ApiClient(settings).rest_client.pool_manager, headers
