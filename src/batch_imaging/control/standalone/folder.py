"""The folder of a stand-alone system: everything it keeps, and by which it is known.

standalone.json   ports and options; without it the folder is not ours
etcd/             the configuration database
tango.sqlite      the Tango database
logs/             output of services, scripts and engines
buffers/          what the scripts make
deployments/      the deployer's notes and scratch
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_imaging.errors import ControlError

SETTINGS = "standalone.json"
LOCK_TIMEOUT_S = 90.0

Port = Annotated[int, Field(ge=1, le=65535)]


class Ports(BaseModel):
    """Chosen by the kernel once, so that what is started again is found where it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    etcd: Port
    etcd_peer: Port
    tango: Port

    @classmethod
    def chosen_by_the_kernel(cls) -> Self:
        with ExitStack() as stack:
            sockets = {name: stack.enter_context(socket.socket()) for name in cls.model_fields}
            for each in sockets.values():
                each.bind(("127.0.0.1", 0))
            return cls(**{name: each.getsockname()[1] for name, each in sockets.items()})


class Settings(BaseModel):
    """What `up` was told, and holds until it is told otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ports: Ports
    subarrays: Annotated[int, Field(ge=1)] = 1
    max_workers: int | None = None
    max_buffers: str | None = None


def default_folder() -> Path:
    """Return $BATCH_IMAGING_FOLDER, or `batch-imaging` among the user's state files."""
    if folder := os.environ.get("BATCH_IMAGING_FOLDER"):
        return Path(folder)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "batch-imaging"


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder at an absolute path, which need not exist yet."""

    path: Path

    @classmethod
    def at(cls, path: Path | None = None) -> Self:
        """Return the folder at ``path``, or the default one."""
        return cls((path or default_folder()).expanduser().resolve())

    def __str__(self) -> str:
        return str(self.path)

    @property
    def buffers(self) -> Path:
        return self.path / "buffers"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, name: str) -> Path:
        """Return the log of a service or a deployment."""
        return self.logs / f"{name}.log"

    def settings(self) -> Settings | None:
        """Return the settings; None where nothing has been started yet.

        Raises
        ------
        ControlError: they cannot be read.
        """
        path = self.path / SETTINGS
        try:
            return Settings.model_validate_json(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            raise ControlError(
                f"{path}: cannot be read ({error}); mend it, or choose another --folder"
            ) from error

    def save(self, settings: Settings) -> None:
        """Write the settings, which makes the folder ours.

        Raises
        ------
        ControlError: it cannot be written to.
        """
        path = self.path / SETTINGS
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(f"{settings.model_dump_json(indent=2)}\n")
            partial.replace(path)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise ControlError(
                f"{path}: cannot be written ({error.strerror}); choose another --folder"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if need be, and keep other `up` and `down` out of it.

        Raises
        ------
        ControlError: it cannot be used, is somebody else's, or stays locked.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ControlError(
                f"{self}: cannot be used ({error.strerror}); choose another --folder"
            ) from error
        try:
            self._wait_for_lock(descriptor)
            if self.settings() is None and os.listdir(self.path):
                raise ControlError(
                    f"{self}: is not empty and not a stand-alone system; "
                    "choose another --folder, or an empty one"
                )
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _is_taken(descriptor):
            if time.monotonic() > deadline:
                raise ControlError(
                    f"{self}: another `up` or `down` has been at work there for more than "
                    f"{LOCK_TIMEOUT_S:.0f} s; end it, and try again"
                )
            time.sleep(0.1)


def _is_taken(descriptor: int) -> bool:
    """Take a lock, if nobody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
