"""A real Tango database, and device servers as processes."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

tango = pytest.importorskip("tango")

from batch_imaging.control.devices.registration import MASTER, SUBARRAY  # noqa: E402

DEADLINE_S = 30


def wait_until(condition, what, deadline_s=DEADLINE_S):
    """Wait until a condition holds and return its value."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return value


@dataclass
class DeviceServer:
    """The process of a device server, which can be stopped and started again."""

    module: str
    instance: str
    device: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen | None = None

    def start(self):
        code = f"import sys; from {self.module} import main; sys.exit(main())"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, self.instance, "-v4"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        return self

    def proxy(self):
        """Return a proxy of the device as soon as it answers."""

        def answering():
            assert self.process.poll() is None, self.log.read_text()
            try:
                proxy = tango.DeviceProxy(self.device)
                proxy.ping()
            except tango.DevFailed:
                return None
            return proxy

        return wait_until(answering, f"{self.device} answers")

    def end(self, kill=False):
        if self.process:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(DEADLINE_S)
            self.process = None


@pytest.fixture(scope="session")
def tango_host(tmp_path_factory) -> Iterator[str]:
    """The address of a database of our own, also in this process's TANGO_HOST."""
    folder = tmp_path_factory.mktemp("tango")
    log = folder / "database.log"
    command = [sys.executable, "-m", "tango.databaseds.database"]
    options = ["--host", "127.0.0.1", "--port", "0", "--print-host-port", "2"]
    environment = os.environ | {"PYTANGO_DATABASE_NAME": str(folder / "tango.db")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *options], env=environment, cwd=folder, stdout=file, stderr=file
        )
    with pytest.MonkeyPatch.context() as patch:
        try:
            found = wait_until(
                lambda: process.poll() is not None or re.search(r"port=(\d+)", log.read_text()),
                "the Tango database says its port",
            )
            assert process.poll() is None, log.read_text()
            host = f"127.0.0.1:{found[1]}"
            patch.setenv("TANGO_HOST", host)
            yield host
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def start_subarray(tango_host, tmp_path_factory):
    """A function that starts the server of a subarray on an etcd, under a prefix."""
    started = []

    def start(number, etcd, prefix=""):
        server = DeviceServer(
            "batch_imaging.control.devices.subarray",
            str(number),
            SUBARRAY.format(number),
            etcd.environment(prefix) | {"TANGO_HOST": tango_host},
            tmp_path_factory.mktemp("subarray") / "log",
        )
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.end()


@pytest.fixture(scope="module")
def start_master(tango_host, tmp_path_factory):
    """A function that starts the server of the master."""
    started = []

    def start():
        server = DeviceServer(
            "batch_imaging.control.devices.master",
            "1",
            MASTER,
            os.environ | {"TANGO_HOST": tango_host},
            tmp_path_factory.mktemp("master") / "log",
        )
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.end()
