"""What the mains of both device servers do."""

import sys

from tango.server import Device, run

from batch_imaging.logging_format import configure_logging


def run_server(device_class: type[Device]) -> None:
    """Run the server of a class with the arguments of this process until it is told to end.

    Our log lines are in SKA's form, which has the transaction id; options such as -v4 are Tango's.
    """
    configure_logging("ska")
    run((device_class,), args=[device_class.__name__, *sys.argv[1:]], raises=True)
