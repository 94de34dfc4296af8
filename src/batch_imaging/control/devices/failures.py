"""How a refused command reaches the client: as a DevFailed with a reason that clients test for."""

from typing import NoReturn

import tango

from batch_imaging.control.devices.states import NotAllowed
from batch_imaging.errors import ControlError


def throw(device_class: str, command: str, error: ControlError) -> NoReturn:
    """Raise DevFailed for an error of a command.

    Raises
    ------
    DevFailed: always.
    """
    if isinstance(error, NotAllowed):
        reason, origin = "API_CommandNotAllowed", f"{device_class}.is_{command}_allowed()"
    else:
        reason, origin = "API_CommandFailed", f"{device_class}.{command}()"
    tango.Except.throw_exception(reason, str(error), origin)
    raise AssertionError  # not reached: what is above always raises
