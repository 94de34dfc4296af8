"""The program helm, played by a script that does what its test wants."""

import pytest
import yaml

from batch_imaging.control.deployer.helm import program
from batch_imaging.control.deployer.helm.program import Helm, reason_of
from batch_imaging.errors import ControlError, PassingFailure, SettingError


@pytest.fixture
def helm(tmp_path):
    def make(script, timeout_s=20.0):
        path = tmp_path / "helm"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        path.chmod(0o755)
        return Helm(str(path), "sdp", timeout_s)

    return make


def test_values_arrive_as_they_are(helm, tmp_path):
    values = {"env": {"A": 'a,b={"c"}\\ \n', "N": "12", "E": "", "Y": "yes"}, "n": 2, "l": [None]}
    install = helm('cp "$6" values.yaml; echo "$@" >arguments')
    install.upgrade("a", tmp_path, values, {"k": "v", "w": "x"})
    assert yaml.safe_load((tmp_path / "values.yaml").read_text()) == values
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:4] == ["upgrade", "--install", "a", str(tmp_path)]
    assert arguments[6:] == [
        *("--labels=k=v", "--labels=w=x", "--history-max", "2"),
        *("--namespace", "sdp", "--timeout", "20s"),
    ]


@pytest.mark.parametrize(
    ("stderr", "passes"),
    [
        (
            "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress",
            True,
        ),
        ("Error: kubernetes cluster unreachable: dial tcp 127.0.0.1: connection refused", True),
        ("Error: INSTALLATION FAILED: etcdserver: request timed out", True),
        ("Error: the server is currently unable to handle the request", True),
        ("Error: values don't meet the specifications of the schema(s):\n- at '/x': no", False),
        ('Error: persistentvolumeclaims "a" is forbidden: exceeded quota: small', False),
        ("Error: no such thing", False),
    ],
)
def test_failures_that_may_pass_are_told_from_others(helm, stderr, passes):
    fails = helm(f"cat >&2 <<'END'\n{stderr}\nEND\nexit 1")
    with pytest.raises(ControlError) as caught:
        fails.uninstall("a")
    assert isinstance(caught.value, PassingFailure) is passes
    assert str(caught.value) == "helm uninstall: " + " ".join(
        stderr.removeprefix("Error: ").split()
    )


def test_a_run_has_a_deadline(helm, monkeypatch):
    monkeypatch.setattr(program, "GRACE_S", 0.0)
    with pytest.raises(PassingFailure, match=r"helm uninstall did not end within 0\.2 s"):
        helm("exec sleep 60", timeout_s=0.2).uninstall("a")


def test_no_helm():
    with pytest.raises(SettingError, match="there is no such program; install Helm"):
        Helm("/no/helm", "sdp", 1.0).uninstall("a")


def test_warnings_are_no_reason():
    text = "WARNING: Kubernetes configuration file is group-readable\nlevel=WARN x\nError: a\n  b\n"
    assert reason_of(text) == "a b"
