"""What Dask shows of its work: pages while it runs, and a report of them to keep."""

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from distributed import Client, performance_report

from batch_imaging.errors import ParameterError

LOG = logging.getLogger(__name__)


def announce_dashboard(client: Client) -> None:
    """Log where the scheduler's dashboard is, if it has one, and how to reach it from afar."""
    try:
        node = client.run_on_scheduler(_node_of_dashboard)
    except Exception as error:  # a scheduler of another installation need not know this package
        LOG.debug("no dashboard: %s", error)
        return
    if node is None:
        return
    link = urlsplit(client.dashboard_link)
    host = "127.0.0.1" if node == platform.node() else link.hostname or node
    LOG.info("Dask's dashboard: http://%s:%s/status", host, link.port)
    if command := tunnel_command(host, link.port or 80):
        LOG.info("Dask's dashboard, from another machine: %s", command)


def tunnel_command(host: str, port: int) -> str | None:
    """Return what makes a dashboard visible on the user's own machine.

    None where it is visible anyway: on this machine, to which nobody has logged in from another.
    """
    here = os.environ.get("SSH_CONNECTION", "").split()[2:3]  # as the user's machine calls us
    login = host if host != "127.0.0.1" else "".join(here)
    if not login:
        return None
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        name, _, namespace = host.partition(".")
        where = f" --namespace {namespace}" if namespace else ""
        command = f"kubectl port-forward{where} service/{name} {port}:{port}"
    else:
        command = f"ssh -N -L {port}:127.0.0.1:{port} {login}"
    return f"{command}, then http://127.0.0.1:{port}/status"


@contextmanager
def kept_performance_report(path: Path) -> Iterator[None]:
    """Write Dask's performance report of what is done inside.

    Raises
    ------
    ParameterError: bokeh, which draws it, is not installed.
    """
    if find_spec("bokeh") is None:
        raise ParameterError(
            f"{path}: a performance report is drawn by bokeh; install batch-imaging[dashboard]"
        )
    report = performance_report(filename=str(path))
    report.__enter__()
    try:
        yield
    finally:
        try:
            report.__exit__(None, None, None)
        except Exception as error:  # that the scheduler is gone must not hide why
            LOG.warning("%s: no performance report: %s", path, error)


def _node_of_dashboard() -> str | None:
    return platform.node() if "distributed.dashboard.scheduler" in sys.modules else None
