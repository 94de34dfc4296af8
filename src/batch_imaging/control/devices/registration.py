"""The devices in a Tango database."""

from collections.abc import Iterator

import tango

MASTER = "mid_sdp/elt/master"
SUBARRAY = "mid_sdp/elt/subarray_{}"


def devices(n_subarrays: int) -> Iterator[tuple[str, str, str]]:
    """Yield the server with its instance, the class and the name of each device."""
    yield "SDPMaster/1", "SDPMaster", MASTER
    for number in range(1, n_subarrays + 1):
        yield f"SDPSubarray/{number}", "SDPSubarray", SUBARRAY.format(number)


def register_devices(n_subarrays: int) -> None:
    """Enter the devices in the database of TANGO_HOST; those that are there stay as they are.

    No attribute is polled and none has a limit of change: the devices send all changes themselves.

    Raises
    ------
    DevFailed: the database does not answer.
    """
    database = tango.Database()
    for server, device_class, name in devices(n_subarrays):
        if name in database.get_device_name(server, device_class):
            continue  # entered anew, a device that runs would count as not exported
        info = tango.DbDevInfo()
        info.server, info._class, info.name = server, device_class, name
        database.add_device(info)
        database.put_device_property(name, {"SkaLevel": "2"})
