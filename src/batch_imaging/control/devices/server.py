"""What the mains of both device servers do."""

import logging
import sys

import tango
from tango.server import Device, run

from batch_imaging.errors import ControlError
from batch_imaging.logging_format import configure_logging

LOG = logging.getLogger(__name__)


def run_server(device_class: type[Device]) -> int:
    """Run the server of a class with the arguments of this process until it is told to end.

    Our log lines are in SKA's form, which has the transaction id; options such as -v4 are Tango's.
    """
    configure_logging("ska")
    name = device_class.__name__
    try:
        run((device_class,), args=[name, *sys.argv[1:]], raises=True)
    except tango.DevFailed as error:
        reasons = "; ".join(each.desc.strip() for each in error.args)
        LOG.critical(
            "%s: cannot start: %s (TANGO_HOST is %s; the devices must be in its database)",
            " ".join([name, *sys.argv[1:]]),
            reasons,
            tango.ApiUtil.get_env_var("TANGO_HOST") or "not set",
        )
        return ControlError.exit_code
    return 0
