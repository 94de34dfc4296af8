"""Workers through a real sshd on loopback, with keys of its own."""

import shutil
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from slurm_server import free_ports, wait_for

from batch_imaging.errors import EngineError
from batch_imaging.execution.engines import open_executor
from batch_imaging.parameters import Engine

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

GIB = 2**30
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
"""
CLIENT = """\
Host node1 node2
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/user
    UserKnownHostsFile {folder}/known_hosts
"""


@contextmanager
def running_sshd(folder: Path, *settings: str):
    """Run a server, and write what clients with `folder` as home need to know of it."""
    if SSHD is None:
        pytest.skip("needs sshd: apt-get install openssh-server")
    Path("/run/sshd").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    for name in ("host", "user"):
        keygen = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        subprocess.run(keygen, check=True, timeout=30)
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / ".ssh").mkdir()
    (folder / ".ssh" / "config").write_text(CLIENT.format(folder=folder, port=port))
    lines = [SERVER.format(folder=folder, port=port), *settings]
    (folder / "sshd_config").write_text("\n".join(lines))
    with (folder / "sshd.log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or answers(port))
        assert server.poll() is None, (folder / "sshd.log").read_text()
        yield psutil.Process(server.pid)
    finally:
        sessions = psutil.Process(server.pid).children(recursive=True)
        for process in (*sessions, server):
            process.kill()
        server.wait(30)


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wanted(**further: object) -> Engine:
    return Engine(name="ssh", hosts=("node1", "node2"), deadline=60.0, interface="lo", **further)


def test_units_run_however_much_workers_say_and_nothing_stays(tmp_path, monkeypatch):
    def say_much(unit: int) -> int:
        for stream in (sys.stdout, sys.stderr):
            stream.write(("x" * 9_999 + "\n") * 400)
        return unit

    monkeypatch.setenv("HOME", str(tmp_path))
    with running_sshd(tmp_path) as server:
        with open_executor(wanted(), 2, GIB) as executor:
            assert list(executor.map(say_much, range(4))) == [0, 1, 2, 3]
            assert len(server.children()) == 3
        wait_for(lambda: not server.children(recursive=True))


def test_a_host_without_this_environment_is_named_with_what_it_says(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with (
        running_sshd(tmp_path),
        pytest.raises(EngineError, match=r"node1.*has each host this Python environment"),
        open_executor(wanted(), 1, GIB),
    ):
        pass
    assert "/nowhere/python" in caplog.text


def test_a_host_that_hangs_is_not_waited_for_longer_than_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with running_sshd(tmp_path, "ForceCommand sleep 1000") as server:
        hasty = wanted().model_copy(update={"deadline": 2.0})
        with (
            pytest.raises(EngineError, match="node1 did not start in time"),
            open_executor(hasty, 1, GIB),
        ):
            pass
        wait_for(lambda: not server.children())
