"""Services: processes that outlive the command that starts them, and are found again.

A service carries its folder and name in its environment. So no note of process ids can be wrong:
what runs is what the system says that runs.
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from batch_imaging.control.standalone.folder import Folder
from batch_imaging.errors import ControlError

MARK = "BATCH_IMAGING_SERVICE"
# As in deployer.processes, whose import would cost every command half a second.
DEPLOYED_MARK = "BATCH_IMAGING_DEPLOYMENT"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Service:
    """A process that should run.

    Attributes
    ----------
    address: where it is reached, for people.
    ports: that must be free on the loopback address before it starts.
    is_ready: whether it answers; asked again and again while it starts.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    address: str = ""
    ports: tuple[int, ...] = ()


def running_services(folder: Folder) -> dict[str, psutil.Process]:
    """Return the processes of a folder's services by name."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            path, _, name = environment.get(MARK, "").rpartition(":")
            if path == str(folder) and DEPLOYED_MARK not in environment:
                found[name] = process
    return found


def stop(processes: Iterable[psutil.Process]) -> None:
    """End processes: ask them at the same time, after a deadline force them."""
    processes = list(processes)
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                send(process)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (processes := [each for each in processes if _is_alive(each)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(POLL_S)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Launch:
    """Starts services that do not run; if that fails, stops again those that it has started.

    Attributes
    ----------
    started: names of the services that did not run.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._running = running_services(folder)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            stop(
                psutil.Process(each.pid) for each in self._processes.values() if each.poll() is None
            )

    @property
    def started(self) -> list[str]:
        return list(self._processes)

    def start(self, *services: Service) -> None:
        """Start those that do not run, and anew those that run with another command.

        Raises
        ------
        ControlError: a port that they need is taken.
        """
        for service in services:
            if running := self._running.get(service.name):
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended in this moment
                    if tuple(running.cmdline()) == service.command:
                        continue
                stop([running])
            _check_ports(service)
            with self._folder.log(service.name).open("ab") as log:
                self._processes[service.name] = subprocess.Popen(
                    service.command,
                    cwd=self._folder.path,
                    env={**service.environment, MARK: f"{self._folder}:{service.name}"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def wait(self, *services: Service) -> None:
        """Wait until those that have been started are ready.

        Raises
        ------
        ControlError: one has ended, or is not ready before the deadline.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        for service in services:
            process = self._processes.get(service.name)
            while process:
                if (code := process.poll()) is not None:
                    raise ControlError(
                        f"{service.name}: ended with code {code}; {self._last(service)}"
                    )
                if service.is_ready():
                    break
                if time.monotonic() > deadline:
                    raise ControlError(
                        f"{service.name}: is not ready after {START_TIMEOUT_S:.0f} s; "
                        f"{self._last(service)}"
                    )
                time.sleep(POLL_S)

    def _last(self, service: Service) -> str:
        log = self._folder.log(service.name)
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        return f"its log {log} ends in: {last}"


def _check_ports(service: Service) -> None:
    for port in service.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ControlError(
                    f"{service.name}: its port {port} is taken by {_holder(port)}; end that, or "
                    "move this system: `batch-imaging down`, then `batch-imaging up --new-ports`"
                ) from error


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{' '.join(process.cmdline())[:80]} (process {connection.pid})"
    return "another program"
