"""Stand-alone systems by the real command line, each in a folder of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from batch_imaging.control.config import Config

MARKED = ("SERVICE", "DEPLOYMENT")


@dataclass(frozen=True)
class Standalone:
    """A folder, and the commands about the system in it."""

    folder: Path

    @property
    def environment(self):
        """Our environment, with no other system in it."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("SDP_", "TANGO_"))}
        return ours | {"BATCH_IMAGING_FOLDER": str(self.folder)}

    def popen(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "batch_imaging", *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments):
        """Run a command to its end; return exit code, stdout and stderr."""
        with self.popen(*arguments) as process:
            out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def do(self, *arguments):
        """Run a command that must succeed; return its stdout."""
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def status(self):
        return json.loads(self.run("status", "--json")[1])

    def pids(self):
        """Return the process ids of the running services by name."""
        services = self.status()["services"]
        return {name: each["pid"] for name, each in services.items() if each["pid"]}

    def ports(self):
        return json.loads((self.folder / "standalone.json").read_text())["ports"]

    def config(self):
        return Config("etcd3", "", host="127.0.0.1", port=self.ports()["etcd"])

    def device(self, name):
        import tango

        return tango.DeviceProxy(f"tango://127.0.0.1:{self.ports()['tango']}/mid_sdp/elt/{name}")

    def kill(self, name):
        """Kill a service and wait until it is gone."""
        process = psutil.Process(self.pids()[name])
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=10)

    def processes(self):
        """Return the living processes that have anything to do with the folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                marks = (
                    process.environ().get(f"BATCH_IMAGING_{w}") for w in ("SERVICE", "DEPLOYMENT")
                )
                if any(mark and mark.startswith(f"{self.folder}:") for mark in marks):
                    found.append(process)
        return found

    def clean_up(self):
        """Leave nothing running, whatever a test has done."""
        self.run("down")
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture(scope="package")
def running(tmp_path_factory):
    """A system that is up; tests leave it so."""
    system = Standalone(tmp_path_factory.mktemp("standalone") / "system")
    try:
        system.do("up")
        yield system
    finally:
        system.clean_up()


@pytest.fixture
def stopped(tmp_path):
    """A folder in which nothing has been started."""
    system = Standalone(tmp_path / "system")
    yield system
    system.clean_up()
