"""Which configuration database a command is about."""

import os
from pathlib import Path

from batch_imaging.control.config import Config
from batch_imaging.control.standalone.folder import Folder
from batch_imaging.control.standalone.service import running_services
from batch_imaging.control.standalone.system import System
from batch_imaging.errors import ConfigUnavailable


def find_config(folder: Path | None = None) -> Config:
    """Return a client of the database of ``folder``, of the environment, or of the default folder.

    The first of them that is given counts; SDP_CONFIG_* means the environment.

    Raises
    ------
    ConfigUnavailable: none is given, and no stand-alone system runs; or it does not answer.
    """
    if folder is None and any(name.startswith("SDP_CONFIG_") for name in os.environ):
        return Config()
    place = Folder.at(folder)
    system = System.of(place)
    if system is None or "etcd" not in running_services(place):
        raise ConfigUnavailable(
            f"no configuration database: no stand-alone system runs in {place}; "
            "start it with `batch-imaging up`, or set SDP_CONFIG_HOST and SDP_CONFIG_PORT"
        )
    return system.config()
