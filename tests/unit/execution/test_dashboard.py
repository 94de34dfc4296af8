"""How a dashboard is reached from the user's own machine."""

import pytest

from batch_imaging.errors import ParameterError
from batch_imaging.execution.dashboard import tunnel_command
from batch_imaging.execution.executor import SerialExecutor


@pytest.fixture
def shell(monkeypatch):
    for name in ("SSH_CONNECTION", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.usefixtures("shell")
def test_a_dashboard_on_this_machine_needs_no_tunnel():
    assert tunnel_command("127.0.0.1", 8787) is None


@pytest.mark.usefixtures("shell")
def test_a_remote_one_needs_ssh():
    assert tunnel_command("node7", 8787) == (
        "ssh -N -L 8787:127.0.0.1:8787 node7, then http://127.0.0.1:8787/status"
    )


def test_so_does_one_on_a_machine_that_the_user_has_logged_in_to(shell):
    shell.setenv("SSH_CONNECTION", "198.51.100.4 50022 203.0.113.9 22")
    command = tunnel_command("127.0.0.1", 8787)
    assert command is not None
    assert command.startswith("ssh -N -L 8787:127.0.0.1:8787 203.0.113.9,")


def test_one_in_kubernetes_is_forwarded(shell):
    shell.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    command = tunnel_command("engine-scheduler.sdp", 8787)
    assert command is not None
    assert command.startswith(
        "kubectl port-forward --namespace sdp service/engine-scheduler 8787:8787,"
    )


def test_a_performance_report_needs_workers(tmp_path):
    with pytest.raises(ParameterError, match="a performance report is of Dask's workers"):
        SerialExecutor().keep_performance_report(tmp_path / "dask.html")
