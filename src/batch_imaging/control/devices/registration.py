"""The devices in a Tango database."""

import time

import tango

from batch_imaging.errors import ControlError

MASTER = "mid_sdp/elt/master"
SUBARRAY = "mid_sdp/elt/subarray_{}"
DEADLINE_S = 60.0
RETRY_S = 0.5


def register_device(device_class: str, instance: str) -> None:
    """Give the server `<class>/<instance>` its device, unless the database has one for it.

    The database may still be about to start. No attribute is polled and none has a limit of
    change: the devices send all changes themselves.

    Raises
    ------
    ControlError: the database of TANGO_HOST does not answer.
    """
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return _register(tango.Database(), device_class, instance)
        except tango.DevFailed as error:
            reason = error.args[0]
            if reason.reason == "API_TangoHostNotSet" or time.monotonic() > deadline:
                raise ControlError(
                    f"the Tango database cannot be used: {reason.desc.strip()}; "
                    "TANGO_HOST must be <host>:<port> of one that runs"
                ) from error
        time.sleep(RETRY_S)


def _register(database: tango.Database, device_class: str, instance: str) -> None:
    server = f"{device_class}/{instance}"
    if database.get_device_name(server, device_class):
        return
    info = tango.DbDevInfo()
    info.server, info._class = server, device_class
    info.name = MASTER if device_class == "SDPMaster" else SUBARRAY.format(instance)
    database.put_device_property(info.name, {"SkaLevel": "2"})
    database.add_device(info)
