"""The services of a stand-alone system, and the order in which they start and stop."""

import http.client
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import psutil

from batch_imaging.control.config import Config
from batch_imaging.control.standalone.etcd_server import etcd_command
from batch_imaging.control.standalone.folder import Folder, Ports, Settings
from batch_imaging.control.standalone.service import Launch, Service, running_services, stop
from batch_imaging.errors import ControlError

HOST = "127.0.0.1"
PROBE_TIMEOUT_S = 1.0
DEVICE_SERVER = "from batch_imaging.control.devices.{} import main; raise SystemExit(main())"


@dataclass(frozen=True, slots=True)
class System:
    """A stand-alone system that has been started at least once."""

    folder: Folder
    settings: Settings

    @classmethod
    def of(cls, folder: Folder) -> Self | None:
        """Return the system of a folder; None where none was ever started."""
        settings = folder.settings()
        return cls(folder, settings) if settings else None

    @property
    def exports(self) -> dict[str, str]:
        """The environment of those who talk to this system."""
        ports = self.settings.ports
        return {
            "TANGO_HOST": f"{HOST}:{ports.tango}",
            "SDP_CONFIG_HOST": HOST,
            "SDP_CONFIG_PORT": str(ports.etcd),
            "BATCH_IMAGING_FOLDER": str(self.folder),
        }

    def config(self) -> Config:
        """Return a client of this system's configuration database."""
        return Config("etcd3", "", host=HOST, port=self.settings.ports.etcd, protocol="http")

    def services(self) -> dict[str, Service]:
        """Return what belongs to the system, in an order in which it can start."""
        services = (self._etcd(), self._tango(), self._controller(), self._deployer())
        return {each.name: each for each in (*services, *self._devices())}

    def _etcd(self) -> Service:
        ports = self.settings.ports
        return Service(
            "etcd",
            tuple(etcd_command(self.folder.path / "etcd", ports.etcd, ports.etcd_peer)),
            self._environment(),
            lambda: _etcd_answers(ports.etcd),
            f"{HOST}:{ports.etcd}",
            (ports.etcd, ports.etcd_peer),
        )

    def _tango(self) -> Service:
        port = self.settings.ports.tango
        options = ("--host", HOST, "--port", str(port), "2")  # 2 is the customary instance name
        return Service(
            "tango",
            _python("-m", "tango.databaseds.database", *options),
            self._environment(PYTANGO_DATABASE_NAME=str(self.folder.path / "tango.sqlite")),
            lambda: _database_answers(port),
            f"{HOST}:{port}",
            (port,),
        )

    def _controller(self) -> Service:
        limits = {
            "--max-workers": self.settings.max_workers,
            "--max-buffers": self.settings.max_buffers,
        }
        options = (f"{name}={value}" for name, value in limits.items() if value is not None)
        command = _python("-m", "batch_imaging", "controller", *options)
        return Service("controller", command, self._environment(), self._is_led)

    def _is_led(self) -> bool:
        """Whether a controller acts; one that was killed does so until its lease has run out."""
        found = None
        with self.config() as config:
            for txn in config.txn():
                found = txn.raw.value("/leader/processing-controller")
        return found is not None

    def _deployer(self) -> Service:
        command = _python("-m", "batch_imaging", "deployer", "--folder", str(self.folder))
        return Service("deployer", command, self._environment(), self._is_deployer_at_work)

    def _is_deployer_at_work(self) -> bool:
        """Whether the deployer has come so far as to keep others out of its folder."""
        lock = str(self.folder.path / "deployer.lock")
        deployer = running_services(self.folder).get("deployer")
        try:
            return deployer is not None and lock in {each.path for each in deployer.open_files()}
        except psutil.NoSuchProcess:  # it has ended in this moment
            return False

    def _devices(self) -> list[Service]:
        numbers = range(1, self.settings.subarrays + 1)
        subarrays = [self._device(f"subarray-{number}", "subarray", number) for number in numbers]
        return [self._device("master", "master", 1), *subarrays]

    def _device(self, name: str, module: str, instance: int) -> Service:
        device = f"mid_sdp/elt/{name.replace('-', '_')}"
        return Service(
            name,
            _python("-c", DEVICE_SERVER.format(module), str(instance)),
            self._environment(ORBendPoint=f"giop:tcp:{HOST}:0"),
            lambda: _device_answers(self.device_url(device)),
            device,
        )

    def device_url(self, device: str) -> str:
        """Return the name of a device that holds whatever TANGO_HOST is."""
        return f"tango://{self.exports['TANGO_HOST']}/{device}"

    def _environment(self, **others: str) -> dict[str, str]:
        """Return the environment of a service: ours, but of databases it knows this system's."""
        ours = {name: each for name, each in os.environ.items() if not _is_connection(name)}
        return {**ours, **self.exports, "PYTHONUNBUFFERED": "1", **others}


def up(folder: Folder, new_ports: bool = False, **options: Any) -> tuple[System, list[str]]:
    """Start the services that do not run, and wait until they are ready.

    Parameters
    ----------
    options: of Settings, as far as they shall change.

    Returns
    -------
    the system, and the names of the services that have been started.

    Raises
    ------
    ControlError: the folder cannot be used, or a service does not start; then those that have
    been started are stopped.
    """
    with folder.locked():
        settings = folder.settings() or Settings(ports=Ports.chosen_by_the_kernel())
        if new_ports:
            if running := running_services(folder):
                raise ControlError(
                    f"{folder}: {', '.join(running)} would keep the old ports; "
                    "`batch-imaging down` first"
                )
            settings = settings.model_copy(update={"ports": Ports.chosen_by_the_kernel()})
        folder.save(settings)  # which makes the folder ours, and known where its services are
        system = System(folder, settings.model_copy(update=options))
        with Launch(folder) as launch:
            _start(system, launch)
            folder.save(system.settings)
            return system, launch.started


def _start(system: System, launch: Launch) -> None:
    etcd, tango, controller, deployer, *devices = system.services().values()
    launch.start(etcd, tango)
    launch.wait(etcd)
    launch.start(controller, deployer)
    launch.wait(tango)
    launch.start(*devices)
    launch.wait(controller, deployer, *devices)
    _switch_on(system)


def down(folder: Folder) -> list[str]:
    """Stop what runs and return the names; first what depends on others. All data stay."""
    if System.of(folder) is None:
        return []
    with folder.locked():
        running = running_services(folder)
        names = list(running)
        _stop(running, lambda name: name == "controller")
        _stop(running, lambda name: name == "deployer")
        _remove_deployed(folder)
        _stop(running, lambda name: name not in {"etcd", "tango"})
        _stop(running, lambda _: True)
        return names


def _stop(running: dict[str, psutil.Process], is_meant: Callable[[str], bool]) -> None:
    stop(running.pop(name) for name in list(running) if is_meant(name))


def _remove_deployed(folder: Folder) -> None:
    from batch_imaging.control.deployer.local import LocalDeployer

    LocalDeployer(folder.path).remove_all()


def _switch_on(system: System) -> None:
    """Turn subarray 1 On, unless somebody has given it a command before."""
    import tango

    subarray = None
    with system.config() as config:
        for txn in config.txn():
            subarray = txn.get_subarray("01")
    if subarray is None or subarray.last_command is None:
        try:
            tango.DeviceProxy(system.device_url("mid_sdp/elt/subarray_1")).On()
        except tango.DevFailed as error:
            raise ControlError(
                f"mid_sdp/elt/subarray_1: On() failed ({error.args[0].desc}); "
                f"see {system.folder.log('subarray-1')}"
            ) from error


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def _is_connection(name: str) -> bool:
    return name.startswith("SDP_CONFIG_") or name == "TANGO_HOST"


def _etcd_answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _database_answers(port: int) -> bool:
    import tango

    try:
        tango.Database(HOST, port).get_info()
    except tango.DevFailed:
        return False
    return True


def _device_answers(url: str) -> bool:
    import tango

    try:
        return bool(tango.DeviceProxy(url).state() != tango.DevState.UNKNOWN)
    except tango.DevFailed:
        return False
