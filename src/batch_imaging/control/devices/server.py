"""What the mains of both device servers do."""

import os
import sys
from pathlib import Path

from tango.server import Device, run

from batch_imaging.control.devices.registration import register_device
from batch_imaging.logging_format import configure_logging


def run_server(device_class: type[Device]) -> None:
    """Run the server of a class with the arguments of this process until it is told to end.

    The first argument is the instance; a device that is not in the database yet is entered.
    Our log lines are in SKA's form, which has the transaction id; options such as -v4 are Tango's.
    While its devices can be reached there is the file that BATCH_IMAGING_READY_FILE names, for a
    probe: the port of a server is open before.
    """
    configure_logging("ska")
    mark = os.environ.get("BATCH_IMAGING_READY_FILE")
    ready = Path(mark) if mark else None
    if ready:
        ready.unlink(missing_ok=True)
    instance = next(iter(sys.argv[1:]), "-?")
    if not instance.startswith("-") and "-nodb" not in sys.argv:
        register_device(device_class.__name__, instance)
    arguments = [device_class.__name__, *sys.argv[1:]]
    said = ready.touch if ready else None
    run((device_class,), args=arguments, raises=True, post_init_callback=said)
