"""A real etcd for the tests of the control system."""

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batch_imaging.control.config import Config
from batch_imaging.control.standalone.etcd_server import etcd_command


def free_ports(n: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Etcd:
    """An etcd server that can be stopped and started again, on the same ports and data."""

    folder: Path
    options: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    ports: list[int] = field(default_factory=lambda: free_ports(2))
    process: subprocess.Popen | None = None

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def endpoint(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "etcd.log"

    def environment(self, prefix: str = "") -> dict[str, str]:
        """Return what a child process needs in its environment to find this server."""
        return os.environ | {
            "SDP_CONFIG_HOST": self.host,
            "SDP_CONFIG_PORT": str(self.port),
            "SDP_CONFIG_PREFIX": prefix,
        }

    def config(self, prefix: str = "", **settings) -> Config:
        return Config("etcd3", prefix, host=self.host, port=self.port, **settings)

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self.folder.mkdir(exist_ok=True)
        command = etcd_command(self.folder / "data", *self.ports)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"etcd does not listen:\n{self.log.read_text()}")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


@pytest.fixture(scope="session")
def etcd(tmp_path_factory) -> Iterator[Etcd]:
    """A server that all tests share; each works under a prefix of its own."""
    server = Etcd(tmp_path_factory.mktemp("etcd"), ("--unsafe-no-fsync",))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def etcd_server(tmp_path) -> Iterator[Etcd]:
    """A running server for this test alone, to be stopped and started at will."""
    server = Etcd(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


PREFIX_NUMBERS = itertools.count()


@pytest.fixture
def config_prefix() -> str:
    """A prefix that no other test of this run uses."""
    return f"/test-{next(PREFIX_NUMBERS)}"


@pytest.fixture
def config(etcd, config_prefix) -> Iterator[Config]:
    """A client of the shared server, under the prefix of this test."""
    with etcd.config(config_prefix) as config:
        yield config
