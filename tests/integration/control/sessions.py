"""A stand-alone system for tests, and a small observation to run in it."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from batch_imaging.control.config import Config, View
from batch_imaging.control.config.entities import Status
from batch_imaging.control.standalone.folder import Folder
from batch_imaging.control.standalone.service import running_services
from batch_imaging.control.standalone.system import System

DEADLINE_S = 90.0
SMALL: dict[str, Any] = {
    "n_workers": 2,
    "nfreqwin": 4,
    "ntimes": 3,
    "rmax": 300.0,
    "imaging": {"npixel": 256, "cellsize": 0.002},
}


def batch_imaging(*arguments: str) -> str:
    """Run the command line, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "batch_imaging", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def scheduling_block(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an AssignResources request: a real-time block, and a batch block after it."""
    realtime, batch = f"pb-{name}-20200523-00000", f"pb-{name}-20200523-00001"
    return {
        "id": f"sbi-{name}-20200523-00000",
        "max_length": 21600.0,
        "scan_types": [{"id": "science"}],
        "processing_blocks": [
            {
                "id": realtime,
                "workflow": {"type": "realtime", "id": "test_realtime", "version": "0.2.0"},
                "parameters": {},
            },
            {
                "id": batch,
                "workflow": {"type": "batch", "id": "batch_imaging", "version": "0.1.0"},
                "parameters": SMALL if parameters is None else parameters,
                "dependencies": [{"pb_id": realtime, "type": ["none"]}],
            },
        ],
    }


@dataclass
class StandAlone:
    """A system started by `batch-imaging up` in a folder of its own."""

    folder: Path

    def up(self) -> None:
        batch_imaging("up", "--folder", str(self.folder))

    def down(self) -> None:
        batch_imaging("down", "--folder", str(self.folder))
        assert self.processes() == []

    @property
    def system(self) -> System:
        system = System.of(Folder.at(self.folder))
        assert system is not None
        return system

    def config(self) -> Config:
        return self.system.config()

    def kill(self, service: str) -> None:
        """End a service without warning."""
        process = running_services(Folder.at(self.folder))[service]
        process.kill()
        psutil.wait_procs([process], timeout=DEADLINE_S)

    def device(self):
        """Return a proxy of subarray 1."""
        import tango

        return tango.DeviceProxy(self.system.device_url("mid_sdp/elt/subarray_1"))

    def processes(self) -> list[str]:
        """Return the commands of all processes that belong to the folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(str(self.folder) in value for value in process.environ().values()):
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found


def wait_until(config: Config, condition: Callable[[View], Any], what: str) -> Any:
    """Return what a condition on the database returns as soon as that is true."""
    deadline = time.monotonic() + DEADLINE_S
    with config.follow() as follower:
        while not (found := condition(follower.view)):
            states = {
                pb_id: follower.view.get_processing_block_state(pb_id)
                for pb_id in follower.view.list_processing_blocks()
            }
            assert time.monotonic() < deadline, f"{what} does not come; {states}"
            follower.wait(1.0)
        return found


def status_of(view: View, pb_id: str) -> Status | None:
    state = view.get_processing_block_state(pb_id)
    return state.status if state else None
